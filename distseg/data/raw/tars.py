"""Samples in tars that others wrote with plain webdataset: found, never unpacked.

Members of one name up to its first dot are a sample: `0001.jpg`, `0001.label.png`, `0001.json`. What operating systems
leave behind (`._0001.jpg`) is passed over. A tar is not trusted:
a member that is a link or a device, whose name is absolute or leads out of the tar, that is there twice or that ends
behind the end of the file is a DataError that names it.
"""

import json
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from distseg import storage
from distseg.data.raw.files import is_left_behind
from distseg.errors import DataError, first_line

_IMAGES = ("jpg", "jpeg", "png")
_LABELS = ("label.png", "labels.png", "seg.png", "mask.png", "segmentation.png", "cls.png", "annotation.png", "png")
_MAX_JSON_BYTES = 1 << 24  # polygons, of which nothing is needed here, may be long


class Place(NamedTuple):
    """One member: its name in the tar and the place of its content, in bytes."""

    name: str
    offset: int
    size: int


class TarSample(NamedTuple):
    key: str  # the members' common name, with the folder that they are in
    image: Place
    label: Place
    meta: Place | None
    said: dict[str, str]  # the strings in its JSON


def tar_samples(uri: str, label_ending: str = "") -> list[TarSample]:
    """In the tar's order. `label_ending`: of the label maps, such as "seg.png"; by default the usual ones."""
    groups: dict[str, dict[str, Place]] = {}
    said: dict[str, dict[str, str]] = {}
    for place, content in _members(uri):
        folder, slash, file = place.name.rpartition("/")
        stem, _, ending = file.partition(".")
        key, ending = f"{folder}{slash}{stem}", ending.lower()
        if ending in groups.setdefault(key, {}):
            raise DataError(f"{uri}: {place.name}: there twice; write the tar again")
        groups[key][ending] = place
        if ending == "json":
            said[key] = _strings(content)
    return [_sample(uri, key, files, label_ending, said.get(key, {})) for key, files in groups.items()]


def _sample(uri: str, key: str, files: dict[str, Place], label_ending: str, said: dict[str, str]) -> TarSample:
    image = next((ending for ending in _IMAGES if ending in files), None)
    labels = [label_ending.lower()] if label_ending else [ending for ending in _LABELS if ending != image]
    label = next((ending for ending in labels if ending in files), None)
    if image is None or label is None or image == label:
        missing = "photograph" if image is None else "label map"
        wanted = ", ".join(_IMAGES if image is None else labels)
        raise DataError(
            f"{uri}: {key}: no {missing} among {', '.join(sorted(files)) or 'nothing'}; it ends in one of {wanted}"
            + ("" if image is None else " (--label)")
        )
    return TarSample(key, files[image], files[label], files.get("json"), said)


def _members(uri: str) -> Iterator[tuple[Place, bytes]]:
    """(place, content of JSON, else nothing) of each file."""
    num_bytes = storage.num_bytes(uri)
    try:
        with storage.open_read(uri) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for info in tar:
                if info.isdir():
                    continue
                _check(info, uri, num_bytes)
                if is_left_behind("/".join(part for part in info.name.split("/") if part != ".")):
                    continue
                content = b""
                if info.name.lower().endswith(".json") and (part := tar.extractfile(info)):
                    if info.size > _MAX_JSON_BYTES:
                        raise DataError(f"{uri}: {info.name}: {info.size} bytes of JSON; leave out what is not needed")
                    content = part.read()
                yield Place(info.name.removeprefix("./"), info.offset_data, info.size), content
    except DataError:
        raise
    except (tarfile.TarError, EOFError, OSError, OverflowError, ValueError, MemoryError) as error:
        raise DataError(f"{uri}: not a readable tar ({first_line(error)}); write it again") from error


def _check(info: tarfile.TarInfo, uri: str, num_bytes: int) -> None:
    if not info.isreg() or info.issparse():
        raise DataError(f"{uri}: {info.name!r}: a link, a device or the like; a tar of samples has files only")
    if info.name.startswith("/") or ".." in info.name.split("/") or not info.name.isprintable():
        raise DataError(f"{uri}: {info.name!r}: a name that leads out of the tar; write it with names such as 0001.jpg")
    if info.offset_data + info.size > num_bytes:
        raise DataError(f"{uri}: {info.name}: {info.size} bytes, but the tar ends before; it is cut off, or damaged")


def _strings(content: bytes) -> dict[str, str]:
    """What the JSON of a sample says in words; others write anything there, or nothing."""
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    words = value.items() if isinstance(value, dict) else ()
    return {name: word.encode(errors="replace").decode() for name, word in words if isinstance(word, str)}
