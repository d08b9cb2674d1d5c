"""Options that several networks have, and their checks."""

import difflib
from dataclasses import dataclass
from typing import ClassVar, Literal

from distseg.config import ModelConfig, require
from distseg.models.backbones import ResNet, build_resnet
from distseg.models.timm_encoders import TimmEncoder, is_timm

MAX_CHANNELS = 1024  # of a network's first stage; the last one of a U-Net has 16 times as many
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet269", "vgg16", "vgg16_bn")
OUTPUT_STRIDES = {(1, 2, 4): 8, (1, 1, 2): 16, (1, 1, 1): 32}  # by dilations, of encoders of timm


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(ModelConfig):
    """Of a network on an encoder of ImageNet."""

    has_timm_encoders: ClassVar[bool] = True

    backbone: str = "resnet50"
    """A ResNet: resnet18, 34, 50, 101, 152 or 269; of fcn also vgg16 or vgg16_bn (FCN-32s, -16s, -8s). Or, but for
    adain, an encoder of timm, as timm:NAME (the extra `timm`)."""
    stem: Literal["torchvision", "deep"] = "torchvision"
    """A ResNet's first layers: one 7x7 convolution, or the PSPNet authors' three 3x3."""
    dilations: tuple[int, int, int] = (1, 2, 4)
    """Dilation of ResNet stages 2, 3, 4; a dilated stage does not stride. (1, 2, 4): output stride 8."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            all(1 <= d <= 64 for d in self.dilations), "model.dilations", self.dilations, "each must be from 1 to 64"
        )
        if self.is_on_timm:
            require(self.has_timm_encoders, "model.backbone", self.backbone, f"{self.name} needs a ResNet")
            check_timm(self)
            strides = "an encoder of timm has 1 2 4, 1 1 2 or 1 1 1: a stride of 8, 16 or 32"
            require(self.dilations in OUTPUT_STRIDES, "model.dilations", self.dilations, strides)
            require(self.stem == "torchvision", "model.stem", self.stem, "an encoder of timm has its own; leave it out")
            return
        close = difflib.get_close_matches(self.backbone, BACKBONES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = f"choose from {', '.join(BACKBONES)}, or timm:NAME{hint}"
        require(self.backbone in BACKBONES, "model.backbone", self.backbone, known)

    @property
    def is_on_timm(self) -> bool:
        return is_timm(self.backbone)

    def layout_on_cpu(self, precision: str) -> Literal["channels_last", "contiguous"]:
        has_bottlenecks = self.backbone in ("resnet50", "resnet101", "resnet152", "resnet269")
        return "contiguous" if has_bottlenecks and precision == "fp32" else "channels_last"

    @property
    def known_backbone(self) -> str:
        return self.backbone

    @property
    def foreign_weights(self) -> str | None:
        return foreign_weights_of(self.backbone)


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
        is_resnet = self.backbone.startswith("resnet") or self.is_on_timm
        require(is_resnet, "model.backbone", self.backbone, f"{self.name} needs a ResNet")
        is_published = self.width == 1 or self.pretrained != "imagenet"
        require(is_published, "model.width", self.width, "ImageNet's weights are of width 1")

    def encoder(self) -> ResNet | TimmEncoder:
        """images_B3HW -> the maps of four stages, whose numbers of channels are its `stage_channels`."""
        if self.is_on_timm:
            return TimmEncoder(self.backbone, OUTPUT_STRIDES[self.dilations])
        return build_resnet(self.backbone, self.dilations, self.stem, self.width)


def check_timm(options: ModelConfig) -> None:
    """Raises ConfigError for options that an encoder of timm does not have."""
    remedy = "an encoder of timm has no such option; leave it out"
    require(not options.checkpointing, "model.checkpointing", options.checkpointing, remedy)
    width = getattr(options, "width", 1.0)
    require(width == 1, "model.width", width, "an encoder of timm has its own; give 1")


def foreign_weights_of(backbone: str) -> str:
    if is_timm(backbone):
        return f"timm's {backbone.partition(':')[2]}"
    return f"a torchvision {backbone}, or a whole PSPNet of its authors"


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
