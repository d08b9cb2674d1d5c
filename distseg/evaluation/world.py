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

from distseg.errors import ConfigError, ResourceError, first_line


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

    Raises ConfigError for an environment that describes none, and ResourceError if the other ranks do not come, or if
    this machine has GPUs, but none for this process.
    """
    rank, size, local_rank = _number("RANK", 0), world_size(), _number("LOCAL_RANK", 0)
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
        _meet("nccl" if has_gpu else "gloo", rank, size, timeout_s)
    return World(rank, size, device)


def world_size() -> int:
    """What torchrun says, 1 without it. Raises ConfigError if that is no number of processes."""
    return _number("WORLD_SIZE", 1, least=1)


def _meet(backend: str, rank: int, size: int, timeout_s: float) -> None:
    address, port = os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT", 0)
    if not address or not 0 < port < 1 << 16:
        raise ConfigError(
            f"MASTER_ADDR = {address!r}, MASTER_PORT = {port}: must be the host and port at which {size} processes "
            "meet; let torchrun set them"
        )
    try:
        with _ended_by_signals():
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    except (dist.DistError, OSError) as error:
        raise ResourceError(
            f"rank {rank} of {size} did not meet the others at {address}:{port} ({first_line(error)}); are all "
            "started, and is the port free and reachable?"
        ) from None


def _number(variable: str, default: int, least: int = 0) -> int:
    value = os.environ.get(variable, str(default))
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) >= least):
        raise ConfigError(
            f"{variable} = {value!r:.80}: must be a whole number from {least} on; let torchrun set it, or unset it"
        )
    return int(value)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Signals end the process at once. Python would heed them only when torch has found all ranks, or gives up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    heeded = {signum: handler for signum, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for signum in heeded:
        signal.signal(signum, signal.SIG_DFL)
    try:
        yield
    finally:
        for signum, handler in heeded.items():
            signal.signal(signum, handler)
