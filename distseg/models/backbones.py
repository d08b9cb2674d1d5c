"""Encoders of ImageNet: dilated ResNets (He et al. 2016) and VGG16 (Simonyan & Zisserman 2015).

Parameters are named and shaped as torchvision's. The `deep` stem, three 3x3 convolutions to 128 channels as in the
authors' PSPNet, is named as theirs; ResNet-269 is theirs, too.

`ResNet.forward` maps images_B3HW to the outputs of its four stages. A stage with dilation 1 strides by 2 (but for the
first stage, which never does); a dilated one keeps its resolution. With the default dilations (1, 2, 4) of stages 2, 3
and 4 the output stride is 8.

The dilation holds for *every* 3x3 convolution of its stage, as in the authors' PSPNet; torchvision leaves the first
block of a dilated stage at the previous stage's dilation. As in torchvision, a Bottleneck strides in its 3x3.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from distseg.models import timm_encoders
from distseg.models.checkpointing import Blocks
from distseg.models.timm_encoders import TimmEncoder

Dilations = tuple[int, int, int]  # of the 3x3 convolutions of stages 2, 3 and 4

STAGE_WIDTHS = (64, 128, 256, 512)


def _conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut's projection, where the block changes the shape."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride, dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, 1, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += shortcut
        out: Tensor = self.relu(y)
        return out


class Bottleneck(nn.Module):
    """1x1 down to `width`, 3x3, 1x1 up to four times `width` (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += shortcut
        out: Tensor = self.relu(y)
        return out


def _initialise_convolution(convolution: nn.Conv2d) -> None:
    """He et al. 2015. On the meta device there is nothing to draw, and PyTorch would load its compiler to do so."""
    if not convolution.weight.is_meta:
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """The four stages, without the average pooling and the classifier."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        stage_depths: tuple[int, int, int, int],
        dilations: Dilations,
        stem: str = "torchvision",
        width: float = 1.0,
    ) -> None:
        super().__init__()
        widths = tuple(int(channels * width) for channels in STAGE_WIDTHS)
        first = widths[0]
        self.stage_channels = tuple(channels * block.expansion for channels in widths)
        self.strides = (1, *(2 if dilation == 1 else 1 for dilation in dilations))
        self.output_stride = 4 * self.strides[1] * self.strides[2] * self.strides[3]
        self.is_deep = stem == "deep"
        self.relu = nn.ReLU(inplace=True)
        if self.is_deep:
            self.conv1, self.bn1 = _conv3x3(3, first, 2, 1), nn.BatchNorm2d(first)
            self.conv2, self.bn2 = _conv3x3(first, first, 1, 1), nn.BatchNorm2d(first)
            self.conv3, self.bn3 = _conv3x3(first, 2 * first, 1, 1), nn.BatchNorm2d(2 * first)
        else:
            self.conv1, self.bn1 = nn.Conv2d(3, first, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(first)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stem_channels = 2 * first if self.is_deep else first
        in_channels = (self.stem_channels, *self.stage_channels)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(block, in_channels[i], widths[i], stage_depths[i], self.strides[i], (1, *dilations)[i])
            for i in range(4)
        )
        self._initialise()

    def _initialise(self) -> None:
        """Batch norm starts at scale 1 and shift 0 by default."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise_convolution(module)

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, x1, x2, x3, x4 = self.taps(images_B3HW, 4)
        return x1, x2, x3, x4

    def taps(self, images_B3HW: Tensor, depth: int) -> list[Tensor]:
        """The output of the stem, before its pooling, and those of the first `depth` stages."""
        x = self.relu(self.bn1(self.conv1(images_B3HW)))
        if self.is_deep:
            x = self.relu(self.bn2(self.conv2(x)))
            x = self.relu(self.bn3(self.conv3(x)))
        outputs = [x]
        x = self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[:depth]:
            x = stage(x)
            outputs.append(x)
        return outputs


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, width: int, depth: int, stride: int, dilation: int
) -> Blocks:
    """`depth` blocks; the first one strides and changes the number of channels."""
    out_channels = width * block.expansion
    first = block(in_channels, width, stride, dilation)
    return Blocks(first, *(block(out_channels, width, 1, dilation) for _ in range(depth - 1)))


VGG16_WIDTHS = (64, 128, 256, 512, 512)
VGG16_DEPTHS = (2, 2, 3, 3, 3)


class VGG16(nn.Module):
    """The thirteen convolutions, named `features.<i>` as torchvision's `vgg16` or, with batch norm, `vgg16_bn`.

    `forward` maps images_B3HW to the five stages' outputs after their pooling, at 1/2 to 1/32; sizes round up.
    """

    def __init__(self, *, has_bn: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in zip(VGG16_WIDTHS, VGG16_DEPTHS, strict=True):
            for _ in range(depth):
                conv = nn.Conv2d(channels, width, 3, padding=1)
                _initialise_convolution(conv)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                layers += [conv, *([nn.BatchNorm2d(width)] if has_bn else []), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        outputs, x = [], images_B3HW
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                outputs.append(x)
        return outputs


_RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
    "resnet269": (Bottleneck, (3, 30, 48, 8)),
}


def build_resnet(name: str, dilations: Dilations, stem: str = "torchvision", width: float = 1.0) -> ResNet:
    """`width` scales the number of channels of all layers; ImageNet's weights fit 1 only."""
    if name not in _RESNETS:
        raise ValueError(f"model.backbone = {name!r}: choose from {', '.join(_RESNETS)}")
    block, stage_depths = _RESNETS[name]
    return ResNet(block, stage_depths, dilations, stem, width)


def imagenet_state(backbone: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights (its first set, IMAGENET1K_V1), downloaded once into torch.hub's directory.

    Those of timm:NAME are timm's, see `timm_encoders`.

    Raises OSError if they cannot be downloaded or written, RuntimeError or ValueError if what came is damaged.
    """
    if timm_encoders.is_timm(backbone):
        return timm_encoders.imagenet_state(backbone)
    import torchvision  # here, as it imports PyTorch's compiler, which takes seconds

    family = backbone.replace("resnet", "ResNet").replace("vgg", "VGG").replace("_bn", "_BN")
    try:
        weights = torchvision.models.get_weight(f"{family}_Weights.IMAGENET1K_V1")
    except (AttributeError, ValueError):
        raise ValueError(f"torchvision has no ImageNet weights of {backbone}") from None
    state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    return state


def load_backbone(backbone: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies `state` into `backbone`; keys and shapes must match exactly, but for the classifier of ImageNet.

    `num_batches_tracked` may be absent (torchvision's older files lack it; nothing here uses it).
    Raises ValueError with the first of the keys that are missing, unexpected or of another shape.
    """
    if isinstance(backbone, TimmEncoder):
        load_exactly(backbone, backbone.own_names(state), "backbone weights")
        return
    given = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    load_exactly(backbone, given, "backbone weights")


def load_exactly(module: nn.Module, given: Mapping[str, Tensor], what: str) -> None:
    """Copies `given` into `module`. Raises ValueError that names the first keys which do not match."""
    own = module.state_dict()
    problems = {
        "missing": [k for k in own if k not in given and not k.endswith(".num_batches_tracked")],
        "unexpected": [k for k in given if k not in own],
        "of another shape": [
            f"{k} {tuple(given[k].shape)} instead of {tuple(own[k].shape)}"
            for k in given
            if k in own and given[k].shape != own[k].shape
        ],
    }
    found = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"{what} do not fit: keys {'; '.join(found)}")
    module.load_state_dict({**own, **given})


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
