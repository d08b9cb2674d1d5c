"""How images are decoded: one way for all programs, for photographs and for label maps, raw and packed.

    opened(data, source)         its header alone: format, mode and size
    decode(data, source)         every pixel, as they are stored
    photograph(data, source)     8-bit RGB, as a viewer shows it
    as_rgb, orientation, turned  the parts of that
    limited(megapixels)          a context in which that is the limit of size

What holds everywhere:

- A damaged image is a DataError that names it: a file that is cut off, a PNG whose checksums differ, a JPEG whose
  decoder reports missing or superfluous codes (`distseg.data.jpeg`). Nothing is repaired, no row is made up.
- An image of more than `data.max_megapixels` is a DataError too, known by its header, before it is decoded.
- A photograph is turned as its EXIF orientation says, as viewers and labelling tools do.
- Grey, 1-bit, palette, CMYK and transparent images become RGB (transparency is dropped); of 16 bits the upper 8 count.
"""

import contextlib
import io
import struct
from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from distseg.config import MAX_MEGAPIXELS
from distseg.data import jpeg
from distseg.errors import DataError, first_line

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Not all that Pillow knows: for some of them it starts other programs.
_OTHER_FORMATS = ("BMP", "GIF", "PPM", "TIFF", "WEBP")
_CONVERTED = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Nothing reads the text of a PNG or its colour profile, but Pillow refuses the image for one of more than 1 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20
_limit: ContextVar[float] = ContextVar("max_megapixels", default=MAX_MEGAPIXELS)


@contextlib.contextmanager
def limited(max_megapixels: float) -> Iterator[None]:
    """The limit for all that is decoded in this context and names no other, such as by a data set's own functions."""
    token = _limit.set(max_megapixels)
    try:
        yield
    finally:
        _limit.reset(token)


def check_size(width: int, height: int, source: str, max_megapixels: float | None = None) -> None:
    """Raises DataError for an image of more pixels than allowed, or of none."""
    limit = _limit.get() if max_megapixels is None else max_megapixels
    if width < 1 or height < 1:
        raise DataError(f"{source}: not a readable image (its header says {width}x{height} pixels)")
    if width * height > limit * 1e6:
        megapixels = width * height / 1e6
        raise DataError(
            f"{source}: {width}x{height} pixels are {megapixels:.6g} megapixels, max_megapixels is {limit:g}: make the "
            "image smaller, or raise --max_megapixels (in training --data.max_megapixels)"
        )


def opened(data: bytes, source: str, max_megapixels: float | None = None) -> ImageFile.ImageFile:
    """The image with nothing decoded but its header. Raises DataError for one that is too large, or is none."""
    if not data:
        raise DataError(f"{source}: not a readable image (the file is empty)")
    file = io.BytesIO(data)
    image: ImageFile.ImageFile
    try:
        # Image.open would apply a limit of its own to these two.
        if data.startswith(PNG_SIGNATURE):
            image = PngImagePlugin.PngImageFile(file)
        elif data.startswith(jpeg.SIGNATURE):
            image = JpegImagePlugin.JpegImageFile(file)
        else:
            image = Image.open(file, formats=_OTHER_FORMATS)
    except UnidentifiedImageError as error:
        raise _unreadable(source, "of no known format, or its beginning is damaged") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{source}: {first_line(error)}; make the image smaller, or save it as PNG or JPEG") from error
    except Exception as error:  # of a damaged file, anything, a KeyError as well as an OverflowError
        raise _unreadable(source, first_line(error)) from error
    check_size(*image.size, source, max_megapixels)
    return image


def decode(
    data: bytes, source: str, *, max_megapixels: float | None = None, rawmode: str = "", is_packed: bool = False
) -> Image.Image:
    """The whole image. `rawmode`: another layout of a pixel's bytes, by its name in Pillow.

    `is_packed`: of a shard, whose members were checked when they were packed, and have a checksum of their own.
    """
    image = opened(data, source, max_megapixels)
    try:
        if image.format == "PNG" and not (rawmode or is_packed):  # with a rawmode it is decoded for the second time
            opened(data, source, max_megapixels).verify()  # checksums, which decoding does not check
        if rawmode:
            image.tile = [tile._replace(args=rawmode) for tile in image.tile]
        image.load()
    except DataError:
        raise
    except Exception as error:  # likewise
        raise _unreadable(source, first_line(error)) from error
    if image.format == "JPEG" and (problem := jpeg.damage(data)):
        raise damaged(source, problem)
    return image


def _unreadable(source: str, why: str) -> DataError:
    return DataError(f"{source}: not a readable image ({why}); repair or remove it")


def damaged(source: str, problem: str) -> DataError:
    """Of a JPEG."""
    return DataError(f"{source}: a damaged JPEG ({problem}); replace it, or save it anew if it looks right")


def photograph(data: bytes, source: str, *, max_megapixels: float | None = None) -> Image.Image:
    """8-bit RGB, upright."""
    image = decode(data, source, max_megapixels=max_megapixels)
    return turned(as_rgb(image, source), orientation(image))


def as_rgb(image: Image.Image, source: str) -> Image.Image:
    """Raises DataError for kinds that 8 bits of red, green and blue cannot stand for."""
    if image.mode in _SIXTEEN_BITS:
        pixels_HW = np.asarray(image)
        if pixels_HW.size and not 0 <= int(pixels_HW.min()) <= int(pixels_HW.max()) < 2**16:
            raise DataError(f"{source}: grey of 32 bits; convert it to 8 or 16 bits")
        return Image.fromarray((pixels_HW >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in _CONVERTED:
        raise DataError(f"{source}: an image of mode {image.mode}; convert it to grey or RGB of 8 or 16 bits")
    try:
        if image.mode in ("P", "PA"):  # Pillow warns of palettes with transparency
            image = image.convert("RGBA")
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise DataError(f"{source}: {first_line(error)}; convert it to grey or RGB of 8 or 16 bits") from error


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) if the tag is missing, unreadable or another number."""
    turn = 1
    with contextlib.suppress(SyntaxError, ValueError, KeyError, TypeError, struct.error, OSError, IndexError):
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if turn in _TURNS else 1


def turned(image: Image.Image, turn: int) -> Image.Image:
    """As it is shown if its EXIF orientation is `turn`."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image
