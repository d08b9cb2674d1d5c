"""ENet (Paszke et al. 2016): 0.36M parameters, for street scenes in real time.

    initial ─▶ stage 1: 64 channels at 1/4 ─▶ stage 2, stage 3: 128 at 1/8 ─▶ stage 4: 64 at 1/4 ─▶ stage 5: 16 at 1/2
                          │ where the maximum was                  └──▶ unpooling, in reverse ──▶ 2x2 deconvolution

As published: asymmetric and dilated (2, 4, 8, 16) bottlenecks, spatial dropout 0.01 in stage 1 and 0.1 after, one slope
per channel in the encoder's PReLUs, ReLU in the decoder, no bias anywhere. `dropout` is the 0.1; stage 1 has a tenth.

The paper leaves odd sizes open: pools round up, so that unpooling and deconvolution can restore the size exactly, and
the logits are cut to the size of the image.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import ModelConfig
from distseg.models.checkpointing import Blocks
from distseg.models.layers import Logits, SegmentationModel, crop_like

REDUCTION = 4  # a bottleneck works on a quarter of its channels


@dataclass(frozen=True, kw_only=True)
class Options(ModelConfig):
    """ENet (Paszke et al. 2016), which can only choose its dropout."""

    def layout_on_cpu(self, precision: str) -> Literal["channels_last", "contiguous"]:
        return "contiguous"

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return ENet(self, num_classes)


class InitialBlock(nn.Module):
    """A 3x3 convolution with stride 2 to 13 channels beside the 2x2 maximum of the 3 colours (figure 2a)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.bn = nn.BatchNorm2d(16)
        self.act = nn.PReLU(16)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(torch.cat([self.conv(images_B3HW), self.pool(images_B3HW)], dim=1)))
        return out


class ENetBottleneck(nn.Module):
    """x + (1x1 down, `conv`, 1x1 up, dropout), activated after the sum (figure 2b)."""

    def __init__(
        self,
        channels: int,
        dropout: float,
        *,
        dilation: int = 1,
        is_asymmetric: bool = False,
        is_decoder: bool = False,
    ) -> None:
        super().__init__()
        inner = channels // REDUCTION
        if is_asymmetric:
            convs: list[nn.Module] = [
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False),
            ]
        else:
            convs = [nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)]
        self.branch = nn.Sequential(
            *_conv_bn_act(nn.Conv2d(channels, inner, 1, bias=False), inner, is_decoder),
            *convs,
            nn.BatchNorm2d(inner),
            _activation(inner, is_decoder),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Dropout2d(dropout),
        )
        self.act = _activation(channels, is_decoder)

    def forward(self, x_BChw: Tensor) -> Tensor:
        out: Tensor = self.act(x_BChw + self.branch(x_BChw))
        return out


class Downsampling(nn.Module):
    """Halves the resolution; besides its output it tells where each maximum was, for the unpooling of its mirror image.

    The shortcut is pooled and filled up with channels of zeros; the branch begins with a 2x2 convolution of stride 2.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        inner = in_channels // REDUCTION
        self.num_new = out_channels - in_channels
        self.branch = nn.Sequential(
            *_conv_bn_act(nn.Conv2d(in_channels, inner, 2, stride=2, bias=False), inner, is_decoder=False),
            *_conv_bn_act(nn.Conv2d(inner, inner, 3, padding=1, bias=False), inner, is_decoder=False),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.Dropout2d(dropout),
        )
        self.act = nn.PReLU(out_channels)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        pooled_BChw, where_BChw = F.max_pool2d(x_BCHW, 2, ceil_mode=True, return_indices=True)
        height, width = x_BCHW.shape[2], x_BCHW.shape[3]
        even_BCHW = F.pad(x_BCHW, (0, width % 2, 0, height % 2))  # as the pool rounds up
        shortcut = F.pad(pooled_BChw, (0, 0, 0, 0, 0, self.num_new))
        out: Tensor = self.act(shortcut + self.branch(even_BCHW))
        return out, where_BChw


class Upsampling(nn.Module):
    """Doubles the resolution.

    The shortcut puts values back where max pooling took them; the branch is a 3x3 transposed convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        inner = in_channels // REDUCTION
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.reduce = nn.Sequential(*_conv_bn_act(nn.Conv2d(in_channels, inner, 1, bias=False), inner, is_decoder=True))
        self.deconv = nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.expand = nn.Sequential(
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.Dropout2d(dropout),
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x_BChw: Tensor, where_BChw: Tensor, size: tuple[int, int]) -> Tensor:
        unpooled_BCHW = unpool(self.shortcut(x_BChw), where_BChw, size)
        deconvolved = self.deconv(self.reduce(x_BChw))[:, :, : size[0], : size[1]]
        out: Tensor = self.act(unpooled_BCHW + self.expand(deconvolved))
        return out


def unpool(x_BChw: Tensor, where_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Zeros of the given size but for x at the positions, row by row in an image of it, that max_pool2d returned.

    F.max_unpool2d by other means: this one also exports to ONNX and runs in bfloat16.
    """
    height, width = size
    zeros = x_BChw.new_zeros(x_BChw.shape[0], x_BChw.shape[1], height * width)
    out: Tensor = zeros.scatter(2, where_BChw.flatten(2), x_BChw.flatten(2)).unflatten(2, (height, width))
    return out


def _conv_bn_act(conv: nn.Conv2d, channels: int, is_decoder: bool) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(channels), _activation(channels, is_decoder)]


def _activation(channels: int, is_decoder: bool) -> nn.Module:
    return nn.ReLU(inplace=True) if is_decoder else nn.PReLU(channels)


class Encoder(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.initial = InitialBlock()
        self.down1 = Downsampling(16, 64, dropout / 10)
        self.stage1 = Blocks(*(ENetBottleneck(64, dropout / 10) for _ in range(4)))
        self.down2 = Downsampling(64, 128, dropout)
        self.stage2 = _dilated_stage(dropout)
        self.stage3 = _dilated_stage(dropout)

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, list[tuple[Tensor, tuple[int, int]]]]:
        """(features at 1/8, for each downsampling where its maxima were and the size before it)."""
        x0 = self.initial(images_B3HW)
        x1, where1 = self.down1(x0)
        x1 = self.stage1(x1)
        x2, where2 = self.down2(x1)
        pools = [(where1, (x0.shape[2], x0.shape[3])), (where2, (x1.shape[2], x1.shape[3]))]
        return self.stage3(self.stage2(x2)), pools


def _dilated_stage(dropout: float) -> Blocks:
    """Bottlenecks 2.1 to 2.8 of table 1."""
    return Blocks(
        ENetBottleneck(128, dropout),
        ENetBottleneck(128, dropout, dilation=2),
        ENetBottleneck(128, dropout, is_asymmetric=True),
        ENetBottleneck(128, dropout, dilation=4),
        ENetBottleneck(128, dropout),
        ENetBottleneck(128, dropout, dilation=8),
        ENetBottleneck(128, dropout, is_asymmetric=True),
        ENetBottleneck(128, dropout, dilation=16),
    )


class ENet(SegmentationModel):
    """Logits at the resolution of the image."""

    output_stride = 1
    exported_multiple = 8

    def __init__(self, config: Options, num_classes: int) -> None:
        super().__init__()
        dropout = config.dropout
        self.backbone = Encoder(dropout)
        self.up4 = Upsampling(128, 64, dropout)
        self.stage4 = Blocks(*(ENetBottleneck(64, dropout, is_decoder=True) for _ in range(2)))
        self.up5 = Upsampling(64, 16, dropout)
        self.stage5 = ENetBottleneck(16, dropout, is_decoder=True)
        self.classifier = nn.ConvTranspose2d(16, num_classes, 2, stride=2, bias=False)

    def forward(self, images_B3HW: Tensor) -> Logits:
        x, ((where1, size1), (where2, size2)) = self.backbone(images_B3HW)
        x = self.stage4(self.up4(x, where2, size2))
        x = self.stage5(self.up5(x, where1, size1))
        logits_BKHW: Tensor = self.classifier(x)
        return Logits(crop_like(logits_BKHW, images_B3HW), None)
