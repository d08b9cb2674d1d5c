"""A network as a program that runs without distseg, compared with PyTorch before it counts as written.

Input `images`: float32 (N, 3, H, W), RGB from 0 to 255; output `logits`: float32 (N, K, H, W), at the images' size. N
is free; H and W are any from 33 pixels on, or any multiples of `Deployed.multiple` from there on. Normalisation and
resizing are inside.
"""

import contextlib
import importlib
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg import storage
from distseg.data import MEAN_RGB, STD_RGB
from distseg.deployment.description import least_side
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


def export_network(
    model: SegmentationModel,
    out: str,
    *,
    file_format: Format,
    size: tuple[int, int],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> float:
    """Writes `model` to the path or URI `out`. Returns the largest difference from PyTorch, over the largest logit.

    `size`: height and width of the example that the program is traced with. `metadata`: what the file says of itself,
    see `description`. Raises DistsegError, with nothing written, if the difference is above `TOLERANCE`; ConfigError if
    a package that the format needs is not installed.
    """
    deployed = Deployed(model).eval()
    with storage.scratch_folder() as folder:
        file = folder / "model.pt2"  # torch warns of any other ending, whatever the format
        write, load = FORMATS[file_format]
        with quiet_libraries():
            write(deployed, size, file, metadata)
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


def _dynamic(multiple: int) -> dict[str, dict[int, Any]]:
    """The free sizes of `images`; some networks halve so often that odd sizes cannot be exported."""
    least = least_side(multiple) // multiple
    height, width = (multiple * torch.export.Dim(name, min=least) for name in ("h", "w"))
    return {"images": {0: torch.export.Dim("n"), 2: height, 3: width}}


def write_torch_export(deployed: Deployed, size: tuple[int, int], file: Path, metadata: Mapping[str, str]) -> None:
    program = torch.export.export(deployed, (_example(size),), dynamic_shapes=_dynamic(deployed.multiple))
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(dict(metadata), indent=2)})


def load_torch_export(file: Path) -> Run:
    return torch.export.load(file).module()


def write_onnx(deployed: Deployed, size: tuple[int, int], file: Path, metadata: Mapping[str, str]) -> None:
    program = torch.onnx.export(
        deployed,
        (_example(size),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_dynamic(deployed.multiple),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # dynamo=True gives one
    program.model.metadata_props.update(metadata)
    program.save(str(file), external_data=False)


def load_onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


NEEDED = {"onnx": ("onnxruntime", "onnxscript"), "safetensors": ("safetensors",)}  # format -> packages


def check_export(file_format: str) -> None:
    """Raises ConfigError if a package that the format needs is not installed."""
    try:
        for package in NEEDED.get(file_format, ()):
            importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"--format {file_format} needs {error.name}: pip install 'distseg[export]'") from None


FORMATS = {"onnx": (write_onnx, load_onnx), "torch-export": (write_torch_export, load_torch_export)}
