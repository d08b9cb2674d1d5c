"""What a training sets up in its process: memory, precision, and the network over the ranks."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distseg import evaluation
from distseg.config import RunConfig
from distseg.evaluation import World

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MAX_MMAP_THRESHOLD = 32 << 20  # glibc refuses more
_SETTINGS_OF_THE_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory(device: torch.device) -> None:
    """Lets a process that trains on CPUs use the memory of one step again in the next one.

    glibc gives blocks as large as activations back to the system, so that each step pays for fresh pages again: 50 MB
    and 2% to 5% of the time of PSPNet-18 at 128x192, more in virtual machines that give them back, too.

    This is a setting of the whole process, for the rest of its life, and glibc has no call to undo it: a process that
    has trained keeps up to its largest amount of memory. Where the environment sets these thresholds, that counts.
    Does nothing where malloc is not glibc's.
    """
    if device.type != "cpu" or any(name in os.environ for name in _SETTINGS_OF_THE_USER):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another C library, or another system
        return
    mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def agreed_precision(config: RunConfig, world: World) -> str:
    """Rank 0's choice on every rank: machines of one cluster may differ."""
    return str(world.gather(evaluation.resolve_precision(config.precision, world.device))[0])


def dtype_of(precision: str) -> torch.dtype:
    """Of the weights."""
    return torch.float64 if precision == "fp64" else torch.float32


def over_ranks(model: nn.Module, world: World) -> nn.Module:
    """The network whose gradients are averaged over the ranks; alone, the network itself."""
    if world.size == 1:
        return model
    # Batch norm's buffers are equal on all ranks by construction, so they need no broadcast.
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def gradients_exchanged_if(is_last: bool, distributed: nn.Module) -> Iterator[None]:
    """With accumulated micro-batches the ranks exchange gradients once, in the last one's backward pass.

    `distributed` is what `over_ranks` gave, not what torch.compile made of it: that is no DistributedDataParallel.
    """
    if is_last or not isinstance(distributed, DistributedDataParallel):
        yield
    else:
        with distributed.no_sync():
            yield
