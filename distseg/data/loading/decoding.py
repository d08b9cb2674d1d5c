"""Encoded images of shards -> arrays.

    decode_rgb(data, key, out) -> (H, W, 3)        JPEG or PNG
    decode_ids(data, num_classes, key, out) -> (H, W)

JPEG is decoded by simplejpeg where the extra `fast` is installed: by libjpeg-turbo as in Pillow, to the same pixels,
but without Pillow's two copies. Label maps as `pack` writes them (PNG without row filters) need only zlib or, with
`fast`, isal. Everything else goes through Pillow. All of these let other threads run meanwhile. What is refused, and
what becomes of images that are not RGB, is decided in `distseg.data.images`.
"""

import functools
import logging
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from distseg.config import MAX_MEGAPIXELS
from distseg.data import IGNORE_INDEX, crc32, decompress, deflate, images, jpeg
from distseg.errors import DataError

_log = logging.getLogger(__name__)

UInt8Array = npt.NDArray[np.uint8]
Encoded = bytes | memoryview

_PLAIN_PNG = struct.Struct(">8sI4sIIBBBBBII4s")  # signature, IHDR, the head of IDAT (PNG specification, section 11.2)
_IEND = b"\0\0\0\0IEND\xaeB`\x82"


@functools.cache
def log_missing_libraries() -> None:
    """Says once in a process which libraries of the extra `fast` it has to do without."""
    found = {"isal": deflate.fastest is not zlib, "simplejpeg": jpeg.simplejpeg is not None}
    if missing := [name for name, is_found in found.items() if not is_found]:
        _log.info("decoding takes longer without %s: pip install 'distseg[fast]'", " and ".join(missing))


def decode_rgb(
    data: Encoded, key: str, out_HW3: UInt8Array | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> UInt8Array:
    """uint8 (H, W, 3): `out_HW3` itself where the image has its size and can be decoded into it, else a new array.

    Raises DataError naming `key` for data that are damaged, no image, or too large.
    """
    if jpeg.simplejpeg is not None and data[:2] == jpeg.SIGNATURE:
        try:
            height, width, colours, _ = jpeg.simplejpeg.decode_jpeg_header(data)
            images.check_size(width, height, key, max_megapixels)
            if colours == "YCbCr":
                fits = out_HW3 is not None and out_HW3.shape == (height, width, 3)
                pixels_HW3: UInt8Array = jpeg.simplejpeg.decode_jpeg(data, "RGB", buffer=out_HW3 if fits else None)
                return out_HW3 if fits and out_HW3 is not None else pixels_HW3
        except (ValueError, KeyError) as error:
            if problem := jpeg.is_about_pixels(error):
                raise images.damaged(key, problem) from error
            # else a kind of JPEG that it does not know: Pillow decodes it or names the problem
    return np.asarray(images.as_rgb(_by_pillow(data, key, max_megapixels), key))


def decode_ids(
    data: Encoded,
    num_classes: int,
    key: str,
    out_HW: UInt8Array | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> UInt8Array:
    """uint8 (H, W) of train ids and 255: `out_HW` itself where the label map has its size and was written by `pack`.

    Raises DataError naming `key` for a label map that holds other values.
    """
    ids_HW = _plain_ids(data, out_HW, max_megapixels)
    if ids_HW is None:
        image = _by_pillow(data, key, max_megapixels)
        if image.mode != "L":
            raise DataError(f"{key}: an image of mode {image.mode} where L was packed")
        ids_HW = np.asarray(image)
    if (ids_HW + np.uint8(1)).max(initial=0) > num_classes:  # void becomes 0
        outside = [i for i in np.unique(ids_HW).tolist() if num_classes <= i != IGNORE_INDEX]
        raise DataError(f"{key}: label ids {outside[:8]} are outside the label space's 0 to {num_classes - 1}")
    return ids_HW


def _plain_ids(
    data: Encoded, out_HW: UInt8Array | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> UInt8Array | None:
    """The pixels of an 8-bit grey PNG with one IDAT chunk and no row filters, as `pack` writes it; None for others."""
    if len(data) < _PLAIN_PNG.size:
        return None
    (*head, width, height, depth, colour, compression, filtering, interlaced, header_crc, idat_bytes, idat) = (
        _PLAIN_PNG.unpack_from(data)
    )
    begin, end = _PLAIN_PNG.size, _PLAIN_PNG.size + idat_bytes
    is_plain = (
        head == [b"\x89PNG\r\n\x1a\n", 13, b"IHDR"]
        and (depth, colour, compression, filtering, interlaced, idat) == (8, 0, 0, 0, 0, b"IDAT")
        and width * height <= max_megapixels * 1e6
        and data[end + 4 :] == _IEND
    )
    view = memoryview(data)
    if (
        not is_plain
        or crc32(view[12:29]) != header_crc
        or crc32(view[begin - 4 : end]) != int.from_bytes(view[end : end + 4])
        or (unpacked := decompress(view[begin:end], height * (1 + width))) is None
    ):
        return None
    rows = np.frombuffer(unpacked, dtype=np.uint8).reshape(height, 1 + width)  # before each row its filter
    if rows[:, 0].any():
        return None
    ids_HW = out_HW if out_HW is not None and out_HW.shape == (height, width) else np.empty((height, width), np.uint8)
    ids_HW[...] = rows[:, 1:]
    return ids_HW


def _by_pillow(data: Encoded, key: str, max_megapixels: float) -> Image.Image:
    return images.decode(bytes(data), key, max_megapixels=max_megapixels, is_packed=True)
