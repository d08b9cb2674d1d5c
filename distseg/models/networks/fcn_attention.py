"""The FCN with attention (Shen & Sun 2022): VGG16 with strided convolutions, ASPP, and a decoder with attention."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import ModelConfig
from distseg.models.backbones import VGG16_DEPTHS, VGG16_WIDTHS
from distseg.models.checkpointing import Blocks
from distseg.models.layers import Logits, SegmentationModel, SqueezeExcite, conv_bn_relu, crop_like
from distseg.models.networks._options import WidthOptions, check_se_ratio, too_few_samples

ASPP_RATES = (6, 12, 18)  # Chen et al. 2017, at output stride 16; the paper gives none


@dataclass(frozen=True, kw_only=True)
class Options(WidthOptions):
    """The FCN with attention (Shen & Sun 2022); each part can be left out."""

    se_ratio: int | None = None
    """Squeeze-and-excitation with this reduction ratio in the decoder (Shen & Sun 2022). None: without."""
    downsample: Literal["conv", "pool"] = "conv"
    """Halve the resolution by strided convolutions, as the paper, or by maxima, as VGG16."""
    skips: bool = True
    """Skip connections, at all levels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_se_ratio(self.se_ratio, int(VGG16_WIDTHS[0] * self.width))

    @classmethod
    def variants(cls) -> dict[str, ModelConfig]:
        return {"fcn_attention": cls(se_ratio=16), "fcn_attention width 1/4": cls(se_ratio=16, width=0.25)}

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return FCNAttention(self, num_classes)

    def check_batch(self, micro_batch_size: int) -> None:
        if micro_batch_size < 2:
            raise too_few_samples(
                "model.name = 'fcn_attention': batch norm of the image-level feature", micro_batch_size
            )


class FCNAttention(SegmentationModel):
    """VGG16 with strided convolutions, ASPP, and a deconvolution decoder with skips and attention (Shen & Sun 2022).

        stage 1 ─▶ … ─▶ stage 5 ─▶ ASPP with image pooling
           │ 1/1            │ 1/16     │ 1/32
        block 1 ◀─ … ◀─ block 5 ◀──────┘         block: deconvolution, concatenated skip, 3x3 convolution, SE

    Each part is an option: `se_ratio` None leaves out the attention, `skips` False the skip connections, and
    `downsample` 'pool' takes maxima where the paper strides. The logits have the images' resolution.

    The paper counts 1.58M parameters, 1.63M with skips. VGG16's convolutions alone have 14.7M, so that cannot be at
    full width; `width` scales all channels. At 21 classes and SE ratio 16: 37.68M at width 1 and 2.36M at 0.25
    (2.02M without skips).
    """

    output_stride = 1
    exported_multiple = 32

    def __init__(self, config: Options, num_classes: int) -> None:
        super().__init__()
        widths = tuple(int(channels * config.width) for channels in VGG16_WIDTHS)
        self.backbone = _StridedVGG16(widths, config.downsample)
        self.aspp = ASPP(widths[-1], widths[2])
        in_channels = (*widths[1:], widths[2])
        skip_channels = widths if config.skips else (0,) * len(widths)
        self.blocks = nn.ModuleList(
            _DecoderBlock(in_channels[i], skip_channels[i], widths[i], config.se_ratio) for i in range(len(widths))
        )
        self.classifier = nn.Sequential(nn.Dropout2d(config.dropout), nn.Conv2d(widths[0], num_classes, 1))
        self.has_skips = config.skips

    def forward(self, images_B3HW: Tensor) -> Logits:
        stages, x = self.backbone(images_B3HW)
        x = self.aspp(x)
        for block, stage in zip(reversed(self.blocks), reversed(stages), strict=True):
            x = block(x, stage)
        return Logits(self.classifier(x), None)


class _StridedVGG16(nn.Module):
    """VGG16's thirteen convolutions with batch norm, each stage followed by a halving. Sizes round up."""

    def __init__(self, widths: tuple[int, ...], downsample: str) -> None:
        super().__init__()
        stages, halvings = [], []
        channels = 3
        for width, depth in zip(widths, VGG16_DEPTHS, strict=True):
            stages.append(
                Blocks(conv_bn_relu(channels, width, 3), *(conv_bn_relu(width, width, 3) for _ in range(depth - 1)))
            )
            halvings.append(
                conv_bn_relu(width, width, 3, stride=2) if downsample == "conv" else nn.MaxPool2d(2, ceil_mode=True)
            )
            channels = width
        self.stages, self.halvings = nn.ModuleList(stages), nn.ModuleList(halvings)

    def forward(self, images_B3HW: Tensor) -> tuple[list[Tensor], Tensor]:
        """(each stage's output before its halving, the last one's after it)"""
        outputs, x = [], images_B3HW
        for stage, halving in zip(self.stages, self.halvings, strict=True):
            outputs.append(stage(x))
            x = halving(outputs[-1])
        return outputs, x


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling with the image-level feature (Chen et al. 2017, section 3.3)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(in_channels, channels, 1),
                *(conv_bn_relu(in_channels, channels, 3, dilation=rate) for rate in ASPP_RATES),
            ]
        )
        self.image = conv_bn_relu(in_channels, channels, 1)
        self.project = conv_bn_relu(channels * (len(self.branches) + 1), channels, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        levels = [branch(x_BChw) for branch in self.branches]
        image_BC11 = self.image(F.adaptive_avg_pool2d(x_BChw, 1))
        levels.append(image_BC11.expand(-1, -1, x_BChw.shape[2], x_BChw.shape[3]))
        out: Tensor = self.project(torch.cat(levels, dim=1))
        return out


class _DecoderBlock(nn.Module):
    """Twice the resolution, what the encoder saw there, and a gate per channel."""

    def __init__(self, in_channels: int, skip_channels: int, channels: int, se_ratio: int | None) -> None:
        super().__init__()
        self.deconvolution = nn.Sequential(
            nn.ConvTranspose2d(in_channels, channels, 2, stride=2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.has_skip = skip_channels > 0
        self.conv = conv_bn_relu(channels + skip_channels, channels, 3)
        self.attention = SqueezeExcite(channels, se_ratio) if se_ratio is not None else nn.Identity()

    def forward(self, x_BChw: Tensor, skip_BCHW: Tensor) -> Tensor:
        x = crop_like(self.deconvolution(x_BChw), skip_BCHW)
        if self.has_skip:
            x = torch.cat([x, skip_BCHW], dim=1)
        out: Tensor = self.attention(self.conv(x))
        return out
