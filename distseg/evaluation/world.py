"""Where a process stands among those that work on one run: its rank, their number, its device."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distseg.errors import ConfigError, ResourceError


@dataclass(frozen=True)
class World:
    """Where this process stands among the ranks. With size > 1, torch.distributed must have been initialised."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place and returned."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """What each rank gave, in the order of the ranks, on every rank. For small things: it is pickled."""
        values = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values


def torchrun_world(timeout_s: float = 600.0) -> World:
    """The world that torchrun describes in the environment; initialises torch.distributed when it has several ranks.

    Raises ConfigError for an environment that describes none, and ResourceError where this machine has GPUs, but none
    for this process.
    """
    rank, size, local_rank = _number("RANK", 0), _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0)
    if rank >= size:
        raise ConfigError(f"RANK = {rank}: must be below WORLD_SIZE, which is {size}; let torchrun set both")
    has_gpu = torch.cuda.is_available()
    if has_gpu and local_rank >= (num_gpus := torch.cuda.device_count()):
        raise ResourceError(
            f"LOCAL_RANK = {local_rank}: each process of a machine takes a GPU, and torch sees {num_gpus} here; give "
            f"torchrun --nproc-per-node {num_gpus}, or set CUDA_VISIBLE_DEVICES to nothing to work on CPUs"
        )
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        with _ended_by_interrupt():
            dist.init_process_group("nccl" if has_gpu else "gloo", timeout=timedelta(seconds=timeout_s))
    return World(rank, size, device)


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable, str(default))
    if not (value.isascii() and value.isdecimal()):
        raise ConfigError(f"{variable} = {value!r}: must be a whole number from 0 on; let torchrun set it, or unset it")
    return int(value)


@contextlib.contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Ctrl-C ends the process at once. Python would heed it only when torch has found all ranks, or gives up."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
