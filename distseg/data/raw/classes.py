"""Names and colours of classes: from JSON that a user wrote, or generated."""

import unicodedata
from typing import Any

from distseg import storage
from distseg.errors import ConfigError, DataError
from distseg.strict_json import Line, build

Colour = tuple[int, int, int]


def bit_palette(num_classes: int, first: int = 0) -> tuple[Colour, ...]:
    """Colours that differ well, made as PASCAL VOC's palette, whose colour 0 is black.

    The bits of i go in turn to red, green and blue, each channel filled from its highest bit down.
    """

    def channel(i: int, c: int) -> int:
        return sum((i >> (3 * bit + c) & 1) << (7 - bit) for bit in range(3))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(first, first + num_classes))


def json_at(uri: str) -> Any:
    return storage.read_json(Any, uri, DataError, "correct it", is_ours=False)


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
            raise DataError(f'{where}[{i}] = {item!r:.80}: write "road" or {{"name": "road", "color": [128, 64, 128]}}')
        name = unicodedata.normalize("NFC", entry["name"])
        if name != name.strip():
            raise DataError(f"{where}[{i}] = {name!r}: spaces at the begin or end of a name; remove them")
        if name in names:
            raise DataError(f"{where}[{i}]: a second class {name!r}; give each a name of its own")
        names.append(name)
        colours.append(parse_colour(entry["color"], f"{where}[{i}].color") if "color" in entry else spare[i])
    return tuple(names), tuple(colours)


def _is_name(value: Any) -> bool:
    try:
        return bool(build(Line, value, ""))
    except ConfigError:
        return False


def parse_colour(value: Any, where: str) -> Colour:
    if not isinstance(value, list) or len(value) != 3 or not all(type(c) is int and 0 <= c <= 255 for c in value):
        raise DataError(f"{where} = {value!r:.80}: must be [red, green, blue], each 0 to 255")
    return value[0], value[1], value[2]
