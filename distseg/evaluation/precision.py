"""How images become a network's input: its number format, and ImageNet's normalisation."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from distseg.config import Precision
from distseg.data import MEAN_RGB, STD_RGB
from distseg.errors import ConfigError

log = logging.getLogger(__name__)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["bf16", "fp32", "fp64"]:
    """'auto' is bf16 where the device computes in it faster than in fp32. Raises ConfigError for bf16 it cannot do."""
    if precision in ("fp32", "fp64"):
        return precision
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not has_bf16:
            raise ConfigError("precision = 'bf16': this GPU has no bf16; use fp32 or auto")
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


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def full_dtype(precision: str) -> torch.dtype:
    """Of images, weights and logits: what bf16 is not used for."""
    return torch.float64 if precision == "fp64" else torch.float32


def normalize(images_B3HW: Tensor, precision: str) -> Tensor:
    """uint8 RGB -> floats with ImageNet's mean and deviation, channels_last, in fp32 (fp64 for precision fp64)."""
    dtype = full_dtype(precision)
    mean = torch.tensor(MEAN_RGB, dtype=dtype, device=images_B3HW.device).view(1, 3, 1, 1)
    std = torch.tensor(STD_RGB, dtype=dtype, device=images_B3HW.device).view(1, 3, 1, 1)
    return (images_B3HW.to(dtype) - mean).div_(std).contiguous(memory_format=torch.channels_last)
