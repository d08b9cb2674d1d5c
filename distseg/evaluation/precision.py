"""How images become a network's input: its number format, and ImageNet's normalisation."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from distseg.config import Precision
from distseg.data import MEAN_RGB, STD_RGB
from distseg.errors import ConfigError

log = logging.getLogger(__name__)


Resolved = Literal["bf16", "fp16", "fp32", "fp64", "tf32"]
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Precision, device: torch.device) -> Resolved:
    """'auto' is bf16 where the device computes in it faster than in fp32. Raises ConfigError for what it cannot do."""
    if precision in ("fp16", "fp32", "fp64"):
        return precision
    if precision == "tf32":
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            raise ConfigError("precision = 'tf32': only GPUs from Ampere on compute in it; use fp32 or auto")
        return precision
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not has_bf16:
            raise ConfigError("precision = 'bf16': this GPU has no bf16; use fp16, fp32 or auto")
        return "bf16" if has_bf16 else "fp32"
    return "bf16" if precision == "bf16" or _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    """torch tells it by `get_capabilities`; older versions by functions that are not public."""
    if hasattr(torch.cpu, "get_capabilities"):
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_tile"))
    try:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    except AttributeError:
        log.warning("torch %s does not tell whether this CPU has bf16: precision 'auto' is fp32", torch.__version__)
        return False


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """For a forward pass."""
    half = torch.autocast(device.type, dtype=_HALF[precision]) if precision in _HALF else nullcontext()
    with products(precision, device), half:
        yield


@contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """On GPUs, products of fp32 are those of fp32, and of TF32 only for precision tf32.

    PyTorch's default differs between matrix products and convolutions. Backward passes need this, too.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def full_dtype(precision: str) -> torch.dtype:
    """Of images, weights and logits: what bf16 and fp16 are not used for."""
    return torch.float64 if precision == "fp64" else torch.float32


def normalize(images_B3HW: Tensor, precision: str, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    """uint8 RGB -> floats with ImageNet's mean and deviation, in fp32 (fp64 for precision fp64)."""
    # On a CPU colour by colour, and only then in the memory format: three values in a row take it five times as long.
    first_format = torch.contiguous_format if images_B3HW.device.type == "cpu" else memory_format
    images_B3HW = images_B3HW.to(full_dtype(precision), memory_format=first_format)
    mean_311, std_311 = (of_colours(values, images_B3HW) for values in (MEAN_RGB, STD_RGB))
    return (images_B3HW - mean_311).div_(std_311).contiguous(memory_format=memory_format)


def denormalize(images_B3HW: Tensor) -> Tensor:
    """The inverse: floating colours from 0 to 255."""
    mean_311, std_311 = (of_colours(values, images_B3HW) for values in (MEAN_RGB, STD_RGB))
    return images_B3HW * std_311 + mean_311


def of_colours(values: Sequence[float], like: Tensor) -> Tensor:
    """A value for each colour, (3, 1, 1), filled in on the device: a GPU would wait for a copy from the host."""
    return torch.stack([torch.full((), value, dtype=like.dtype, device=like.device) for value in values])[:, None, None]
