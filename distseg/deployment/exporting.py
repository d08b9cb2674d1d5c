"""A network as a program that runs without distseg, compared with PyTorch before it counts as written.

Input `images`: float32 (N, 3, H, W), RGB from 0 to 255; output `logits`: float32 (N, K, H, W), at the images' size. N
is free; H and W are any from 33 pixels on, or any multiples of `Deployed.multiple` from there on. Normalisation and
resizing are inside.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg import storage
from distseg.data import MEAN_RGB, STD_RGB
from distseg.errors import ConfigError, DistsegError
from distseg.models import SegmentationModel

TOLERANCE = 1e-3  # largest difference relative to the largest logit
Format = Literal["onnx", "torch-export"]
Run = Callable[[Tensor], Tensor]


class Deployed(nn.Module):
    """From RGB values to logits at the images' size."""

    mean_131: Tensor
    std_131: Tensor

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model
        self.multiple = model.exported_multiple  # H and W must be multiples of it
        self.register_buffer("mean_131", torch.tensor(MEAN_RGB).view(3, 1, 1))
        self.register_buffer("std_131", torch.tensor(STD_RGB).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model((images - self.mean_131) / self.std_131).main_BKhw
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


def export_network(model: SegmentationModel, out: str, *, file_format: Format, size: tuple[int, int]) -> float:
    """Writes `model` to the path or URI `out`. Returns the largest difference from PyTorch, over the largest logit.

    `size`: height and width of the example that the program is traced with. Raises DistsegError, with nothing written,
    if the difference is above `TOLERANCE`; ConfigError if a package that the format needs is not installed.
    """
    deployed = Deployed(model).eval()
    with storage.scratch_folder() as folder:
        file = folder / "model.pt2"  # torch warns of any other ending, whatever the format
        write, load = FORMATS[file_format]
        with quiet_libraries():
            write(deployed, size, file)
            run = load(file)
        difference = largest_difference(deployed, run, size)
        if not difference <= TOLERANCE:
            raise DistsegError(
                f"the exported network differs from the checkpoint by {difference:.1e} of its largest logit "
                f"(limit {TOLERANCE}); nothing is written"
            )
        storage.upload(file, out)
    return difference


@torch.inference_mode()
def largest_difference(deployed: Deployed, run: Run, size: tuple[int, int]) -> float:
    """On other sizes and batches than the example's, relative to the largest logit."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    worst = 0.0
    for batch, h, w in ((1, height, width), (3, height // 2 + 3, width // 2 + 5), (1, height + 64, width - 7)):
        h, w = (max(2, -(-side // deployed.multiple)) * deployed.multiple for side in (h, w))
        images = torch.rand(batch, 3, h, w, generator=generator) * 255
        expected = deployed(images)
        here = ((run(images) - expected).abs().max() / expected.abs().max()).item()
        worst = here if math.isnan(here) else max(worst, here)
        if math.isnan(worst):
            break
    return worst


_CHATTY = ("onnx_ir", "onnxscript", "torch.onnx", "torch.export")


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without what the exporters say of their own work, which is hundreds of lines; errors they raise."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _example(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 255


LEAST_PX = 33
"""At strides up to 32, a shorter side becomes a single cell, for which torch.export would make another program."""


def _dynamic(multiple: int) -> dict[str, dict[int, Any]]:
    """The free sizes of `images`; some networks halve so often that odd sizes cannot be exported."""
    least = max(2, -(-LEAST_PX // multiple))
    height, width = (multiple * torch.export.Dim(name, min=least) for name in ("h", "w"))
    return {"images": {0: torch.export.Dim("n"), 2: height, 3: width}}


def write_torch_export(deployed: Deployed, size: tuple[int, int], file: Path) -> None:
    program = torch.export.export(deployed, (_example(size),), dynamic_shapes=_dynamic(deployed.multiple))
    torch.export.save(program, file)


def load_torch_export(file: Path) -> Run:
    return torch.export.load(file).module()


def write_onnx(deployed: Deployed, size: tuple[int, int], file: Path) -> None:
    torch.onnx.export(
        deployed,
        (_example(size),),
        file,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_dynamic(deployed.multiple),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def load_onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def check_export(file_format: str) -> None:
    """Raises ConfigError if a package that the format needs is not installed."""
    if file_format != "onnx":
        return
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--format onnx needs {error.name}: pip install 'distseg[export]'") from None


FORMATS = {"onnx": (write_onnx, load_onnx), "torch-export": (write_torch_export, load_torch_export)}
