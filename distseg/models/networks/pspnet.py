"""PSPNet (Zhao et al. 2017), its ablations, and the squeeze-and-excitation variant (Song et al. 2021).

    images ─▶ dilated ResNet ─▶ x: C channels ─▶ pyramid: C + bins ─▶ 3x3 conv to C/4 ─▶ dropout ─▶ 1x1 classifier
                   └─ stage 3 ─▶ 3x3 conv to a quarter of its channels ─▶ dropout ─▶ 1x1 classifier    (auxiliary)

C is 2048 on Bottleneck backbones, so the heads are 512 and 256 wide as in the authors' code, and 512 on ResNet-18/34,
where the same quarters give 128 and 64 (the widths of OpenMMLab's PSPNet-18, too). With `se_ratio` the pyramid is
first fused to C/4 channels by a 1x1 convolution and gated: concat -> 1x1 -> SE -> 3x3 -> classifier (Song et al. 2021,
figure 4 and table 2, which leave the widths open).

Ablations of Zhao et al., table 1: `bins=()` is the dilated FCN, `pool` chooses average or maximum, and without `reduce`
the pooled channels are used as they are. All resizing is bilinear with align_corners=False (the authors: True).
Heads start from PyTorch's default initialisation, the backbone's convolutions from Kaiming's, as in the authors' code.

Size: 48.96M parameters on ResNet-50 at 21 classes with the auxiliary head, and 49.08M with the authors' own stem of
three 3x3 convolutions (64, 64, 128), `stem = "deep"`. Bins (1,) are ParseNet's global pooling (table 1, "B1").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distseg.config import ModelConfig, require
from distseg.models.backbones import load_backbone, load_exactly
from distseg.models.layers import (
    Logits,
    SegmentationModel,
    SqueezeExcite,
    adaptive_pool,
    classifier,
    conv_bn_relu,
    resize_bilinear,
)
from distseg.models.networks._options import ResNetOptions, check_se_ratio, too_few_samples
from distseg.models.timm_encoders import MULTIPLE_PX

GATED_CHANNELS = 512  # by squeeze-and-excitation, on Bottleneck backbones


@dataclass(frozen=True, kw_only=True)
class Options(ResNetOptions):
    """PSPNet (Zhao et al. 2017), the ablations of its table 1, and squeeze-and-excitation (Song et al. 2021)."""

    bins: tuple[int, ...] = (1, 2, 3, 6)
    """Grid sizes of the pyramid pooling; () leaves the pyramid out (the dilated FCN baseline)."""
    pool: Literal["avg", "max"] = "avg"
    reduce: bool = True
    """Reduce each bin to C / len(bins) channels by a 1x1 convolution ('DR' in the paper's table 1)."""
    se_ratio: int | None = None
    """Squeeze-and-excitation with this reduction ratio on the fused pyramid (Song et al. 2021). None: without."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_grid = len(self.bins) <= 16 and all(1 <= b <= 128 for b in self.bins)
        require(is_grid, "model.bins", self.bins, "every bin must be at least 1 and at most 128, of at most 16")
        require(len(set(self.bins)) == len(self.bins), "model.bins", self.bins, "bins must differ from each other")
        require(
            not (self.reduce and self.bins) or 512 % len(self.bins) == 0,
            "model.bins",
            self.bins,
            f"{len(self.bins)} bins do not divide the backbone's channels; use 1, 2, 4 or 8, or model.reduce False",
        )
        check_se_ratio(self.se_ratio, GATED_CHANNELS)

    @property
    def has_aux_head(self) -> bool:
        return True

    @classmethod
    def variants(cls) -> dict[str, ModelConfig]:
        published = {f"pspnet {name}": cls(backbone=name) for name in ("resnet18", "resnet50", "resnet101")}
        return {
            **published,
            "pspnet resnet269": cls(backbone="resnet269", stem="deep"),
            "se-pspnet resnet50": cls(backbone="resnet50", se_ratio=16),
        }

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return PSPNet(self, num_classes, aux=aux)

    def check_batch(self, micro_batch_size: int) -> None:
        if micro_batch_size < 2 and 1 in self.bins and self.reduce:
            where = f"model.bins = {self.bins}: batch norm of the 1x1 bin"
            raise too_few_samples(where, micro_batch_size, ", or leave bin 1 out")


class PyramidPooling(nn.Module):
    """x_BChw and, for each bin b, its pooling to b x b cells, resized to h x w and concatenated along the channels."""

    def __init__(self, in_channels: int, bins: tuple[int, ...], pool: str, reduce: bool) -> None:
        super().__init__()
        if reduce and bins and in_channels % len(bins):
            raise ValueError(
                f"model.bins = {bins}: {len(bins)} bins do not divide the backbone's {in_channels} channels"
            )
        self.bins = bins
        self.pool = pool
        bin_channels = in_channels // len(bins) if reduce and bins else in_channels
        self.branches = nn.ModuleList(
            conv_bn_relu(in_channels, bin_channels, 1) if reduce else nn.Identity() for _ in bins
        )
        self.out_channels = in_channels + len(bins) * bin_channels

    def forward(self, x_BChw: Tensor) -> Tensor:
        size = (x_BChw.shape[2], x_BChw.shape[3])
        levels = [
            resize_bilinear(branch(adaptive_pool(x_BChw, bin_size, self.pool)), size)
            for bin_size, branch in zip(self.bins, self.branches, strict=True)
        ]
        return torch.cat([x_BChw, *levels], dim=1)


class PSPNet(SegmentationModel):
    def __init__(self, config: Options, num_classes: int, *, aux: bool) -> None:
        super().__init__()
        encoder = config.encoder()
        *_, aux_channels, channels = encoder.stage_channels
        self.backbone = encoder
        self.output_stride = encoder.output_stride
        self.exported_multiple = MULTIPLE_PX if config.is_on_timm else 1
        self.pyramid = PyramidPooling(channels, config.bins, config.pool, config.reduce)
        self.head = nn.Sequential(
            _fuse(self.pyramid.out_channels, channels // 4, config.se_ratio),
            classifier(channels // 4, num_classes, config.dropout),
        )
        self.aux_head = _aux_head(aux_channels, num_classes, config.dropout) if aux else None

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        if is_authors_layout(state):
            load_authors(self, state)
        else:
            load_backbone(self.backbone, state)

    def forward(self, images_B3HW: Tensor) -> Logits:
        *_, x3, x4 = self.backbone(images_B3HW)
        aux_BKhw = self.aux_head(x3) if self.aux_head is not None and self.training else None
        return Logits(self.head(self.pyramid(x4)), aux_BKhw)


# The modules of the authors' PyTorch code (hszhao/semseg), and what they are called here.
_AUTHORS_NAMES = {
    "layer0.0": "backbone.conv1",
    "layer0.1": "backbone.bn1",
    "layer0.3": "backbone.conv2",
    "layer0.4": "backbone.bn2",
    "layer0.6": "backbone.conv3",
    "layer0.7": "backbone.bn3",
    "cls.0": "head.0.0",
    "cls.1": "head.0.1",
    "cls.4": "head.1.1",
    "aux.0": "aux_head.0.0",
    "aux.1": "aux_head.0.1",
    "aux.4": "aux_head.1.1",
}


def is_authors_layout(state: Mapping[str, Tensor]) -> bool:
    return any(key.removeprefix("module.").startswith("layer0.") for key in state)


def load_authors(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies a whole PSPNet of the authors' code, whose keys may begin with 'module.', into a PSPNet with deep stem.

    Keys and shapes must match exactly; an auxiliary head that `model` lacks is left out. Raises ValueError naming
    those that do not. The authors resize with align_corners=True, so scores differ a little from theirs.
    """
    has_aux = any(key.startswith("aux_head.") for key in model.state_dict())
    renamed = {_from_authors(key.removeprefix("module.")): value for key, value in state.items()}
    wanted = {key: value for key, value in renamed.items() if has_aux or not key.startswith("aux_head.")}
    load_exactly(model, wanted, "the authors' weights")


def _from_authors(key: str) -> str:
    module, _, parameter = key.rpartition(".")
    if module in _AUTHORS_NAMES:
        return f"{_AUTHORS_NAMES[module]}.{parameter}"
    if module.startswith("ppm.features."):  # bin i: pooling 0, convolution 1, batch norm 2
        branch, _, layer = module.removeprefix("ppm.features.").partition(".")
        return f"pyramid.branches.{branch}.{int(layer) - 1}.{parameter}" if layer.isdigit() else key
    return f"backbone.{key}" if key.startswith("layer") else key


def _fuse(in_channels: int, channels: int, se_ratio: int | None) -> nn.Sequential:
    if se_ratio is None:
        return conv_bn_relu(in_channels, channels, 3)
    return nn.Sequential(
        conv_bn_relu(in_channels, channels, 1), SqueezeExcite(channels, se_ratio), conv_bn_relu(channels, channels, 3)
    )


def _aux_head(in_channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    width = in_channels // 4
    return nn.Sequential(conv_bn_relu(in_channels, width, 3), classifier(width, num_classes, dropout))
