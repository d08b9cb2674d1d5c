"""A data set of one's own: photographs in `images/`, label maps of the same names in `labels/`, and their classes.

    images/train/a.jpg  labels/train/a.png     JPEG or PNG, and PNG of ids; deeper folders are fine
    classes.json                               ["road", "sky", …]: id i is class i, 255 is void
    conditions.csv                             optional: file, and any of condition, site, sequence, split

`classes.json` can say more; only "classes" is required:

    {"name": "my-town",
     "classes": ["road", {"name": "sky", "color": [70, 130, 180]}],
     "ids": {"7": "road", "8": "road", "23": "sky"},       raw ids, if they are not 0, 1, 2 … in the order of classes
     "ignore": [0, 255]}                                   raw ids that are void, by default 255

An id that is neither a class nor ignored is an error. In `conditions.csv`, `file` is the path below images/; every
photograph has one row. The split is the folder below images/ and labels/, or the column `split`, not both; a folder
without either is one split, `all`.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from distseg import storage
from distseg.data import raw
from distseg.data.sample import IGNORE_INDEX, LabelSpace, Sample
from distseg.errors import DataError

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
_LAYOUT = "the root has images/, labels/ and classes.json"
_COLUMNS = ("file", "condition", "site", "sequence", "split")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_Rows = dict[str, dict[str, str]]  # of conditions.csv, by file


def samples(root: str, split: str) -> Iterator[Sample]:
    """The images of a split, sorted by name."""
    space = labels(root)
    csv_uri = storage.join(root, "conditions.csv")
    rows = _rows(csv_uri)
    folder = _folder(root, split, rows)
    unused = {file: row for file, row in rows.items() if file.startswith(f"{folder}/") or not folder}
    images = raw.Files(storage.join("images", folder), _IMAGE_ENDINGS)
    for pair in raw.pairs(root, images, raw.Files(storage.join("labels", folder), (".png",)), _LAYOUT):
        file = pair.image.removeprefix(storage.join(root, "images") + "/")
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
            )
    if unused:
        raise DataError(f"{csv_uri}: {min(unused)}: no such photograph below images/; remove the row")


def _folder(root: str, split: str, rows: _Rows) -> str:
    """Of the split, below images/ and labels/; "" if these hold all splits. Raises DataError for an unknown split."""
    folders = storage.list_folders(storage.join(root, "images"))
    splits = {row["split"] for row in rows.values() if "split" in row}
    if split in splits:
        if split in folders:
            raise DataError(f"{root}: both images/{split}/ and conditions.csv's column split name {split!r}; keep one")
        return ""
    if split in folders and not splits:
        return split
    if split == "all" and not splits:
        return ""
    known = ", ".join(sorted(splits or {*folders, "all"}))
    raise DataError(
        f"{root}: no split {split!r}: neither images/{split}/ nor that value in conditions.csv's column split; "
        f"choose from {known}"
    )


# ---- conditions.csv


def _rows(uri: str) -> _Rows:
    if not storage.exists(uri):
        return {}
    reader = csv.DictReader(io.StringIO(_text(uri)), skipinitialspace=True)
    columns = list(reader.fieldnames or ())
    if "file" not in columns or not set(columns) <= set(_COLUMNS):
        raise DataError(f"{uri}: columns {', '.join(columns)}; must be file and any of {', '.join(_COLUMNS[1:])}")
    rows: _Rows = {}
    for row in reader:
        where = f"{uri}: line {reader.line_num}"
        if None in row or None in row.values():
            raise DataError(f"{where}: must have {len(columns)} values, as the first line has")
        for name, value in row.items():
            if name != "file" and not _PLAIN.fullmatch(value):
                raise DataError(f"{where}: {name} {value!r}: use letters, digits, '-' and '_' only")
        if row["file"] in rows:
            raise DataError(f"{where}: a second row of {row['file']}; remove one")
        rows[row.pop("file")] = row
    if not rows:
        raise DataError(f"{uri}: no rows; list every photograph, or remove the file")
    return rows


def _text(uri: str) -> str:
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}: not UTF-8 ({error.reason}); save it as UTF-8") from error


# ---- classes.json


def labels(root: str) -> LabelSpace:
    uri = storage.join(root, "classes.json")
    if not storage.exists(uri):
        raise DataError(f'{uri}: missing; write the names of the classes in order of their ids: ["road", "sky"]')
    value = raw.json_at(uri)
    body = {"classes": value} if isinstance(value, list) else value
    known = ("name", "classes", "ids", "ignore")
    if not isinstance(body, dict) or not body.keys() <= set(known) or "classes" not in body:
        raise DataError(f"{uri}: must be a list of classes, or an object with classes and any of {', '.join(known)}")
    name = body.get("name", "folder")
    if not isinstance(name, str) or not name:
        raise DataError(f"{uri}: name = {name!r}: must be a word")
    classes, palette = raw.parse_classes(body["classes"], f"{uri}: classes")
    return LabelSpace(name=name, classes=classes, palette=palette, id_map=_id_map(body, classes, uri))


def _id_map(body: dict[str, Any], classes: tuple[str, ...], uri: str) -> dict[int, int]:
    ids = body.get("ids", {str(i): name for i, name in enumerate(classes)})
    if not isinstance(ids, dict):
        raise DataError(f'{uri}: ids = {ids!r}: must be an object of raw ids and classes, {{"7": "road"}}')
    id_map: dict[int, int] = {}
    for raw_id, name in ids.items():
        if name not in classes:
            raise DataError(f"{uri}: ids[{raw_id!r}] = {name!r}: not one of classes")
        id_map[_raw_id(raw_id, f"{uri}: ids")] = classes.index(name)
    if unused := set(range(len(classes))) - set(id_map.values()):
        raise DataError(f"{uri}: ids: none is {classes[min(unused)]!r}; give it one, or remove the class")
    ignore = body.get("ignore", [IGNORE_INDEX])
    if not isinstance(ignore, list):
        raise DataError(f"{uri}: ignore = {ignore!r}: must be a list of raw ids")
    for raw_id in ignore:
        number = _raw_id(raw_id, f"{uri}: ignore")
        if number in id_map:
            raise DataError(f"{uri}: ignore: {number} is {classes[id_map[number]]!r}, too; remove it from one of them")
        id_map[number] = IGNORE_INDEX
    return id_map


def _raw_id(value: Any, where: str) -> int:
    if str(value).isascii() and str(value).isdigit() and int(value) < 2**16:
        return int(value)
    raise DataError(f"{where}: {value!r}: must be a whole number from 0 to 65535")
