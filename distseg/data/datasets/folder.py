"""A data set of one's own: photographs in `images/`, label maps of the same names in `labels/`, and their classes.

    images/train/a.jpg  labels/train/a.png     JPEG or PNG, and PNG of ids or colours; deeper folders are fine
    classes.json                               ["road", "sky", …]: id i is class i, 255 is void
    conditions.csv                             optional: file, and any of condition, site, sequence, split

`classes.json` can say more; only "classes" is required:

    {"name": "my-town",
     "classes": ["road", {"name": "sky", "color": [70, 130, 180]}],
     "ids": {"7": "road", "8": "road", "23": "sky"},       raw ids, if they are not 0, 1, 2 … in the order of classes
     "ignore": [0, 255]}                                   raw ids that are void, by default 255 unless it is a class

Label maps may be RGB PNGs instead, of the colours in "classes"; "ignore" then takes colours as well, [[0, 0, 0], 255].
Masks of 0 and 255, as many tools write them, thus need `"ids": {"0": "background", "255": "object"}`.

An id that is neither a class nor ignored is an error. In `conditions.csv`, `file` is the path below images/; every
photograph has one row. The split is the column `split`, or else the folder below images/ and labels/; where both name
splits they must agree. A folder without either is one split, `all`.
"""

import csv
import functools
import io
import logging
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from distseg import storage
from distseg.data import IGNORE_INDEX, LabelSpace, Sample, raw
from distseg.data.datasets import DataSet
from distseg.errors import DataError, first_line

_log = logging.getLogger(__name__)

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
_NOT_READ = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".tif", ".tiff", ".webp")  # but pictures
_LAYOUT = "the root has images/, labels/ and classes.json"
_COLUMNS = ("file", "condition", "site", "sequence", "split")
_COLOURED = '{"name": "road", "color": [128, 64, 128]}'
_VOID_COLOUR = 2**16  # a raw id that no PNG holds
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_Rows = dict[str, dict[str, str]]  # of conditions.csv, by file
_USUAL_SPLITS = ("train", "val", "test")
_LIKE_SPLITS = (*_USUAL_SPLITS, "training", "valid", "validation", "testing")


def splits(root: str) -> tuple[str, ...]:
    """Those that exist: the values of conditions.csv's column split, else images/train, val and test, else `all`.

    A test split that nobody annotated, without labels/test, does not count. Other folders, and photographs beside the
    folders, are left out, which is said.
    """
    named = set(_split_by_file(_rows(storage.join(root, "conditions.csv"))).values())
    usual = [split for split in _USUAL_SPLITS if split in named]
    if named:
        return (*usual, *sorted(named.difference(usual)))
    photographed, annotated = (storage.list_folders(storage.join(root, part)) for part in ("images", "labels"))
    found = [split for split in _USUAL_SPLITS if split in photographed and (split != "test" or split in annotated)]
    others = [n for n in photographed if n in annotated and n not in _USUAL_SPLITS and not raw.is_left_behind(n)]
    if found and others:  # images/validation, say, beside images/train
        every = " ".join([*found, *others])
        _log.warning("%s: images/%s is left out; --splits %s packs it, too", root, ", images/".join(others), every)
    if found:
        _say_what_is_beside_them(root, found)
    elif len(like := [name for name in others if name.lower() in _LIKE_SPLITS]) > 1:
        _log.warning(
            "%s: images/%s become one split, all; --splits %s keeps them apart",
            *(root, " and images/".join(like), " ".join(like)),
        )
    return tuple(found) or ("all",)


def _say_what_is_beside_them(root: str, found: list[str]) -> None:
    names = raw.names_in(storage.join(root, "images"))
    beside = [name for name in names if "/" not in name and name.lower().endswith(_IMAGE_ENDINGS)]
    if beside:
        _log.warning(
            "%s: photographs in images/ itself are left out, %s of them: %s is the first; put them into images/%s",
            *(root, len(beside), beside[0], " or images/".join(found)),
        )


def samples(root: str, split: str) -> Iterator[Sample]:
    """The images of a split, sorted by name."""
    space, colours = read_classes(storage.join(root, "classes.json"))
    read = functools.partial(raw.read_ids, colours=colours) if colours else None
    csv_uri = storage.join(root, "conditions.csv")
    rows = _rows(csv_uri)
    folder = _folder(root, split, rows)
    unused = {file: row for file, row in rows.items() if file.startswith(f"{folder}/") or not folder}
    images = raw.Files(
        storage.join("images", folder), _IMAGE_ENDINGS, refused=_NOT_READ, remedy="convert it to JPEG or PNG"
    )
    label_maps = raw.Files(
        storage.join("labels", folder),
        (".png",),
        refused=(*_NOT_READ, ".jpg", ".jpeg"),
        remedy="convert it to PNG of ids",
    )
    for pair in raw.pairs(root, images, label_maps, _LAYOUT):
        file = _composed(pair.image.removeprefix(storage.join(root, "images") + "/"))
        row = unused.pop(file, None)
        if rows and row is None:
            raise DataError(f"{csv_uri}: no row of {file}; each photograph has one")
        row = row or {}
        if row.get("split", split) == split:
            yield raw.sample(
                root,
                pair,
                space,
                key=pair.name,
                split=split,
                condition=row.get("condition", "all"),
                site=row.get("site", "all"),
                sequence=row.get("sequence", "all"),
                read=read,
            )
    if unused:
        raise DataError(f"{csv_uri}: {min(unused)}: no such photograph below images/; remove the row")


def _folder(root: str, split: str, rows: _Rows) -> str:
    """Of the split, below images/ and labels/; "" if these hold all splits. Raises DataError for an unknown split."""
    folders = storage.list_folders(storage.join(root, "images"))
    by_file = _split_by_file(rows)
    named = set(by_file.values())
    for file, of_file in by_file.items():
        above = file.partition("/")[0]
        if above != of_file and above in named and above in folders:
            raise DataError(
                f"{storage.join(root, 'conditions.csv')}: {file}: split {of_file!r}, but it is in images/{above}/, "
                "which is a split, too; move it, or change the row"
            )
    if split in named:
        return split if all(file.startswith(f"{split}/") for file in by_file if by_file[file] == split) else ""
    if split in folders and not named:
        return split
    if split == "all" and not named:
        return ""
    known = ", ".join(sorted(named or {*folders, "all"}))
    raise DataError(
        f"{root}: no split {split!r}: neither images/{split}/ nor that value in conditions.csv's column split; "
        f"choose from {known}"
    )


def _split_by_file(rows: _Rows) -> dict[str, str]:
    return {file: row["split"] for file, row in rows.items() if "split" in row}


# ---- conditions.csv


def _rows(uri: str) -> _Rows:
    if not storage.exists(uri):
        return {}
    lines = _lines(uri)
    _, columns = next(lines, (1, []))
    if "file" not in columns or not set(columns) <= set(_COLUMNS):
        raise DataError(
            f"{uri}: columns {', '.join(columns)}; must be file and any of {', '.join(_COLUMNS[1:])}, with commas"
        )
    if len(set(columns)) < len(columns):
        raise DataError(f"{uri}: columns {', '.join(columns)}; each once, remove what is there twice")
    rows: _Rows = {}
    for number, values in lines:
        where = f"{uri}: line {number}"
        if len(values) != len(columns):
            raise DataError(f"{where}: must have {len(columns)} values, as the first line has")
        row = dict(zip(columns, values, strict=True))
        row["file"] = _composed(row["file"])
        for name, value in row.items():
            if name != "file" and not _PLAIN.fullmatch(value):
                raise DataError(f"{where}: {name} {value!r}: use letters, digits, '-' and '_' only")
        if row["file"] in rows:
            raise DataError(
                f"{where}: a second row of {row['file']}; remove one, or name its folder below images/, too"
            )
        rows[row.pop("file")] = row
    if not rows:
        raise DataError(f"{uri}: no rows; list every photograph, or remove the file")
    return rows


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _lines(uri: str) -> Iterator[tuple[int, list[str]]]:
    """Those that are not empty, with their numbers. Raises DataError with the line for what is no CSV."""
    reader = csv.reader(io.StringIO(_text(uri), newline=None), skipinitialspace=True, strict=True)
    number = 1
    try:
        for values in reader:
            if values:
                yield number, values
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{uri}: line {number}: not CSV ({first_line(error)}); is each quote closed?") from error


def _text(uri: str) -> str:
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}: not UTF-8 ({error.reason}); save it as UTF-8") from error


# ---- classes.json


def labels(root: str) -> LabelSpace:
    return read_classes(storage.join(root, "classes.json"))[0]


def read_classes(uri: str) -> tuple[LabelSpace, raw.Colours]:
    """The classes, and the raw ids of the colours that the file names for them and for void."""
    if not storage.exists(uri):
        raise DataError(f'{uri}: missing; write the names of the classes in order of their ids: ["road", "sky"]')
    value = raw.json_at(uri)
    body = {"classes": value} if isinstance(value, list) else value
    known = ("name", "classes", "ids", "ignore")
    if not isinstance(body, dict) or not body.keys() <= set(known) or "classes" not in body:
        raise DataError(f"{uri}: must be a list of classes, or an object with classes and any of {', '.join(known)}")
    name = body.get("name", "folder")
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 100:
        raise DataError(f"{uri}: name = {name!r:.80}: must be a word")
    classes, palette = raw.parse_classes(body["classes"], f"{uri}: classes")
    remedy = 'in classes.json, "ids" makes an id a class, and "ignore" makes it void'
    ignored = body.get("ignore")
    ignored_colours = [c for c in ignored if isinstance(c, list)] if isinstance(ignored, list) else []
    if ignored_colours:
        body = {**body, "ignore": [raw_id for raw_id in ignored or [] if not isinstance(raw_id, list)]}
    id_map = _id_map(body, classes, uri)
    void = [(raw.parse_colour(c, f"{uri}: ignore"), _VOID_COLOUR) for c in ignored_colours]
    raw_ids = {train_id: raw_id for raw_id, train_id in id_map.items()}
    own = [
        (palette[i], raw_ids[i])
        for i, entry in enumerate(body["classes"])
        if isinstance(entry, dict) and "color" in entry
    ]
    if void and not own:
        raise DataError(f"{uri}: ignore: colours, but no class has one; write classes as {_COLOURED}")
    if own:
        id_map[_VOID_COLOUR] = IGNORE_INDEX
    space = LabelSpace(name=name, classes=classes, palette=palette, id_map=id_map, remedy=remedy)
    return space, tuple(own + void) if own else ()


def _id_map(body: dict[str, Any], classes: tuple[str, ...], uri: str) -> dict[int, int]:
    ids = body.get("ids", {str(i): name for i, name in enumerate(classes)})
    if not isinstance(ids, dict):
        raise DataError(f'{uri}: ids = {ids!r:.80}: must be an object of raw ids and classes, {{"7": "road"}}')
    id_map: dict[int, int] = {}
    for raw_id, given in ids.items():
        name = _composed(given) if isinstance(given, str) else given
        if name not in classes:
            raise DataError(f"{uri}: ids[{raw_id!r:.80}] = {name!r:.80}: not one of classes")
        number = _raw_id(raw_id, f"{uri}: ids")
        if number in id_map:
            raise DataError(f"{uri}: ids[{raw_id!r}]: a second class of id {number}; remove one of them")
        id_map[number] = classes.index(name)
    if unused := set(range(len(classes))) - set(id_map.values()):
        raise DataError(f"{uri}: ids: none is {classes[min(unused)]!r}; give it one, or remove the class")
    ignore = body.get("ignore", [] if IGNORE_INDEX in id_map else [IGNORE_INDEX])
    ignore = [] if ignore is None else ignore
    if not isinstance(ignore, list):
        raise DataError(f"{uri}: ignore = {ignore!r:.80}: must be a list of raw ids, or of colours")
    for raw_id in ignore:
        number = _raw_id(raw_id, f"{uri}: ignore")
        if id_map.get(number, IGNORE_INDEX) != IGNORE_INDEX:  # void may be named twice
            raise DataError(f"{uri}: ignore: {number} is {classes[id_map[number]]!r}, too; remove it from one of them")
        id_map[number] = IGNORE_INDEX
    return id_map


def _raw_id(value: Any, where: str) -> int:
    text = str(value)
    if type(value) in (int, str) and len(text) <= 5 and text.isascii() and text.isdigit() and int(text) < 2**16:
        return int(text)
    shown = value[:40] if isinstance(value, str) else value
    raise DataError(f"{where}: {shown!r:.80}: must be a whole number from 0 to 65535")


DATASET = DataSet(
    name="folder",
    layout=__doc__,
    labels=labels,
    samples=samples,
    splits=splits,
    splits_help=(
        "Those to pack; by default those that exist: the values of conditions.csv's column split, else images/train, "
        "val and test, else all, which is everything below images/."
    ),
    conditions=(),
    is_named_by_labels=True,
)
