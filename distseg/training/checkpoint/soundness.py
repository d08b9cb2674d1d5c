"""Whether states of networks and optimisers are finite, as all that is saved must be."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class NotFinite(NamedTuple):
    name: str  # 'model/head.0.weight'
    value: float  # NaN or infinity


def first_not_finite(state: Any) -> NotFinite | None:
    """The first tensor of nested states that holds NaN or infinity; None: all is well.

    A device is waited for once, not once for each tensor.
    """
    named = [(name, tensor) for name, tensor in _floating(state, "") if tensor.numel()]
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in named:
        by_device.setdefault(tensor.device, []).append((name, tensor))
    bad: dict[str, float] = {}
    for pairs in by_device.values():
        # The sum is the fastest look at all values. It may overflow where they are finite: so the largest decides.
        sums = torch.stack([tensor.detach().sum().to(torch.float64) for _, tensor in pairs]).tolist()
        suspects = [pair for pair, total in zip(pairs, sums, strict=True) if not math.isfinite(total)]
        largest = {name: float(torch.linalg.vector_norm(tensor.detach(), math.inf)) for name, tensor in suspects}
        bad |= {name: value for name, value in largest.items() if not math.isfinite(value)}
    return next((NotFinite(name, bad[name]) for name, _ in named if name in bad), None)


def _floating(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        if state.is_floating_point():
            yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _floating(value, f"{name}/{key}" if name else str(key))
