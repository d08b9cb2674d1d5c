"""Photographs of a directory or s3:// prefix, and the images that their segmentations are written as."""

import io
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from distseg import storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data import LabelSpace, images
from distseg.data.raw import is_left_behind
from distseg.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
OVERLAY_OPACITY = 0.5


def photographs_below(uri: str) -> list[str]:
    """The photographs below a directory, relative to it, without what operating systems leave behind, as for `pack`.

    Raises DataError if there are none or two give one result.
    """
    return list(sizes_below(uri))


def sizes_below(uri: str) -> dict[str, int]:
    """The same with the bytes of each."""
    root = uri.rstrip("/") + "/"
    found = ((entry.uri.removeprefix(root), entry.num_bytes) for entry in storage.list_files(uri))
    names = {name: size for name, size in found if name.lower().endswith(SUFFIXES) and not is_left_behind(name)}
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


def decode_photograph(data: bytes, source: str, max_megapixels: float = MAX_MEGAPIXELS) -> Image.Image:
    """Any image as RGB, upright, as `distseg.data.images` has it. Raises DataError naming it."""
    return images.photograph(data, source, max_megapixels=max_megapixels)


def label_image(ids_HW: npt.NDArray[np.uint8], labels: LabelSpace) -> Image.Image:
    """A paletted image whose values are the class ids."""
    image = Image.fromarray(ids_HW, mode="L").convert("P")
    image.putdata(ids_HW.reshape(-1))  # convert("P") may renumber
    image.putpalette([channel for colour in labels.palette for channel in colour])
    return image


def tinted(image: Image.Image, ids_HW: npt.NDArray[np.uint8], labels: LabelSpace) -> Image.Image:
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: labels.num_classes] = labels.palette
    return Image.blend(image, Image.fromarray(palette[ids_HW]), OVERLAY_OPACITY)


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
