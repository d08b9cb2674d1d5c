"""Photographs and label maps of raw data sets, read and checked, as `distseg.data.images` decodes them.

JPEG and 8-bit RGB PNG photographs go into a shard byte for byte. Grey, palette, RGBA (its alpha is dropped), 16-bit and
CMYK ones are encoded anew as RGB PNG, which loses nothing that 8 bits of red, green and blue can hold.

So is a photograph whose EXIF orientation turns it: a shard holds it as a viewer shows it. A label map that has the size
of the stored pixels, and not of the shown ones, is turned with it. Where the sizes do not tell which of the two the
label map was drawn on (half a turn, a mirror image, a square), that is a DataError, unless `labels_drawn_on` says it.
"""

import contextlib
import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from distseg import storage
from distseg.data import MAX_KEY_LENGTH, LabelledImage, LabelSpace, Sample, images
from distseg.data.raw.files import Pair
from distseg.errors import DataError

DrawnOn = Literal["shown", "stored"]
Ids = npt.NDArray[np.integer[Any]]

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
    """`key`, unique in its split: by default the photograph's name.

    `read`: how the label map is read, `read_ids` by default.
    """
    return Sample(
        key=plain_key(key or pair.stem),
        condition=condition,
        site=site,
        sequence=sequence,
        split=split,
        source=pair.image.removeprefix(root.rstrip("/") + "/"),
        load=functools.partial(load_pair, pair.image, pair.label, labels, read or read_ids),
        files=(pair.image, pair.label),
    )


def plain_key(name: str) -> str:
    """The name if it can name a member of a tar; else its usable characters and a digest, so that it stays unique."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if plain == name and len(name) <= MAX_KEY_LENGTH:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()  # a file's name need not be UTF-8
    return f"{plain[: MAX_KEY_LENGTH - 9]}-{digest[:8]}"


def load_pair(image_uri: str, label_uri: str, labels: LabelSpace, read: Callable[[str], Ids]) -> LabelledImage:
    return labelled(read_photograph(storage.read_bytes(image_uri), image_uri), read(label_uri), labels, label_uri)


_drawn_on: ContextVar[DrawnOn | None] = ContextVar("labels_drawn_on", default=None)


@contextlib.contextmanager
def labels_drawn_on(which: DrawnOn | None) -> Iterator[None]:
    """In this context, label maps of turned photographs were drawn on these where their sizes do not tell."""
    token = _drawn_on.set(which)
    try:
        yield
    finally:
        _drawn_on.reset(token)


def labelled(photograph: "Photograph", ids_HW: Ids, labels: LabelSpace, label_source: str) -> LabelledImage:
    """The photograph with its label map of raw ids, both upright. Raises DataError if their sizes differ."""
    label_size = (ids_HW.shape[1], ids_HW.shape[0])
    if label_size not in (photograph.size, photograph.stored_size):
        raise DataError(f"{label_source}: {_pixels(label_size)}, but its image is {_pixels(photograph.size)}")
    if photograph.turn != 1 and _is_as_stored(photograph, label_size):
        ids_HW = np.asarray(images.turned(Image.fromarray(ids_HW.astype(np.int32)), photograph.turn))
    return LabelledImage(photograph.data, photograph.image_format, labels.to_train_ids(ids_HW, label_source))


def _is_as_stored(photograph: "Photograph", label_size: tuple[int, int]) -> bool:
    """Was the label map drawn on the stored pixels of a photograph that is shown turned?"""
    if photograph.size != photograph.stored_size:
        return label_size == photograph.stored_size
    if (which := _drawn_on.get()) is None:
        raise DataError(
            f"{photograph.source}: EXIF orientation {photograph.turn}: whether its label map was drawn on it as it is "
            "shown or as it is stored cannot be known; say --labels_drawn_on shown (or stored), or turn both upright"
        )
    return which == "stored"


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"


# ---- photographs


class Photograph(NamedTuple):
    """An encoded image as the shard will have it."""

    data: bytes
    image_format: Literal["jpg", "png"]
    size: tuple[int, int]  # width, height
    turn: int  # the EXIF orientation that it had
    stored_size: tuple[int, int]  # before it was turned
    source: str


def read_photograph(data: bytes, source: str) -> Photograph:
    """Upright, as JPEG or 8-bit RGB PNG."""
    image = images.decode(data, source)
    if image.format not in ("JPEG", "PNG"):
        raise DataError(f"{source}: photographs are JPEG or PNG, this one is {image.format}; convert it")
    turn = images.orientation(image)
    is_plain = turn == 1 and image.mode == "RGB" and bit_depth(data, image) == 8
    if is_plain:
        return Photograph(data, "jpg" if image.format == "JPEG" else "png", image.size, turn, image.size, source)
    upright = images.turned(images.as_rgb(image, source), turn)
    buffer = io.BytesIO()
    upright.save(buffer, format="PNG")
    return Photograph(buffer.getvalue(), "png", upright.size, turn, image.size, source)


# ---- label maps


Colours = tuple[tuple[tuple[int, int, int], int], ...]
"""((red, green, blue), id) of each colour that a map of colours can have."""


def read_ids(uri: str, colours: Colours = ()) -> Ids:
    """The ids (H, W) of a PNG of 1 to 16 bits of grey or of palette indices.

    With `colours` also of an RGB PNG that has these colours and no others. A palette's colours mean nothing, but if
    they are of `colours` and say other ids than the indices do, neither can be trusted: that is a DataError.
    """
    return ids_of(storage.read_bytes(uri), uri, colours)


def ids_of(data: bytes, uri: str, colours: Colours = ()) -> Ids:
    """The same of the content of a file."""
    image = images.decode(data, uri)
    if colours and image.format == "PNG" and image.mode in ("RGB", "RGBA"):
        return _ids_of_colours(np.asarray(image.convert("RGB")), uri, colours)
    if image.format != "PNG":
        raise DataError(f"{uri}: label maps are PNG, this one is {image.format}, which may change ids")
    if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise DataError(f"{uri}: label maps hold one id per pixel, this one is {image.mode}; write ids, not colours")
    ids_HW: Ids = np.asarray(image)
    if image.mode == "P" and colours:
        _check_palette(image, ids_HW, uri, colours)
    if image.mode == "1":
        return ids_HW.astype(np.uint8)
    if image.mode == "L":  # PIL stretches grey of 2 and 4 bits to 0 … 255
        return ids_HW // np.uint8(255 // (2 ** bit_depth(data, image) - 1))
    return ids_HW


def _check_palette(image: Image.Image, ids_HW: Ids, uri: str, colours: Colours) -> None:
    """Tools that make files smaller sort palettes anew: the colours stay right, the indices are no ids any more.

    A palette says something only if it gives each id a known colour of its own. 255 is left out: many end before it.
    PIL's own say nothing: black alone, whatever the ids, or all greys.
    """
    known = dict(colours)
    rows = np.asarray(image.getpalette("RGB"), dtype=np.int64).reshape(-1, 3).tolist()
    used = [i for i in np.unique(ids_HW).tolist() if i < 255]
    if any(i >= len(rows) for i in used) or rows == [[i, i, i] for i in range(256)]:
        return
    shown = {i: (rows[i][0], rows[i][1], rows[i][2]) for i in used}
    if not known.keys() >= set(shown.values()) or len(set(shown.values())) < len(shown):
        return
    ids = set(known.values())
    for i, colour in shown.items():
        if known[colour] != i and (i in ids or known[colour] < 2**16):  # above: void, by its colour alone
            raise DataError(
                f"{uri}: its palette shows id {i} as {list(colour)}, which is the colour of another id; save it as RGB "
                "if the colours are right, as grey if the ids are"
            )


def _ids_of_colours(pixels_HW3: npt.NDArray[np.uint8], uri: str, colours: Colours) -> Ids:
    known = sorted((red << 16 | green << 8 | blue, number) for (red, green, blue), number in colours)
    codes_K, ids_K = (np.array(part, dtype=np.int32) for part in zip(*known, strict=True))
    if twice := codes_K[1:][(codes_K[1:] == codes_K[:-1]) & (ids_K[1:] != ids_K[:-1])].tolist():
        raise DataError(f"{uri}: colour {_rgb(twice[0])} is that of two classes; give each a colour of its own")
    wide_HW3 = pixels_HW3.astype(np.int32)
    codes_HW = wide_HW3[..., 0] << 16 | wide_HW3[..., 1] << 8 | wide_HW3[..., 2]
    places_HW = np.searchsorted(codes_K, codes_HW).clip(max=len(codes_K) - 1)
    if (unknown_HW := codes_K[places_HW] != codes_HW).any():
        shown = ", ".join(str(_rgb(code)) for code in np.unique(codes_HW[unknown_HW])[:4].tolist())
        raise DataError(f"{uri}: colours that are of no class: {shown}; name each as a class's, or as void")
    ids_HW: Ids = ids_K[places_HW]
    return ids_HW


def _rgb(code: int) -> list[int]:
    return [code >> 16, code >> 8 & 255, code & 255]


def bit_depth(data: bytes, image: Image.Image) -> int:
    """Bits of each channel in the file."""
    return data[_PNG_BIT_DEPTH] if image.format == "PNG" else 8


def is_16_bit_rgb(data: bytes, image: Image.Image) -> bool:
    return image.format == "PNG" and image.mode == "RGB" and bit_depth(data, image) == 16
