"""Gradient checkpointing (Chen et al. 2016): blocks keep their inputs alone and are computed again in backward passes.

A network's blocks are the children of each `Blocks` in it; `checkpoint_blocks(model)` switches them all. A step learns
the same, to the bit: in the second computation dropout has the masks of the first one, and the running statistics of
batch norm are not updated again. Synchronised batch norm asks the other ranks again, in the same order on each.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distseg.models.dropout import SampleDropout


class Blocks(nn.Sequential):
    """An nn.Sequential whose children can be checkpointed. They must not change their input."""

    is_checkpointed = False

    def forward(self, x: Tensor) -> Tensor:
        is_kept = not (self.is_checkpointed and self.training and torch.is_grad_enabled())
        for block in self:
            x = block(x) if is_kept else _checkpointed(block, x)
        return x


def checkpoint_blocks(model: nn.Module) -> None:
    """Raises ValueError for a network without `Blocks`."""
    found = [module for module in model.modules() if isinstance(module, Blocks)]
    if not found:
        raise ValueError(
            f"model.checkpointing = True: {type(model).__name__} has no distseg.models.Blocks; leave it out"
        )
    for blocks in found:
        blocks.is_checkpointed = True


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _Again(block)))
    return out


class _Again:
    """A block as it was before it was computed first, without an effect on it. Made at that time, entered later."""

    def __init__(self, block: nn.Module) -> None:
        modules = list(block.modules())
        dropouts = [module for module in modules if isinstance(module, SampleDropout)]
        norms = [module for module in modules if getattr(module, "track_running_stats", False)]
        self._wanted: list[tuple[nn.Module, str, Any]] = [
            *((dropout, "num_uses", dropout.num_uses) for dropout in dropouts),
            # So the statistics stay, yet the kernel is the same one. (Without any it would save other tensors.)
            *((norm, "momentum", 0.0) for norm in norms),
            # Another counter, not none: nn.SyncBatchNorm, which GPUs have, refuses to train without one.
            *((norm, "num_batches_tracked", torch.zeros((), dtype=torch.int64)) for norm in norms),
        ]
        self._before: list[Any] = []

    def __enter__(self) -> None:
        self._before = [getattr(module, name) for module, name, _ in self._wanted]
        for module, name, value in self._wanted:
            setattr(module, name, value)

    def __exit__(self, *_: object) -> None:
        for (module, name, _), value in zip(self._wanted, self._before, strict=True):
            setattr(module, name, value)
