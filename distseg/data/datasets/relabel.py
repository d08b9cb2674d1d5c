"""Label maps of one label space in the classes of another, so that data sets can be trained on and scored together.

    relabelling(LABELS, "cityscapes")            built in: cityscapes, cityscapes-16, cityscapes-13
    relabelling(LABELS, "s3://…/common.json")    by a file, a local one or in S3

Built in are only classes that mean the same; what has no counterpart becomes void. A file says what becomes of every
class, null for void:

    {"name": "common", "classes": ["road", {"name": "sky", "color": [70, 130, 180]}],
     "map": {"road": "road", "lane-marking": "road", "sky": "sky", "car": null}}
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distseg.data import IGNORE_INDEX, LabelledImage, LabelSpace, Sample
from distseg.data.datasets import cityscapes, raw
from distseg.errors import ConfigError, DataError

TARGETS = {space.name: space for space in (cityscapes.LABELS, cityscapes.LABELS_16, cityscapes.LABELS_13)}


def _same(names: str) -> dict[str, str]:
    return {name: name for name in names.split()}


_TO_CITYSCAPES: dict[str, dict[str, str]] = {  # by label space, then class
    **{space.name: _same(" ".join(space.classes)) for space in TARGETS.values()},
    "synthia": {
        **_same("sky building road sidewalk fence vegetation pole car bicycle traffic-light"),
        **{"sign": "traffic-sign", "pedestrian": "person", "lane-marking": "road"},
    },
    # Not bicyclist, which is rider and bicycle in one. Its sign includes a few traffic lights.
    "camvid": {
        **_same("sky building pole road fence car"),
        **{"pavement": "sidewalk", "tree": "vegetation", "sign": "traffic-sign", "pedestrian": "person"},
    },
    # Not wall, which is mostly indoors, nor signboard, which is mostly advertising. Its person includes riders.
    "ade20k": {
        **_same("building sky road sidewalk person car fence pole truck bus bicycle traffic-light"),
        **dict.fromkeys(("house", "skyscraper"), "building"),
        **dict.fromkeys(("tree", "palm", "plant"), "vegetation"),
        **dict.fromkeys(("grass", "earth", "field", "sand"), "terrain"),
        **{"minibike": "motorcycle", "van": "car"},
    },
    # Not background, which is anything. Its person includes riders.
    "voc": {**_same("bicycle bus car person train"), "motorbike": "motorcycle"},
}


@dataclass(frozen=True)
class Relabelling:
    labels: LabelSpace
    table: bytes  # 256: train id -> train id of `labels`, or 255

    def apply(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            yield dataclasses.replace(sample, load=functools.partial(_load, sample.load, self.table))


def _load(load: Callable[[], LabelledImage], table: bytes) -> LabelledImage:
    loaded = load()
    return loaded._replace(label_HW=np.frombuffer(table, dtype=np.uint8)[loaded.label_HW])


def relabelling(source: LabelSpace, target: str) -> Relabelling:
    """`target`: a name of `TARGETS`, or the uri of a JSON file. Raises ConfigError or DataError if it does not fit."""
    if target in TARGETS:
        classes = _TO_CITYSCAPES.get(source.name, {})
        if not classes or not classes.keys() <= set(source.classes):
            known = ", ".join(_TO_CITYSCAPES)
            raise ConfigError(f"relabel {target}: label space {source.name!r} is none of {known}; give a .json file")
        labels = dataclasses.replace(TARGETS[target], id_map={})
        return Relabelling(labels, _table(source, labels, classes))
    if target.endswith(".json"):
        return _from_file(source, target)
    raise ConfigError(f"relabel {target!r}: must be {', '.join(TARGETS)} or the name of a .json file")


def _table(source: LabelSpace, target: LabelSpace, classes: Mapping[str, str | None]) -> bytes:
    table = bytearray([IGNORE_INDEX] * 256)
    for train_id, name in enumerate(source.classes):
        new = classes.get(name)
        if new in target.classes:
            table[train_id] = target.classes.index(new)
    return bytes(table)


def _from_file(source: LabelSpace, uri: str) -> Relabelling:
    body = raw.json_at(uri)
    if not isinstance(body, dict) or body.keys() != {"name", "classes", "map"} or not isinstance(body["map"], dict):
        raise DataError(f"{uri}: must be an object with name, classes and map, which is an object, too")
    if not isinstance(body["name"], str) or not body["name"]:
        raise DataError(f"{uri}: name = {body['name']!r}: must be a word")
    classes, palette = raw.parse_classes(body["classes"], f"{uri}: classes")
    _check_map(body["map"], source, classes, uri)
    labels = LabelSpace(name=body["name"], classes=classes, palette=palette)
    return Relabelling(labels, _table(source, labels, body["map"]))


def _check_map(given: dict[str, Any], source: LabelSpace, classes: tuple[str, ...], uri: str) -> None:
    for name in source.classes:
        if name not in given:
            raise DataError(
                f"{uri}: map: {name!r} of {source.name} is not in it; map it to a class, or to null for void"
            )
    for name, new in given.items():
        if name not in source.classes:
            raise DataError(f"{uri}: map: {name!r} is not a class of {source.name}; it has {', '.join(source.classes)}")
        if new is not None and new not in classes:
            raise DataError(f"{uri}: map[{name!r}] = {new!r}: must be null or one of {', '.join(classes)}")
