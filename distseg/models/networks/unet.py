"""U-Net (Ronneberger et al. 2015).

    level 1 ───────────────────────────────▶ level 1      width · 1 channels
       └▶ level 2 ─────────────────▶ level 2 ──┘          width · 2
             └▶ … ▶ level 5 ─▶ … ────┘                    width · 16

Levels halve by a 2x2 maximum; upwards the map is enlarged (nearest), convolved (3x3) to half its channels and
concatenated with the encoder's. Convolutions are padded and followed by batch norm, unlike Ronneberger's, so that
logits have the images' resolution. Sizes round up; the way back ends at exactly the encoder's.

Size: 34.53M parameters at 19 classes and 64 channels.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import require
from distseg.models.backbones import load_backbone
from distseg.models.checkpointing import Blocks
from distseg.models.layers import Logits, SegmentationModel, conv_bn_relu, crop_like
from distseg.models.networks._options import WidthOptions, check_timm, foreign_weights_of
from distseg.models.timm_encoders import MULTIPLE_PX, TimmEncoder, is_timm

BASE_WIDTH = 64
NUM_LEVELS = 5

Block = Callable[[int, int], nn.Module]
"""A level's block, of (input channels, output channels)."""


@dataclass(frozen=True, kw_only=True)
class Options(WidthOptions):
    """U-Net (Ronneberger et al. 2015)."""

    backbone: str | None = None
    """None: Ronneberger's encoder. Or one of timm, as timm:NAME (the extra `timm`); the decoder is then as wide as its
    maps, and logits have the resolution of the first one that is smaller than the image, 1/2 or 1/4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone is not None:
            require(is_timm(self.backbone), "model.backbone", self.backbone, "give timm:NAME, or leave it out")
            check_timm(self)

    @classmethod
    def takes(cls, option: str, value: Any) -> bool:
        return option != "backbone" or value is None or is_timm(str(value))

    @property
    def known_backbone(self) -> str | None:
        return self.backbone

    @property
    def foreign_weights(self) -> str | None:
        return None if self.backbone is None else foreign_weights_of(self.backbone)

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return UNet(self, num_classes) if self.backbone is None else TimmUNet(self.backbone, self.dropout, num_classes)


def _double_conv(in_channels: int, out_channels: int) -> nn.Module:
    return Blocks(conv_bn_relu(in_channels, out_channels, 3), conv_bn_relu(out_channels, out_channels, 3))


class _Encoder(nn.Module):
    def __init__(self, widths: tuple[int, ...], block: Block) -> None:
        super().__init__()
        self.levels = nn.ModuleList(block(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True))

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        x = self.levels[0](images_B3HW)
        outputs = [x]
        for level in self.levels[1:]:
            x = level(F.max_pool2d(x, 2, ceil_mode=True))
            outputs.append(x)
        return outputs


class UNet(SegmentationModel):
    """Logits at the resolution of the image. `config.width` scales the 64 channels of level 1, and so all others."""

    output_stride = 1
    exported_multiple = 16

    def __init__(self, config: WidthOptions, num_classes: int, block: Block = _double_conv) -> None:
        super().__init__()
        base = int(BASE_WIDTH * config.width)
        widths = tuple(base * 2**i for i in range(NUM_LEVELS))
        self.backbone = _Encoder(widths, block)
        self.enlarged = nn.ModuleList(conv_bn_relu(2 * width, width, 3) for width in widths[:-1])
        self.levels = nn.ModuleList(block(2 * width, width) for width in widths[:-1])
        self.classifier = nn.Sequential(nn.Dropout2d(config.dropout), nn.Conv2d(base, num_classes, 1))

    def forward(self, images_B3HW: Tensor) -> Logits:
        *skips, x = self.backbone(images_B3HW)
        for skip, enlarged, level in zip(reversed(skips), reversed(self.enlarged), reversed(self.levels), strict=True):
            x = crop_like(F.interpolate(x, scale_factor=2.0, mode="nearest"), skip)
            x = level(torch.cat([skip, enlarged(x)], dim=1))
        return Logits(self.classifier(x), None)


class TimmUNet(SegmentationModel):
    """U-Net's way back up, beside the maps of an encoder of timm."""

    exported_multiple = MULTIPLE_PX

    def __init__(self, backbone: str, dropout: float, num_classes: int) -> None:
        super().__init__()
        encoder = TimmEncoder(backbone, takes="resolutions")
        widths = encoder.stage_channels
        self.backbone = encoder
        self.output_stride = encoder.strides_px[0]
        self.enlarged = nn.ModuleList(conv_bn_relu(below, width, 3) for width, below in itertools.pairwise(widths))
        self.levels = nn.ModuleList(_double_conv(2 * width, width) for width in widths[:-1])
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(widths[0], num_classes, 1))

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        load_backbone(self.backbone, state)

    def forward(self, images_B3HW: Tensor) -> Logits:
        *skips, x = self.backbone(images_B3HW)
        for skip, enlarged, level in zip(reversed(skips), reversed(self.enlarged), reversed(self.levels), strict=True):
            x = crop_like(F.interpolate(x, scale_factor=2.0, mode="nearest"), skip)
            x = level(torch.cat([skip, enlarged(x)], dim=1))
        return Logits(self.classifier(x), None)
