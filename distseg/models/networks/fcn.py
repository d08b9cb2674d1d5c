"""FCNs on VGG16: FCN-32s/16s/8s (Long et al. 2015) and the FCN with attention (Shen & Sun 2022).

The dilated FCN baseline of Zhao et al. 2017, table 1, is `PSPNet` without bins: see `pspnet`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import ModelConfig
from distseg.models.backbones import VGG16, VGG16_DEPTHS, VGG16_WIDTHS
from distseg.models.layers import Logits, SegmentationModel, SqueezeExcite, conv_bn_relu

FC_CHANNELS = 4096
SKIPPED = {32: (), 16: (3,), 8: (3, 2)}  # output stride -> stages whose scores are added, deepest first


class FCN(SegmentationModel):
    """FCN-32s, -16s or -8s: VGG16 as convolutions, and scores of shallower stages added to upsampled deeper ones.

    Deconvolutions between the scores are learned and start as bilinear interpolation (section 4.3); the last upsampling
    is bilinear and outside, as everywhere here. fc6 keeps the size by padding 3 where the authors pad the image by 100;
    it and fc7 start random even with ImageNet's weights.
    134.4M parameters at 21 classes, most of them in fc6, as in the paper's table 1 (134M for FCN-VGG16).
    """

    exported_multiple = 32

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.backbone = VGG16(has_bn=config.backbone == "vgg16_bn")
        self.output_stride = config.fcn_stride
        self.skipped = SKIPPED[config.fcn_stride]
        self.fc6 = nn.Conv2d(VGG16_WIDTHS[-1], FC_CHANNELS, 7, padding=3)
        self.fc7 = nn.Conv2d(FC_CHANNELS, FC_CHANNELS, 1)
        self.dropout = nn.Dropout2d(config.dropout)
        self.score = nn.Conv2d(FC_CHANNELS, num_classes, 1)
        self.skip_scores = nn.ModuleList(nn.Conv2d(VGG16_WIDTHS[stage], num_classes, 1) for stage in self.skipped)
        self.upsamplings = nn.ModuleList(_bilinear_deconvolution(num_classes) for _ in self.skipped)

    def forward(self, images_B3HW: Tensor) -> Logits:
        stages = self.backbone(images_B3HW)
        x = self.dropout(F.relu(self.fc6(stages[-1])))
        x = self.dropout(F.relu(self.fc7(x)))
        scores_BKhw = self.score(x)
        for stage, score, upsampling in zip(self.skipped, self.skip_scores, self.upsamplings, strict=True):
            skip_BKhw = score(stages[stage])
            scores_BKhw = _cut(upsampling(scores_BKhw), skip_BKhw) + skip_BKhw
        return Logits(scores_BKhw, None)


def _bilinear_deconvolution(num_classes: int) -> nn.ConvTranspose2d:
    """Twice the size; starts as bilinear interpolation of each class by itself."""
    deconvolution = nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2, padding=1, bias=False)
    tent_4 = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        deconvolution.weight.copy_(torch.eye(num_classes)[:, :, None, None] * torch.outer(tent_4, tent_4))
    return deconvolution


def _cut(x_BCHW: Tensor, like: Tensor) -> Tensor:
    """Pools round up, so what was upsampled may have a row or column too many."""
    return x_BCHW[:, :, : like.shape[2], : like.shape[3]]


# ---- with attention

ASPP_RATES = (6, 12, 18)  # Chen et al. 2017, at output stride 16; the paper gives none


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

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
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
                nn.Sequential(
                    conv_bn_relu(channels, width, 3), *(conv_bn_relu(width, width, 3) for _ in range(depth - 1))
                )
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
        x = _cut(self.deconvolution(x_BChw), skip_BCHW)
        if self.has_skip:
            x = torch.cat([x, skip_BCHW], dim=1)
        out: Tensor = self.attention(self.conv(x))
        return out
