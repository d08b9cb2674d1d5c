"""R2U-Net, the recurrent residual variant of U-Net (Alom et al. 2018).

Mukherjee & Bhattacharjee count 30.0M parameters and give no widths. At 19 classes 64 channels make 39.09M, 56 make
29.93M.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from distseg.config import require
from distseg.models.checkpointing import Blocks
from distseg.models.layers import SegmentationModel, conv_bn_relu
from distseg.models.networks._options import WidthOptions
from distseg.models.networks.unet import UNet


@dataclass(frozen=True, kw_only=True)
class Options(WidthOptions):
    """R2U-Net (Alom et al. 2018)."""

    recurrence: int = 2
    """t: each recurrent convolution is applied t + 1 times."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.recurrence <= 16, "model.recurrence", self.recurrence, "must not be negative, nor above 16")

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return R2UNet(self, num_classes)


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
        self.recurrent = Blocks(RecurrentConv(out_channels, t), RecurrentConv(out_channels, t))

    def forward(self, x: Tensor) -> Tensor:
        x = self.match(x)
        out: Tensor = x + self.recurrent(x)
        return out


class R2UNet(UNet):
    """U-Net whose double convolutions are recurrent residual blocks, `config.recurrence` = t."""

    def __init__(self, config: Options, num_classes: int) -> None:
        super().__init__(config, num_classes, lambda i, o: RecurrentResidual(i, o, config.recurrence))
