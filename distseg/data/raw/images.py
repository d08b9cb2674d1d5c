"""Photographs and label maps of raw data sets, read and checked. An unreadable file is a DataError, never repaired.

JPEG and 8-bit RGB PNG photographs go into a shard byte for byte. Grey, palette, RGBA (its alpha is dropped), 16-bit and
CMYK ones are encoded anew as RGB PNG, which loses nothing that 8 bits of red, green and blue can hold.
"""

import contextlib
import functools
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from distseg import storage
from distseg.data import MAX_KEY_LENGTH, LabelledImage, LabelSpace, Sample
from distseg.data.raw.files import Pair
from distseg.errors import DataError, first_line

Ids = npt.NDArray[np.integer[Any]]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # where the byte stands: after the signature, then the IHDR chunk's length, type and sizes


def sample(
    root: str,
    pair: Pair,
    labels: LabelSpace,
    *,
    split: str,
    sequence: str,
    key: str = "",
    condition: str = "all",
    site: str = "all",
    read: Callable[[str], Ids] | None = None,
) -> Sample:
    """`key`: by default the photograph's name. `read`: how the label map is read, `read_ids` by default."""
    return Sample(
        key=plain_key(key or pair.stem),
        condition=condition,
        site=site,
        sequence=sequence,
        split=split,
        source=pair.image.removeprefix(root.rstrip("/") + "/"),
        load=functools.partial(load_pair, pair.image, pair.label, labels, read or read_ids),
    )


def plain_key(name: str) -> str:
    """The name if it can name a member of a tar; else its usable characters and a digest, so that it stays unique."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if plain == name and len(name) <= MAX_KEY_LENGTH:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()  # a file's name need not be UTF-8
    return f"{plain[: MAX_KEY_LENGTH - 9]}-{digest[:8]}"


def load_pair(image_uri: str, label_uri: str, labels: LabelSpace, read: Callable[[str], Ids]) -> LabelledImage:
    data, image_format, size = _read_photograph(image_uri)
    ids_HW = read(label_uri)
    label_size = ids_HW.shape[::-1]
    if label_size != size:
        raise DataError(f"{label_uri}: {_pixels(label_size)}, but its image is {_pixels(size)}")
    return LabelledImage(data, image_format, labels.to_train_ids(ids_HW, label_uri))


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]} pixels"


# ---- photographs


def _read_photograph(uri: str) -> tuple[bytes, Literal["jpg", "png"], tuple[int, int]]:
    """The encoded image as the shard will have it, its format, and (width, height)."""
    data = storage.read_bytes(uri)
    image = decode(data, uri)
    if image.format not in ("JPEG", "MPO", "PNG"):
        raise DataError(f"{uri}: photographs are JPEG or PNG, this one is {image.format}; convert it")
    turn = _orientation(image)
    if turn != 1:
        raise DataError(
            f"{uri}: EXIF orientation {turn}: whether its label map is turned, too, cannot be known; "
            "turn both upright, or remove the tag"
        )
    if image.format == "JPEG" and image.mode == "RGB":
        return data, "jpg", image.size
    if image.format == "PNG" and image.mode == "RGB" and data[_PNG_BIT_DEPTH] == 8:
        return data, "png", image.size
    return _rgb_png(image), "png", image.size


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) if the tag is missing, unreadable or another number."""
    turn = 1
    with contextlib.suppress(SyntaxError, ValueError, KeyError, TypeError, struct.error):
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if turn in range(2, 9) else 1


def _rgb_png(image: Image.Image) -> bytes:
    if image.mode.startswith("I"):  # 16 bits of grey; PIL would cut off above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # PIL warns of palettes with transparency
        image = image.convert("RGBA")
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def decode(data: bytes, uri: str, rawmode: str = "") -> Image.Image:
    """An encoded image, fully decoded. `rawmode`: another layout of a pixel's bytes, by its name in Pillow."""
    if not data:
        raise DataError(f"{uri}: not a readable image (the file is empty)")
    try:
        if data.startswith(_PNG_SIGNATURE) and not rawmode:  # with a rawmode it is decoded for the second time
            Image.open(io.BytesIO(data)).verify()  # checksums, which decoding does not check
        image = Image.open(io.BytesIO(data))
        if rawmode:
            image.tile = [tile._replace(args=rawmode) for tile in image.tile]
        image.load()
    except UnidentifiedImageError as error:
        raise DataError(f"{uri}: not a readable image (of no known format, or its beginning is damaged)") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{uri}: not a readable image ({first_line(error)})") from error
    return image


# ---- label maps


def read_ids(uri: str) -> Ids:
    """The ids (H, W) of a PNG of 1 to 16 bits of grey or of palette indices (the palette's colours mean nothing)."""
    data = storage.read_bytes(uri)
    image = decode(data, uri)
    if image.format != "PNG":
        raise DataError(f"{uri}: label maps are PNG, this one is {image.format}, which may change ids")
    if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise DataError(f"{uri}: label maps hold one id per pixel, this one is {image.mode}; write ids, not colours")
    ids_HW: Ids = np.asarray(image)
    if image.mode == "1":
        return ids_HW.astype(np.uint8)
    if image.mode == "L":  # PIL stretches grey of 2 and 4 bits to 0 … 255
        return ids_HW // np.uint8(255 // (2 ** data[_PNG_BIT_DEPTH] - 1))
    return ids_HW


def bit_depth(data: bytes, image: Image.Image) -> int:
    """Bits of each channel in the file."""
    return data[_PNG_BIT_DEPTH] if image.format == "PNG" else 8


def is_16_bit_rgb(data: bytes, image: Image.Image) -> bool:
    return image.format == "PNG" and image.mode == "RGB" and bit_depth(data, image) == 16
