"""A picture of one image: input, truth, prediction and errors as four tiles, and below them what the colours mean.

It is made by the rank that scores the image, with numpy and PIL alone, and is small enough to be kept in a checkpoint.
Errors are orange (vermilion of Okabe & Ito 2008, safe for the colour-blind) on a faint grey image; void (255) is
hatched.
"""

import functools
import io
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from distseg.label_maps import IGNORE_INDEX

TILE_PX = 256  # the longer side of one of a panel's four tiles
MAX_JPEG_BYTES = 64 << 10  # of a panel; most have 20 to 60 kB
WRONG_RGB = (213, 94, 0)

Bytes = npt.NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]
Kind = Literal["fixed", "worst"]

_CAPTION_PX, _MARGIN_PX = 20, 4
_QUALITIES = (78, 60, 40, 20, 5)  # the first that is small enough


class Segmented(NamedTuple):
    """A shrunken image with its true and predicted class ids: at most 5 · TILE_PX² bytes (0.33 MB)."""

    image_HW3: Bytes
    truth_HW: Bytes
    predicted_HW: Bytes
    wrong: float | None  # share of wrong pixels among the valid ones of the whole image; None: all are void


def shrink(
    image_3HW: npt.ArrayLike, truth_HW: npt.ArrayLike, predicted_HW: npt.ArrayLike, tile_px: int = TILE_PX
) -> Segmented:
    """At most `tile_px` on the longer side. Takes arrays or CPU tensors: uint8, or class ids of any integer type.

    Raises ValueError if they differ in size.
    """
    image_HW3 = np.asarray(image_3HW, dtype=np.uint8).transpose(1, 2, 0)
    truth, predicted = np.asarray(truth_HW, dtype=np.uint8), np.asarray(predicted_HW, dtype=np.uint8)
    if not image_HW3.shape[:2] == truth.shape == predicted.shape:
        raise ValueError(
            f"image {image_HW3.shape[:2]}, truth {truth.shape}, prediction {predicted.shape} differ in size"
        )
    is_valid = truth != IGNORE_INDEX
    num_valid = int(is_valid.sum())
    wrong = float(((truth != predicted) & is_valid).sum()) / num_valid if num_valid else None
    if max(truth.shape) > tile_px:
        image_HW3, truth, predicted = _resized(image_HW3, truth, predicted, tile_px)
    return Segmented(image_HW3, truth, predicted, wrong)


def panel(
    seen: Segmented, palette: Palette, classes: Sequence[str] = (), *, iou: float | None = None, tile_px: int = TILE_PX
) -> Bytes:
    """An RGB picture (H', W', 3) of 2x2 tiles with captions, `tile_px` the longer side of a tile.

    With `classes`, the names of those in truth or prediction stand below the tiles, with their colours. `iou`: of the
    image, for a caption.
    """
    image, truth, predicted = _resized(*seen[:3], tile_px)
    size = truth.shape[1], truth.shape[0]
    colours = [channel for colour in palette for channel in colour]
    photograph = Image.fromarray(np.ascontiguousarray(image))
    true, guessed = (_in_colours(ids, colours) for ids in (truth, predicted))
    errors = photograph.convert("L").point(_FAINT).convert("RGB")
    errors.paste(WRONG_RGB, mask=_mask(truth != predicted))
    for tile in (true, errors):
        tile.paste(_hatch(*size), mask=_mask(truth == IGNORE_INDEX))
    wrong = "all void" if seen.wrong is None else f"errors (orange): {seen.wrong:.0%}"
    prediction = "prediction" if iou is None else f"prediction: IoU {iou:.2f}"
    sheet = _two_by_two({"input": photograph, "truth": true, prediction: guessed, wrong: errors}, *size)
    present = np.union1d(truth, predicted)
    named = [(classes[k], palette[k]) for k in present if k < len(classes)]
    return np.asarray(_with_legend(sheet, named) if named else sheet)


_FAINT = [165 + brightness // 3 for brightness in range(256)]


def _in_colours(ids_HW: Bytes, colours: list[int]) -> Image.Image:
    image = Image.fromarray(ids_HW)
    image.putpalette(colours)
    return image.convert("RGB")


def _mask(is_there_HW: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(is_there_HW.astype(np.uint8) * np.uint8(255))


def as_jpeg(panel_HW3: Bytes) -> bytes:
    """At most MAX_JPEG_BYTES: the quality is lowered until it fits. Colour is not subsampled, so thin lines keep it."""
    data = b""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        Image.fromarray(panel_HW3).save(buffer, format="JPEG", quality=quality, subsampling=0)
        data = buffer.getvalue()
        if len(data) <= MAX_JPEG_BYTES:
            return data
    raise ValueError(f"a panel of {panel_HW3.shape} makes {len(data)} bytes of JPEG, more than {MAX_JPEG_BYTES}")


def with_note(jpeg: bytes, note: str) -> bytes:
    """The panel with a line of text below it."""
    panel = Image.open(io.BytesIO(jpeg)).convert("RGB")
    sheet = Image.new("RGB", (panel.width, panel.height + _CAPTION_PX), "white")
    sheet.paste(panel)
    sheet.paste(_caption(note, panel.width), (0, panel.height))
    return as_jpeg(np.asarray(sheet))


def _resized(image: Bytes, truth: Bytes, predicted: Bytes, tile_px: int) -> tuple[Bytes, Bytes, Bytes]:
    scale = tile_px / max(truth.shape)
    size = tuple(max(1, round(side * scale)) for side in (truth.shape[1], truth.shape[0]))
    if size == (truth.shape[1], truth.shape[0]):
        return image, truth, predicted
    small = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    ids = (Image.fromarray(ids).resize(size, Image.Resampling.NEAREST) for ids in (truth, predicted))
    return np.asarray(small), *map(np.asarray, ids)  # type: ignore[return-value]


@functools.lru_cache(maxsize=8)
def _hatch(width: int, height: int) -> Image.Image:
    y, x = np.ogrid[:height, :width]
    return Image.fromarray(np.where((x + y) % 8 < 2, np.uint8(110), np.uint8(205))).convert("RGB")


@functools.lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)


@functools.lru_cache(maxsize=256)
def _caption(text: str, width: int) -> Image.Image:
    strip = Image.new("RGB", (width, _CAPTION_PX), "white")
    ImageDraw.Draw(strip).text((2, 1), text, fill="black", font=_font())
    return strip


def _with_legend(sheet: Image.Image, named: Sequence[tuple[str, Sequence[int]]]) -> Image.Image:
    """Squares and names from left to right, in as many rows as they take."""
    font, swatch_px = _font(), 12
    places, x, row = [], 2, 0
    for name, _ in named:
        width = swatch_px + 4 + math.ceil(font.getlength(name)) + 10
        if x + width > sheet.width and x > 2:
            x, row = 2, row + 1
        places.append((x, sheet.height + row * _CAPTION_PX))
        x += width
    taller = Image.new("RGB", (sheet.width, sheet.height + (row + 1) * _CAPTION_PX), "white")
    taller.paste(sheet)
    draw = ImageDraw.Draw(taller)
    for (left, top), (name, rgb) in zip(places, named, strict=True):
        box = (left, top + 4, left + swatch_px, top + 4 + swatch_px)
        draw.rectangle(box, fill=(rgb[0], rgb[1], rgb[2]), outline="black")
        draw.text((left + swatch_px + 4, top + 1), name, fill="black", font=font)
    return taller


def _two_by_two(tiles: Mapping[str, Image.Image], width: int, height: int) -> Image.Image:
    sheet = Image.new("RGB", (2 * width + _MARGIN_PX, 2 * (height + _CAPTION_PX)), "white")
    for number, (caption, tile) in enumerate(tiles.items()):
        left, top = number % 2 * (width + _MARGIN_PX), number // 2 * (height + _CAPTION_PX)
        sheet.paste(_caption(caption, width), (left, top))
        sheet.paste(tile, (left, top + _CAPTION_PX))
    return sheet
