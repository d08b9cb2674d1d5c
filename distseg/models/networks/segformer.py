"""SegFormer (Xie et al. 2021): the hierarchical transformer MiT and a decoder of linear layers.

    images ─▶ stage 1 ─▶ stage 2 ─▶ stage 3 ─▶ stage 4      at 1/4, 1/8, 1/16, 1/32 of the images' size
                 └──────────┴──────────┴──────────┴▶ linear to C, enlarged to 1/4 ─▶ concat ─▶ 1x1 to C ─▶ classifier

A stage: an overlapping patch embedding, which is a strided convolution (section 3.1), blocks, and a layer norm. A
block: self-attention whose keys and values are of a map reduced 8, 4, 2, 1 times a side (equation 2, by a convolution,
as in the authors' code), and a Mix-FFN, whose 3x3 depthwise convolution tells places apart in place of a positional
encoding (equation 3). Sizes and widths are the authors' code's, the MLP four times as wide in each stage: with these
B0 to B5 have 3.8M, 13.7M, 27.5M, 47.3M, 64.1M and 84.7M parameters, those of the paper's table 1. (Its table 6 says 8
times for stages 1 and 2, which gives more.)

Shapes: BhwC maps whose channels are the last dimension, as linear layers and layer norms want them; N = h · w.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import ModelConfig, require
from distseg.models.backbones import load_exactly
from distseg.models.checkpointing import Blocks
from distseg.models.layers import Logits, SegmentationModel, StochasticDepth, classifier, conv_bn_relu, resize_bilinear
from distseg.models.networks._mit_weights import renamed

NUM_HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
MLP_RATIO = 4
SMALL, WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
EPSILON = 1e-6  # of layer norms in blocks and after stages; the authors leave the others at PyTorch's 1e-5

Size = Literal["b0", "b1", "b2", "b3", "b4", "b5"]
_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {  # depths, channels, C of the decoder
    "b0": ((2, 2, 2, 2), SMALL, 256),
    "b1": ((2, 2, 2, 2), WIDE, 256),
    "b2": ((3, 4, 6, 3), WIDE, 768),
    "b3": ((3, 4, 18, 3), WIDE, 768),
    "b4": ((3, 8, 27, 3), WIDE, 768),
    "b5": ((3, 6, 40, 3), WIDE, 768),
}


@dataclass(frozen=True, kw_only=True)
class Options(ModelConfig):
    """SegFormer (Xie et al. 2021)."""

    size: Size = "b0"
    """Of encoder and decoder, as published."""
    drop_path: float = 0.1
    """Stochastic depth: the probability with which the last block's branches are left out for a sample; it grows from
    0 at the first block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.drop_path < 1, "model.drop_path", self.drop_path, "must be in [0, 1)")

    @property
    def foreign_weights(self) -> str | None:
        return f"MiT-{self.size.upper()} by its authors or by transformers"

    @classmethod
    def variants(cls) -> dict[str, ModelConfig]:
        sizes: tuple[Size, ...] = ("b0", "b1", "b2", "b3", "b4", "b5")
        return {f"segformer {size}": cls(size=size) for size in sizes}

    def build(self, num_classes: int, *, aux: bool) -> SegmentationModel:
        return SegFormer(self, num_classes)


class PatchEmbedding(nn.Module):
    """images or x_BChw -> x_BhwC; patches overlap, since the kernel is larger than the stride. Sizes round up."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        x_BhwC: Tensor = self.norm(self.proj(x_BChw).permute(0, 2, 3, 1))
        return x_BhwC


class ReducedAttention(nn.Module):
    """Self-attention of all cells to those of a map that is `reduction` times smaller on each side."""

    def __init__(self, channels: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads, self.reduction = num_heads, reduction
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        is_reduced = reduction > 1
        self.sr = nn.Conv2d(channels, channels, reduction, reduction) if is_reduced else None
        self.norm = nn.LayerNorm(channels) if is_reduced else None

    def forward(self, x_BhwC: Tensor) -> Tensor:
        seen_BhwC = x_BhwC
        if self.sr is not None and self.norm is not None:
            seen_BChw = at_least(x_BhwC.permute(0, 3, 1, 2), self.reduction)
            seen_BhwC = self.norm(self.sr(seen_BChw).permute(0, 2, 3, 1))
        key_BHNc, value_BHNc = (self._heads(each) for each in self.kv(seen_BhwC).chunk(2, dim=-1))
        mixed_BHNc = F.scaled_dot_product_attention(self._heads(self.q(x_BhwC)), key_BHNc, value_BHNc)
        mixed_BhwC = mixed_BHNc.transpose(1, 2).reshape(x_BhwC.shape)
        out: Tensor = self.proj(mixed_BhwC)
        return out

    def _heads(self, x_BhwC: Tensor) -> Tensor:
        heads_BNHc: Tensor = x_BhwC.flatten(1, 2).unflatten(-1, (self.num_heads, -1))
        return heads_BNHc.transpose(1, 2)


def at_least(x_BChw: Tensor, side: int) -> Tensor:
    """Zeros to the right and below where a map is smaller than the kernel that reduces it: images of 28 pixels."""
    height, width = x_BChw.shape[2:]
    if height >= side and width >= side:
        return x_BChw
    return F.pad(x_BChw, (0, max(0, side - width), 0, max(0, side - height)))


class MixFFN(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = MLP_RATIO * channels
        self.fc1 = nn.Linear(channels, width)
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.fc2 = nn.Linear(width, channels)

    def forward(self, x_BhwC: Tensor) -> Tensor:
        x_BChw = self.dwconv(self.fc1(x_BhwC).permute(0, 3, 1, 2))
        out: Tensor = self.fc2(F.gelu(x_BChw.permute(0, 2, 3, 1)))
        return out


class Block(nn.Module):
    def __init__(self, channels: int, num_heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=EPSILON), nn.LayerNorm(channels, eps=EPSILON)
        self.attn = ReducedAttention(channels, num_heads, reduction)
        self.mlp = MixFFN(channels)
        self.kept = StochasticDepth(drop_path)

    def forward(self, x_BhwC: Tensor) -> Tensor:
        x_BhwC = x_BhwC + self.kept(self.attn(self.norm1(x_BhwC)))
        out: Tensor = x_BhwC + self.kept(self.mlp(self.norm2(x_BhwC)))
        return out


class Stage(nn.Module):
    def __init__(self, embed: PatchEmbedding, blocks: Blocks, channels: int) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = embed, blocks, nn.LayerNorm(channels, eps=EPSILON)

    def forward(self, x_BChw: Tensor) -> Tensor:
        out_BChw: Tensor = self.norm(self.blocks(self.embed(x_BChw))).permute(0, 3, 1, 2)
        return out_BChw


class MixTransformer(nn.Module):
    """MiT: images_B3HW -> the maps x_BChw of its four stages."""

    def __init__(self, depths: tuple[int, ...], channels: tuple[int, ...], drop_path: float) -> None:
        super().__init__()
        num_blocks = sum(depths)
        drops = iter(drop_path * i / (num_blocks - 1) for i in range(num_blocks))
        stages, in_channels = [], 3
        for i, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            embed = PatchEmbedding(in_channels, width, *((7, 4) if i == 0 else (3, 2)))
            blocks = (Block(width, NUM_HEADS[i], REDUCTIONS[i], next(drops)) for _ in range(depth))
            stages.append(Stage(embed, Blocks(*blocks), width))
            in_channels = width
        self.stages = nn.ModuleList(stages)
        self.apply(_initialise)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        x, outputs = images_B3HW, []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class SegFormer(SegmentationModel):
    output_stride = 4
    exported_multiple = 32

    def __init__(self, config: Options, num_classes: int) -> None:
        super().__init__()
        depths, channels, width = _SIZES[config.size]
        self.backbone = MixTransformer(depths, channels, config.drop_path)
        self.unified = nn.ModuleList(nn.Linear(each, width) for each in channels)
        self.fuse = conv_bn_relu(len(channels) * width, width, 1)
        self.classifier = classifier(width, num_classes, config.dropout)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        load_exactly(self.backbone, renamed(state), "weights of MiT")

    def forward(self, images_B3HW: Tensor) -> Logits:
        stages = self.backbone(images_B3HW)
        size = (stages[0].shape[2], stages[0].shape[3])
        maps = [
            resize_bilinear(linear(x_BChw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), size)
            for linear, x_BChw in zip(self.unified, stages, strict=True)
        ]
        return Logits(self.classifier(self.fuse(torch.cat(maps[::-1], dim=1))), None)


def _initialise(module: nn.Module) -> None:
    """As the authors' code does. On the meta device there is nothing to draw."""
    if not isinstance(module, nn.Linear | nn.Conv2d) or module.weight.is_meta:
        return
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    else:
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
