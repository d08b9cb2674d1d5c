"""U-Net (Ronneberger et al. 2015).

    level 1 ───────────────────────────────▶ level 1      width · 1 channels
       └▶ level 2 ─────────────────▶ level 2 ──┘          width · 2
             └▶ … ▶ level 5 ─▶ … ────┘                    width · 16

Levels halve by a 2x2 maximum; upwards the map is enlarged (nearest), convolved (3x3) to half its channels and
concatenated with the encoder's. Convolutions are padded and followed by batch norm, unlike Ronneberger's, so that
logits have the images' resolution. Sizes round up; the way back ends at exactly the encoder's.

Size: 34.53M parameters at 19 classes and 64 channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.models.checkpointing import Blocks
from distseg.models.layers import Logits, SegmentationModel, conv_bn_relu, crop_like
from distseg.models.networks._options import WidthOptions

BASE_WIDTH = 64
NUM_LEVELS = 5

Block = Callable[[int, int], nn.Module]
"""A level's block, of (input channels, output channels)."""


@dataclass(frozen=True, kw_only=True)
class Options(WidthOptions):
    """U-Net (Ronneberger et al. 2015)."""

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return UNet(self, num_classes)


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
