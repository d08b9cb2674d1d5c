"""python -m distseg.export --checkpoint URI --format onnx|torch-export|weights --out FILE [--size 256 512]

`weights` writes one small file that every --checkpoint takes: the weights, classes, configuration and scores.
The others write a checkpoint's network for use without distseg. Input `images`: float32 (N, 3, H, W), RGB from 0 to
255; output `logits`: float32 (N, K, H, W), at the images' size. N is free, H and W are too, or any multiples of 8
(ENet), 16 (U-Nets) or 32 (FCNs on VGG16). Normalisation and resizing are inside.
Their file is run on random input of several sizes and compared with the checkpoint before it counts as written.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg import cli, storage
from distseg.errors import ConfigError, DistsegError
from distseg.evaluation import MEAN_RGB, STD_RGB
from distseg.models import SegmentationModel
from distseg.training import checkpoint, load_model

PROG = "python -m distseg.export"
TOLERANCE = 1e-3  # largest difference relative to the largest logit
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    checkpoint: str
    """A checkpoint's directory, a run's (its best by val/mIoU), or a file of `export --format weights`; path or URI."""
    format: Literal["onnx", "torch-export", "weights"]
    out: str
    """The file: a path or s3:// URI."""
    size: tuple[int, int] = (256, 512)
    """Height and width of the example that a program is traced with; any other may be used later."""


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


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    if min(options.size) < 64 or any(side % 32 for side in options.size):
        raise ConfigError(f"--size {options.size}: both sides must be multiples of 32, at least 64")
    if options.format == "onnx":
        _needs_onnx()
    uri, saved = checkpoint.resolve(options.checkpoint)
    storage.check_writable(options.out.rpartition("/")[0] or ".")
    model = load_model(saved, torch.device("cpu"), "fp32")
    if options.format == "weights":
        storage.write_bytes(options.out, checkpoint.as_one_file(saved))
    else:
        difference = write_program(Deployed(model).eval(), options)
        print(f"differs by at most {difference:.1e} on random images of 3 sizes")
    print(f"{saved.config.model.name} of {uri}, step {saved.step}")
    print(f"written     {options.out}")
    return 0


def write_program(deployed: Deployed, options: Arguments) -> float:
    """Writes the file and returns how far it is from PyTorch. Raises DistsegError if that is too far."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model"
        write, load = FORMATS[options.format]
        write(deployed, options.size, file)
        difference = largest_difference(deployed, load(file), options.size)
        if not difference <= TOLERANCE:
            raise DistsegError(
                f"the exported network differs from the checkpoint by {difference:.1e} of its largest logit "
                f"(limit {TOLERANCE}); nothing is written"
            )
        storage.upload(file, options.out)
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


def _example(size: tuple[int, int]) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 255


def _dynamic(multiple: int) -> dict[str, dict[int, Any]]:
    """The free sizes of `images`; some networks halve so often that odd sizes cannot be exported."""
    least = max(2, -(-33 // multiple))
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


def _needs_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--format onnx needs {error.name}: pip install 'distseg[export]'") from None


FORMATS = {"onnx": (write_onnx, load_onnx), "torch-export": (write_torch_export, load_torch_export)}


if __name__ == "__main__":
    cli.run(main)
