"""AdaIN style transfer (Huang & Belongie 2017) with a ResNet encoder, part (b) of Song et al. 2021.

    content ─▶ encoder ─▶ z ─┐
    style   ─▶ encoder ─▶ s ─┴▶ AdaIN(z, s) = σ(s) · (z - μ(z)) / σ(z) + μ(s) ─▶ decoder ─▶ composite

μ and σ are means and standard deviations over the cells of each channel of each image. Song et al. call α "mean" and μ
"variance" below their equation 1; it is σ and μ, as here. The encoder is frozen, in eval mode, and cut after `depth`
stages; the decoder mirrors it. Their equation 2 compares an image with features; what is meant is the encoder's view of
the decoded image: ‖E(G(ẑ)) - ẑ‖² and the squared differences of means and deviations at all taps.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import RunConfig, require
from distseg.models.backbones import build_resnet
from distseg.models.layers import resize_bilinear
from distseg.models.networks._options import ResNetOptions

EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class Options(ResNetOptions):
    """The AdaIN style network (Song et al. 2021), whose encoder is the ResNet; the group `style` says what to learn."""

    has_timm_encoders: ClassVar[bool] = False

    style_depth: Literal[1, 2, 3] = 2
    """Stages of the encoder: styles are exchanged at 1/4 (1) or 1/8 (2) of the resolution."""

    @property
    def is_style_network(self) -> bool:
        return True

    def build(self, num_classes: int = 0, *, aux: bool = False) -> "StyleNetwork":
        return StyleNetwork(self)

    def check_run(self, config: RunConfig) -> None:
        require(bool(config.style.conditions), "style.conditions", (), "name the conditions to learn the style of")
        require(config.style.network is None, "style.network", config.style.network, "is what is trained here")
        optim, data = config.optim, config.data
        for field, value, only in (
            ("optim.accumulate_steps", optim.accumulate_steps, 1),
            ("optim.clip_norm", optim.clip_norm, None),
            ("optim.ema_decay", optim.ema_decay, None),
            ("data.sampling", data.sampling, "each"),
            ("data.mix", data.mix, ()),
        ):
            require(value == only, field, value, f"{self.name} has no such option; give {only}")


class Statistics(NamedTuple):
    """Of one tap, per image and channel, shape (B, C, 1, 1)."""

    mean_BC11: Tensor
    std_BC11: Tensor


class StyleLosses(NamedTuple):
    """Scalars, means over the batch."""

    content: Tensor
    mean: Tensor
    std: Tensor


def statistics(x_BChw: Tensor) -> Statistics:
    x_BChw = x_BChw.to(torch.promote_types(x_BChw.dtype, torch.float32))  # bf16 would lose the variance
    variance_BC11, mean_BC11 = torch.var_mean(x_BChw, dim=(2, 3), keepdim=True, correction=0)
    return Statistics(mean_BC11, (variance_BC11 + EPSILON).sqrt())


def adain(z_BChw: Tensor, style: Statistics) -> Tensor:
    """z with the style's means and deviations."""
    own = statistics(z_BChw)
    return style.std_BC11 * (z_BChw - own.mean_BC11) / own.std_BC11 + style.mean_BC11


class StyleNetwork(nn.Module):
    """Encoder and decoder; images are normalised as everywhere (ImageNet's mean and deviation)."""

    def __init__(self, config: Options) -> None:
        super().__init__()
        self.depth = config.style_depth
        resnet = build_resnet(config.backbone, config.dilations, config.stem, config.width)
        self.backbone = resnet.requires_grad_(False)
        self.strides = (2, 2, *resnet.strides[1:])[: self.depth + 1]  # of the stem, and between its pooling and stage 1
        channels = (resnet.stem_channels, *resnet.stage_channels)[: self.depth + 1]
        self.decoder = _decoder(channels, self.strides)

    def train(self, mode: bool = True) -> "StyleNetwork":
        super().train(mode)
        self.backbone.eval()
        return self

    def taps(self, images_B3HW: Tensor) -> list[Tensor]:
        """What the encoder sees: the outputs of its stem and of its first `depth` stages."""
        return self.backbone.taps(images_B3HW, self.depth)

    def forward(self, content_B3HW: Tensor, style_B3HW: Tensor) -> StyleLosses:
        """The losses of restyling each content image by the style image of its slot."""
        with torch.no_grad():
            z_BChw = self.taps(content_B3HW)[-1]
            wanted = [statistics(tap) for tap in self.taps(style_B3HW)]
            target_BChw = adain(z_BChw, wanted[-1])
        taps = self.taps(self.decode(target_BChw, content_B3HW))
        found = [statistics(tap) for tap in taps]
        return StyleLosses(
            content=F.mse_loss(taps[-1], target_BChw),
            mean=stack_sum([F.mse_loss(f.mean_BC11, w.mean_BC11) for f, w in zip(found, wanted, strict=True)]),
            std=stack_sum([F.mse_loss(f.std_BC11, w.std_BC11) for f, w in zip(found, wanted, strict=True)]),
        )

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """(none of the frozen encoder's, the decoder's)"""
        return [], list(self.decoder.parameters())

    def decode(self, z_BChw: Tensor, like_B3HW: Tensor) -> Tensor:
        """A normalised image of the size of `like_B3HW`."""
        return resize_bilinear(self.decoder(z_BChw), (like_B3HW.shape[2], like_B3HW.shape[3]))

    @torch.no_grad()
    def style_of(self, images_B3HW: Tensor) -> Statistics:
        """What `restyle` needs of style images."""
        return statistics(self.taps(images_B3HW)[-1])

    @torch.no_grad()
    def restyle(self, images_B3HW: Tensor, style: Statistics, strength: float = 1.0) -> Tensor:
        """Normalised composites: `strength` 0 only encodes and decodes, 1 takes the style whole (section 3.1's α)."""
        z_BChw = self.taps(images_B3HW)[-1].to(style.mean_BC11.dtype)
        mixed_BChw = strength * adain(z_BChw, style) + (1 - strength) * z_BChw
        return self.decode(mixed_BChw, images_B3HW)


def stack_sum(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum()


def _decoder(channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    """From the deepest tap back to 3 channels: per level two 3x3 convolutions, between them what undoes its stride."""
    layers: list[nn.Module] = []
    widths = (3, *channels)
    for level in reversed(range(len(channels))):
        is_last = level == 0
        width = max(widths[level], 32)
        layers += [_reflected(channels[level], width), nn.ReLU(inplace=True)]
        if strides[level] == 2:
            layers.append(nn.Upsample(scale_factor=2.0, mode="nearest"))
        layers.append(_reflected(width, 3 if is_last else widths[level]))
        if not is_last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _reflected(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3, without the dark rims that zero padding draws."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")
