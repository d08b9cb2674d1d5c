"""The door to raw data sets, in a directory or in S3: what a folder holds, and one pair of photograph and label map.

    place, home       where below the root that is given the data set begins
    find, pairs       the files of a folder by name; photographs with their annotations, none left over on either side
    sample            a pair as a Sample, whose `load` reads it by `load_pair`
    read_ids          a label PNG -> raw ids (H, W)
    json_at, parse_classes     what users write about their classes

Nothing is repaired or left out in silence: a file that is missing, unreadable or of another kind is a DataError naming
it. Only what operating systems leave behind (.DS_Store, ._x, Thumbs.db, __MACOSX) is passed over.

Photographs: JPEG and 8-bit RGB PNG go into the shard byte for byte; grey, palette, RGBA (its alpha dropped), 16-bit and
CMYK ones are encoded anew as RGB PNG, losing nothing that 8 bits of red, green and blue can hold.
"""

import contextlib
import functools
import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from distseg import storage
from distseg.data import LabelledImage, LabelSpace, Sample
from distseg.errors import DataError, first_line

Ids = npt.NDArray[np.integer[Any]]
Colour = tuple[int, int, int]

_LEFT_BEHIND = re.compile(r"\..*|__MACOSX|Thumbs\.db|desktop\.ini", re.IGNORECASE)  # as any part of a path
_MAX_KEY_LENGTH = 90  # a USTAR name has 100 bytes, ".label.png" takes 10
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # where the byte stands: after the signature, then the IHDR chunk's length, type and sizes


# ---- files


class Files(NamedTuple):
    """Those below `folder` whose names end in one of `endings`, in upper or lower case."""

    folder: str
    endings: tuple[str, ...]
    refused: tuple[str, ...] = ()  # endings of files that are an error; all others are passed over
    remedy: str = ""  # for these


class Pair(NamedTuple):
    name: str  # the path below the photographs' folder, without the ending: "aachen/aachen_000000_000019"
    image: str  # uri
    label: str  # uri

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2]


def find(root: str, files: Files, layout: str) -> dict[str, str]:
    """{path below the folder, without the ending: uri}, sorted. `layout`: what the folder should be, if it is not."""
    folder = storage.join(root, files.folder)
    names = _names(folder)
    if not names:
        raise DataError(f"{folder}: no such folder, or an empty one; {layout}")
    found = _by_stem(folder, names, files)
    if not found:
        raise DataError(f"{folder}: no file in it ends in {' or '.join(files.endings)}; {layout}")
    return found


def pairs(root: str, images: Files, labels: Files, layout: str, *, labels_root: str = "") -> list[Pair]:
    """Each photograph with the annotation of the same name. Raises DataError if either is missing.

    `labels_root`: the annotations' root, if not `root`.
    """
    image_uris = find(root, images, layout)
    folder = storage.join(labels_root or root, labels.folder)
    label_uris = _by_stem(folder, _names(folder), labels)
    for name, image in image_uris.items():
        if name not in label_uris:
            why = "" if label_uris else f", as is every other of its folder; {layout}"
            raise DataError(f"{image}: its annotation {folder}/{name}{labels.endings[0]} is missing{why}")
    for name, label in label_uris.items():
        if name not in image_uris:
            expected = storage.join(root, images.folder, name + " or ".join(images.endings))
            raise DataError(f"{label}: its photograph {expected} is missing; remove the annotation if that is meant")
    return [Pair(name, image, label_uris[name]) for name, image in image_uris.items()]


def folders(uri: str) -> list[str]:
    """The names of those right below, sorted."""
    return [name for name in storage.list_folders(uri) if not _LEFT_BEHIND.fullmatch(name)]


def _names(folder: str) -> list[str]:
    names = [entry.uri.removeprefix(f"{folder}/") for entry in storage.list_files(folder)]
    return [name for name in names if not any(_LEFT_BEHIND.fullmatch(part) for part in name.split("/"))]


def _by_stem(folder: str, names: list[str], files: Files) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        if name.lower().endswith(files.refused):
            raise DataError(f"{folder}/{name}: cannot be packed; {files.remedy}")
        ending = next((ending for ending in files.endings if name.lower().endswith(ending.lower())), "")
        stem = name[: -len(ending)]
        if ending and stem in found:
            raise DataError(f"{folder}/{name}: {found[stem]} has the same name; remove one of them")
        if ending:
            found[stem] = f"{folder}/{name}"
    return found


def places(root: str, candidates: tuple[str, ...]) -> Iterator[str]:
    """`root`, then `candidates` below it."""
    yield root
    yield from (storage.join(root, candidate) for candidate in candidates)


def place(root: str, folder: str, candidates: tuple[str, ...]) -> str | None:
    """`root`, or the first of `candidates` below it, that has `folder`, a name or a path; None if none has it."""
    above, _, name = folder.rpartition("/")
    found = (here for here in places(root, candidates) if name in storage.list_folders(storage.join(here, above)))
    return next(found, None)


def home(root: str, folder: str, candidates: tuple[str, ...], layout: str) -> str:
    """As `place`. Raises DataError if there is none."""
    found = place(root, folder, candidates)
    if found is None:
        raise DataError(f"{root}: no {folder}/ here or in {', '.join(candidates)}; {layout}")
    return found


# ---- samples


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
    """The name, if it can name a member of a tar; else as much of it as can, and a digest that keeps it apart."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if plain == name and len(name) <= _MAX_KEY_LENGTH:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()  # a file's name need not be UTF-8
    return f"{plain[: _MAX_KEY_LENGTH - 9]}-{digest[:8]}"


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
    """As it will stand in the shard; (width, height)."""
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
    """1 to 8; 1, upright, where the tag is missing, unreadable or none of these."""
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
    """The whole of an encoded image. `rawmode`: how Pillow takes the bytes of a pixel apart, if not as usual."""
    if not data:
        raise DataError(f"{uri}: not a readable image (the file is empty)")
    try:
        if data.startswith(_PNG_SIGNATURE) and not rawmode:  # who gives a rawmode has decoded it without before
            Image.open(io.BytesIO(data)).verify()  # checksums, which Pillow passes over as it decodes pixels
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
    """Of a channel, as the file has it."""
    return data[_PNG_BIT_DEPTH] if image.format == "PNG" else 8


def is_16_bit_rgb(data: bytes, image: Image.Image) -> bool:
    return image.format == "PNG" and image.mode == "RGB" and bit_depth(data, image) == 16


# ---- classes


def bit_palette(num_classes: int, first: int = 0) -> tuple[Colour, ...]:
    """Colours far apart: the bits of i, dealt in turn to red, green and blue, from the highest down.

    VOC's own palette is made so; its colour 0 is black.
    """

    def channel(i: int, c: int) -> int:
        return sum((i >> (3 * bit + c) & 1) << (7 - bit) for bit in range(3))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(first, first + num_classes))


def json_at(uri: str) -> Any:
    try:
        return json.loads(storage.read_bytes(uri).decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{uri}: not JSON ({first_line(error)})") from error


def parse_classes(value: Any, where: str) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours from a list of `"road"` or `{"name": "road", "color": [128, 64, 128]}`; `where` for errors."""
    if not isinstance(value, list) or not 1 <= len(value) <= 255:
        raise DataError(f"{where}: must be a list of 1 to 255 classes")
    spare = bit_palette(len(value), first=1)
    names: list[str] = []
    colours: list[Colour] = []
    for i, item in enumerate(value):
        entry = {"name": item} if isinstance(item, str) else item
        if not isinstance(entry, dict) or not entry.keys() <= {"name", "color"} or not _is_name(entry.get("name")):
            raise DataError(f'{where}[{i}] = {item!r}: write "road" or {{"name": "road", "color": [128, 64, 128]}}')
        if entry["name"] in names:
            raise DataError(f"{where}[{i}]: a second class {entry['name']!r}; give each a name of its own")
        names.append(entry["name"])
        colours.append(_colour(entry["color"], f"{where}[{i}].color") if "color" in entry else spare[i])
    return tuple(names), tuple(colours)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _colour(value: Any, where: str) -> Colour:
    if not isinstance(value, list) or len(value) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in value):
        raise DataError(f"{where} = {value!r}: must be [red, green, blue], each 0 to 255")
    return value[0], value[1], value[2]
