"""What a training sets up in its process: memory, precision, layout, copies to and from a GPU, and the ranks."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distseg import evaluation
from distseg.config import Layout, ModelConfig, RunConfig
from distseg.evaluation import World

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_THRESHOLDS = ("mmap_threshold", "mmap_max", "trim_threshold")


def keep_freed_memory(device: torch.device) -> None:
    """Lets a process that trains or segments on CPUs use the memory of one batch again for the next one.

    glibc gives blocks as large as activations and gradients back to the system, so that each step pays for fresh pages
    again: in PSPNet-50, whose weights alone are 200 MB, an eighth of a step. It holds in the main thread, as under
    torchrun. Ray Train's workers train in another one, which has an arena of its own unless the process began with
    `glibc.malloc.arena_max=1`, as on a cluster that is started here; glibc keeps what lies there only in part.

    This is a setting of the whole process, for the rest of its life, and glibc has no call to undo it: a process that
    has trained keeps up to its largest amount of memory. Where the environment sets these thresholds, that counts.
    Does nothing where malloc is not glibc's.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")  # of which a cluster that is started here sets another one
    is_set = any(f"MALLOC_{name.upper()}_" in os.environ or f"malloc.{name}=" in tunables for name in _THRESHOLDS)
    if device.type != "cpu" or is_set:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another C library, or another system
        return
    mallopt(_M_MMAP_MAX, 0)  # no block is mapped by itself, since freeing it would unmap it, however large it is
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def agreed_precision(config: RunConfig, world: World) -> str:
    """One for all ranks: fp32, where "auto" is another one on some of a cluster's machines than on others."""
    chosen = set(world.gather(evaluation.resolve_precision(config.precision, world.device)))
    return chosen.pop() if len(chosen) == 1 else "fp32"


def agreed_layout(config: RunConfig, precision: str, world: World) -> torch.memory_format:
    """Rank 0's choice on every rank, likewise."""
    layout = world.gather(layout_of(config.layout, config.model, precision, world.device))[0]
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def layout_of(layout: Layout, model: ModelConfig, precision: str, device: torch.device) -> Layout:
    """How images and weights lie in memory; "auto" is the faster way."""
    if layout != "auto":
        return layout
    return model.layout_on_cpu(precision) if device.type == "cpu" else "channels_last"


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


@contextlib.contextmanager
def step_kernels(precision: str, device: torch.device) -> Iterator[None]:
    """For a training step, whose images always have the same size: cuDNN tries its kernels and takes the fastest.

    Not for evaluation, where it would try them anew for each size of image.
    """
    before = torch.backends.cudnn.benchmark
    with evaluation.products(precision, device):
        try:
            torch.backends.cudnn.benchmark = device.type == "cuda"
            yield
        finally:
            torch.backends.cudnn.benchmark = before


class DeviceCopies:
    """Brings batches to the device; to a GPU while it still works on the step before.

    That takes pinned memory, which the readers have where the device is a GPU, and a stream of its own: kernels and
    copies of one stream wait for each other.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        if self._stream is None:
            return [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        with torch.cuda.stream(self._stream):
            copies = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        step_stream = torch.cuda.current_stream(self.device)
        step_stream.wait_stream(self._stream)
        for copy in copies:
            copy.record_stream(step_stream)  # else its memory would be used again while the step still reads it
        return copies


def from_host(values: Tensor, device: torch.device) -> Tensor:
    """What was drawn on the host, such as random choices, there; a GPU copies it while the host goes on."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


class HostCopy:
    """A tensor on its way to the host, which goes on meanwhile and looks at it later.

    `tolist()` on the device would wait for all that has been queued after it, too.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._values = tensor.to("cpu", non_blocking=True)  # from a GPU: into pinned memory
        self._copied = torch.cuda.Event() if tensor.is_cuda else None
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        if self._copied is not None:
            self._copied.synchronize()
        return self._values
