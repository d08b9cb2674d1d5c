"""Options that several networks have, and their checks."""

from dataclasses import dataclass
from typing import Literal

from distseg.config import ModelConfig, require

MAX_CHANNELS = 1024  # of a network's first stage; the last one of a U-Net has 16 times as many
Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet269", "vgg16", "vgg16_bn"]


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(ModelConfig):
    """Of a network on an encoder of ImageNet."""

    backbone: Backbone = "resnet50"
    """Of pspnet and adain, a ResNet; of fcn, a ResNet (the dilated baseline) or VGG16 (FCN-32s, -16s, -8s)."""
    stem: Literal["torchvision", "deep"] = "torchvision"
    """A ResNet's first layers: one 7x7 convolution, or the PSPNet authors' three 3x3."""
    dilations: tuple[int, int, int] = (1, 2, 4)
    """Dilation of ResNet stages 2, 3, 4; a dilated stage does not stride. (1, 2, 4): output stride 8."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            all(1 <= d <= 64 for d in self.dilations), "model.dilations", self.dilations, "each must be from 1 to 64"
        )

    def layout_on_cpu(self, precision: str) -> Literal["channels_last", "contiguous"]:
        has_bottlenecks = self.backbone in ("resnet50", "resnet101", "resnet152", "resnet269")
        return "contiguous" if has_bottlenecks and precision == "fp32" else "channels_last"

    @property
    def known_backbone(self) -> str:
        return self.backbone


@dataclass(frozen=True, kw_only=True)
class WidthOptions(ModelConfig):
    """Of a network whose first stage has 64 channels, or another number."""

    width: float = 1.0
    """Scales the number of channels of all layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = 64 * self.width
        is_whole = 1 <= channels <= MAX_CHANNELS and channels == int(channels)
        require(is_whole, "model.width", self.width, f"must be a multiple of 1/64, at most {MAX_CHANNELS // 64}")


@dataclass(frozen=True, kw_only=True)
class ResNetOptions(BackboneOptions, WidthOptions):
    """Of a network whose encoder is a ResNet."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_resnet = self.backbone.startswith("resnet")
        require(is_resnet, "model.backbone", self.backbone, f"{self.name} needs a ResNet")
        is_published = self.width == 1 or self.pretrained != "imagenet"
        require(is_published, "model.width", self.width, "ImageNet's weights are of width 1")


def check_se_ratio(ratio: int | None, channels: int) -> None:
    """Raises ConfigError unless the squeeze-and-excitation gate of so many channels can have this reduction ratio."""
    require(
        ratio is None or (1 <= ratio <= channels and channels % ratio == 0),
        "model.se_ratio",
        ratio,
        f"must divide the {channels} channels it gates: 2, 4, 8, 16 …",
    )


def too_few_samples(where: str, micro_batch_size: int, otherwise: str = "") -> ValueError:
    """For a network with a batch norm over one value per sample, which needs two samples in a micro-batch."""
    return ValueError(
        f"{where} needs at least 2 samples per micro-batch, which has {micro_batch_size}; "
        f"raise data.batch_size or lower optim.accumulate_steps{otherwise}"
    )
