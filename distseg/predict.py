"""python -m distseg.predict --checkpoint URI --images DIR|URI --out DIR [--scales …] [--flip] [--sliding]

Segments the photographs of a directory or s3:// prefix, of any sizes, with a checkpoint's network. For each it writes
`label/NAME.png`, class ids in the label space's palette, and `overlay/NAME.png`, the photograph tinted by class.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from distseg import cli, evaluation, storage
from distseg.config import Precision
from distseg.data import LabelSpace
from distseg.errors import DataError
from distseg.training import checkpoint, load_model

PROG = "python -m distseg.predict"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
OVERLAY_OPACITY = 0.5


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.InferenceOptions):
    checkpoint: str
    """A checkpoint's directory, a run's (its best by val/mIoU), or a file of `export --format weights`; path or URI."""
    images: str
    """Directory or s3:// prefix; all photographs below it."""
    out: str
    """Directory or s3:// prefix for label/ and overlay/; names and sub-directories are kept."""
    precision: Precision = "auto"


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    uri, saved = checkpoint.resolve(options.checkpoint)
    inference = options.inference(saved.config)
    names = image_names(options.images)
    storage.check_writable(options.out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = evaluation.resolve_precision(options.precision, device)
    model = load_model(saved, device, precision)
    with cli.progress("predicting", "images") as progress:
        for number, name in enumerate(names, 1):
            source = storage.join(options.images, name)
            image = decode(storage.read_bytes(source), source)
            image_1HW3 = torch.from_numpy(np.array(image))[None]
            images_13HW = image_1HW3.permute(0, 3, 1, 2).to(device)
            ids_HW = evaluation.predict(model, images_13HW, precision, inference)[0].to(torch.uint8).cpu().numpy()
            target = str(PurePosixPath(name).with_suffix(".png"))
            colours = in_palette(ids_HW, saved.label_space)
            storage.write_bytes(storage.join(options.out, "label", target), _png(colours))
            tinted = overlay(image, ids_HW, saved.label_space)
            storage.write_bytes(storage.join(options.out, "overlay", target), _png(tinted))
            progress(number, len(names))
    print(f"{len(names)} images segmented by {uri}")
    print(f"written     {storage.join(options.out, 'label')} and {storage.join(options.out, 'overlay')}")
    return 0


def image_names(uri: str) -> list[str]:
    """The photographs below a directory, relative to it. Raises DataError if there are none or two give one result."""
    root = uri.rstrip("/") + "/"
    found = (entry.uri.removeprefix(root) for entry in storage.list_files(uri))
    names = [name for name in found if name.lower().endswith(SUFFIXES)]
    if outside := [name for name in names if ".." in name.split("/")]:
        raise DataError(f"{uri}: {outside[0]} would be written outside --out; rename it")
    if not names:
        raise DataError(f"{uri}: no images below it ({', '.join(SUFFIXES)}); give the directory they are in")
    results: dict[str, str] = {}
    for name in names:
        other = results.setdefault(str(PurePosixPath(name).with_suffix("")), name)
        if other != name:
            raise DataError(f"{uri}: {other} and {name} would be written to the same file; rename one of them")
    return names


def decode(data: bytes, source: str) -> Image.Image:
    """Any 8-bit image as RGB, as its pixels are stored. Raises DataError naming it."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{source}: not a readable image ({error}); repair or remove it") from None
    if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1"):
        raise DataError(f"{source}: an image of mode {image.mode}; give 8-bit images")
    return image.convert("RGB")


def in_palette(ids_HW: npt.NDArray[np.uint8], labels: LabelSpace) -> Image.Image:
    """A paletted image whose values are the class ids."""
    image = Image.fromarray(ids_HW, mode="L").convert("P")
    image.putdata(ids_HW.reshape(-1))  # convert("P") may renumber
    image.putpalette([channel for colour in labels.palette for channel in colour])
    return image


def overlay(image: Image.Image, ids_HW: npt.NDArray[np.uint8], labels: LabelSpace) -> Image.Image:
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: labels.num_classes] = labels.palette
    return Image.blend(image, Image.fromarray(palette[ids_HW]), OVERLAY_OPACITY)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    cli.run(main)
