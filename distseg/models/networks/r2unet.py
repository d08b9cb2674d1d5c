"""U-Net (Ronneberger et al. 2015) and R2U-Net, its recurrent residual variant (Alom et al. 2018).

    level 1 ───────────────────────────────▶ level 1      width · 1 channels
       └▶ level 2 ─────────────────▶ level 2 ──┘          width · 2
             └▶ … ▶ level 5 ─▶ … ────┘                    width · 16

Levels halve by a 2x2 maximum; upwards the map is enlarged (nearest), convolved (3x3) to half its channels and
concatenated with the encoder's. Convolutions are padded and followed by batch norm, unlike Ronneberger's, so that
logits have the images' resolution. Sizes round up; the way back ends at exactly the encoder's.

Mukherjee & Bhattacharjee count 30.0M parameters for R2U-Net and give no widths. At 19 classes 64 channels make 39.09M
and 56 make 29.93M; U-Net with 64 has 34.53M.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import ModelConfig
from distseg.models.layers import Logits, SegmentationModel, conv_bn_relu

BASE_WIDTH = 64
NUM_LEVELS = 5

Block = Callable[[int, int], nn.Module]


class RecurrentConv(nn.Module):
    """y₀ = f(x), yᵢ = f(x + yᵢ₋₁) up to i = t: the same convolution and batch norm, t + 1 times (figure 3)."""

    def __init__(self, channels: int, t: int) -> None:
        super().__init__()
        self.t = t
        self.conv = conv_bn_relu(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        for _ in range(self.t):
            y = self.conv(x + y)
        return y


class RecurrentResidual(nn.Module):
    """A 1x1 convolution to `out_channels`, and a residual around two recurrent convolutions (figure 4d)."""

    def __init__(self, in_channels: int, out_channels: int, t: int) -> None:
        super().__init__()
        self.match = nn.Conv2d(in_channels, out_channels, 1)
        self.recurrent = nn.Sequential(RecurrentConv(out_channels, t), RecurrentConv(out_channels, t))

    def forward(self, x: Tensor) -> Tensor:
        x = self.match(x)
        out: Tensor = x + self.recurrent(x)
        return out


def _double_conv(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(conv_bn_relu(in_channels, out_channels, 3), conv_bn_relu(out_channels, out_channels, 3))


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

    def __init__(self, config: ModelConfig, num_classes: int, block: Block = _double_conv) -> None:
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
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, : skip.shape[2], : skip.shape[3]]
            x = level(torch.cat([skip, enlarged(x)], dim=1))
        return Logits(self.classifier(x), None)


class R2UNet(UNet):
    """U-Net whose double convolutions are recurrent residual blocks, `config.recurrence` = t."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes, lambda i, o: RecurrentResidual(i, o, config.recurrence))
