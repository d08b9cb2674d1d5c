"""What networks are built from, and what every network is.

Shapes: B images, C channels, H W pixels, h w cells of the network's own resolution, K classes.

A `SegmentationModel` maps float images_B3HW, normalised, to `Logits` at its own resolution: upsampling them, the loss
and the metrics live outside. Any H and W from 32 pixels on will do; they need not be multiples of the output stride.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Logits(NamedTuple):
    main_BKhw: Tensor
    aux_BKhw: Tensor | None  # of the auxiliary head: in training mode, of a model built with one


class SegmentationModel(nn.Module):
    """A network with a `backbone`, whose weights may come from ImageNet, and heads, which is all the rest."""

    backbone: nn.Module
    output_stride: int  # pixels per cell of the main logits
    exported_multiple: int = 1  # of pixels, which both sides of an image have to be for an exported network

    def forward(self, images_B3HW: Tensor) -> Logits:
        raise NotImplementedError

    def __call__(self, images_B3HW: Tensor) -> Logits:
        logits: Logits = super().__call__(images_B3HW)
        return logits

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Copies a state dict that was not made by distseg: of the backbone, or of the whole network by its authors.

        Keys and shapes must match exactly. Raises ValueError that names those which do not. A network that knows no
        such state dict leaves this as it is.
        """
        raise ValueError(f"{type(self).__name__} has no backbone that takes a state dict")

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """(backbone, heads): each parameter once, in the order of the state dict."""
        backbone = list(self.backbone.parameters())
        known = {id(parameter) for parameter in backbone}
        return backbone, [parameter for parameter in self.parameters() if id(parameter) not in known]


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size (or divides it by `stride`), without bias since batch norm follows."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def classifier(in_channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Dropout of whole channels, then a 1x1 convolution to logits."""
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(in_channels, num_classes, 1))


class StochasticDepth(nn.Module):
    """Leaves a residual branch out for a sample, with probability p; where it stays it is scaled by 1 / (1 - p).

    Huang et al. 2016. The choice is dropout of a one for each sample, so `drop_by_sample` makes it the sample's own.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p)

    def forward(self, x_B: Tensor) -> Tensor:
        if not self.training or self.dropout.p == 0:
            return x_B
        gate_B: Tensor = self.dropout(x_B.new_ones(len(x_B), *(1,) * (x_B.ndim - 1)))
        return x_B * gate_B


def resize_bilinear(x_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with align_corners=False, as everywhere in distseg."""
    return F.interpolate(x_BChw, size, mode="bilinear", align_corners=False)


def crop_like(x_BCHW: Tensor, like_BChw: Tensor) -> Tensor:
    """Cuts off the last row or column that upsampling makes too many, since poolings round sizes up."""
    return x_BCHW[:, :, : like_BChw.shape[2], : like_BChw.shape[3]]


def adaptive_pool(x_BChw: Tensor, bins: int, pool: str) -> Tensor:
    """Means ('avg') or maxima ('max') over bins x bins cells that share h and w out as evenly as can be."""
    if torch.onnx.is_in_onnx_export():
        return _pool_rows(_pool_rows(x_BChw, bins, pool).mT, bins, pool).mT
    pooled: Tensor = F.adaptive_avg_pool2d(x_BChw, bins) if pool == "avg" else F.adaptive_max_pool2d(x_BChw, bins)
    return pooled


def _pool_rows(x_BChw: Tensor, bins: int, pool: str) -> Tensor:
    """Along h only, by slices: ONNX has no adaptive pooling for sizes that are not known yet."""
    height = x_BChw.shape[2]
    cells = [x_BChw[:, :, i * height // bins : ((i + 1) * height + bins - 1) // bins] for i in range(bins)]
    return torch.stack([cell.mean(2) if pool == "avg" else cell.amax(2) for cell in cells], dim=2)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means (Hu et al. 2018, section 3).

    GAP -> C/ratio -> ReLU -> C -> sigmoid, no batch norm.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        if ratio < 1 or channels % ratio:
            raise ValueError(f"model.se_ratio = {ratio}: must divide the head's {channels} channels")
        self.squeeze = nn.Conv2d(channels, channels // ratio, 1)
        self.excite = nn.Conv2d(channels // ratio, channels, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        squeezed_BC11 = F.relu(self.squeeze(F.adaptive_avg_pool2d(x_BChw, 1)))
        gate_BC11: Tensor = self.excite(squeezed_BC11).sigmoid()
        return x_BChw * gate_BC11
