"""DeepLabV3+ (Chen et al. 2018) on a dilated ResNet, or on an encoder of timm.

    images ─▶ ResNet ─▶ x4 ─▶ ASPP: 1x1, three atrous 3x3, image pooling ─▶ 1x1 to 256 ─▶ enlarged to 1/4 ─┐
                  └─ x1, at 1/4 ─▶ 1x1 to 48 ──────────────────────────────────────────────────────────────┴▶ concat
    ─▶ 3x3 to 256 ─▶ 3x3 to 256 ─▶ dropout ─▶ 1x1 classifier, at 1/4 of the images' size

Each convolution is followed by batch norm and ReLU. The atrous rates are 6, 12, 18 at output stride 16, the default,
and twice that at stride 8 (Chen et al. 2017, section 3.3); at stride 32, half. The paper's table 2 chose 48 channels of
low-level features and two 3x3 convolutions. As in its ablations on a ResNet, convolutions are not separable; unlike
there, the last stage has one dilation and no multi-grid. Logits have 1/4 of the resolution in each case.

Size: 59.34M parameters on ResNet-101 at 21 classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import ModelConfig
from distseg.models.backbones import load_backbone
from distseg.models.layers import Logits, SegmentationModel, classifier, conv_bn_relu, resize_bilinear
from distseg.models.networks._options import ResNetOptions, too_few_samples
from distseg.models.timm_encoders import MULTIPLE_PX

CHANNELS = 256  # of the pyramid and of the decoder
LOW_LEVEL_CHANNELS = 48
RATES_AT_16 = (6, 12, 18)


@dataclass(frozen=True, kw_only=True)
class Options(ResNetOptions):
    """DeepLabV3+ (Chen et al. 2018)."""

    dilations: tuple[int, int, int] = (1, 1, 2)
    """Dilation of ResNet stages 2, 3, 4; a dilated stage does not stride. (1, 1, 2): output stride 16, as published;
    (1, 2, 4): 8, with twice the rates."""

    @classmethod
    def variants(cls) -> dict[str, ModelConfig]:
        return {f"deeplabv3plus {name}": cls(backbone=name) for name in ("resnet18", "resnet50", "resnet101")}

    def layout_on_cpu(self, precision: str) -> Literal["channels_last", "contiguous"]:
        return "contiguous" if precision == "fp32" else "channels_last"

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return DeepLabV3Plus(self, num_classes)

    def check_batch(self, micro_batch_size: int) -> None:
        if micro_batch_size < 2:
            raise too_few_samples("deeplabv3plus: batch norm of the image pooling", micro_batch_size)


class AtrousPyramid(nn.Module):
    """ASPP with image pooling (Chen et al. 2017, figure 5): x_BChw seen at several scales, CHANNELS wide."""

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.pointwise = conv_bn_relu(in_channels, channels, 1)
        self.atrous = nn.ModuleList(conv_bn_relu(in_channels, channels, 3, dilation=rate) for rate in rates)
        self.pooled = conv_bn_relu(in_channels, channels, 1)
        self.fuse = conv_bn_relu((2 + len(rates)) * channels, channels, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        local = [self.pointwise(x_BChw), *(branch(x_BChw) for branch in self.atrous)]
        image_BC11 = self.pooled(F.adaptive_avg_pool2d(x_BChw, 1))
        fused: Tensor = self.fuse(torch.cat([*local, image_BC11.expand_as(local[0])], dim=1))
        return fused


class DeepLabV3Plus(SegmentationModel):
    """`config.width` scales the ResNet, the pyramid and the decoder."""

    def __init__(self, config: Options, num_classes: int) -> None:
        super().__init__()
        encoder = config.encoder()
        low_channels, *_, channels = encoder.stage_channels
        width, low_width = (max(1, int(each * config.width)) for each in (CHANNELS, LOW_LEVEL_CHANNELS))
        self.backbone = encoder
        self.output_stride = 4
        self.exported_multiple = MULTIPLE_PX if config.is_on_timm else 1
        self.pyramid = AtrousPyramid(channels, width, rates(encoder.output_stride))
        self.low_level = conv_bn_relu(low_channels, low_width, 1)
        self.decoder = nn.Sequential(conv_bn_relu(width + low_width, width, 3), conv_bn_relu(width, width, 3))
        self.classifier = classifier(width, num_classes, config.dropout)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        load_backbone(self.backbone, state)

    def forward(self, images_B3HW: Tensor) -> Logits:
        x1, *_, x4 = self.backbone(images_B3HW)
        enlarged = resize_bilinear(self.pyramid(x4), (x1.shape[2], x1.shape[3]))
        x = self.decoder(torch.cat([enlarged, self.low_level(x1)], dim=1))
        return Logits(self.classifier(x), None)


def rates(output_stride: int) -> tuple[int, ...]:
    """The same area of the image at each output stride: 6, 12, 18 cells of 16 pixels."""
    return tuple(max(1, rate * 16 // output_stride) for rate in RATES_AT_16)
