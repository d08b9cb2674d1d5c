"""Label maps of one label space in the classes of another, so that data sets can be trained on and scored together.

    relabelling(LABELS, "cityscapes")            built in: cityscapes, cityscapes-16, cityscapes-13
    relabelling(LABELS, "s3://…/common.json")    by a file, a local one or in S3

Built-in maps join only classes that mean the same; a class without a counterpart becomes void. A file names the new
class of every class, or null for void:

    {"name": "common", "classes": ["road", {"name": "sky", "color": [70, 130, 180]}],
     "map": {"road": "road", "lane-marking": "road", "sky": "sky", "car": null}}
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distseg.data import IGNORE_INDEX, LabelledImage, LabelSpace, Sample, datasets, raw
from distseg.errors import ConfigError, DataError


def targets() -> dict[str, LabelSpace]:
    """The label spaces, by name, that data sets offer to others: Cityscapes' three."""
    return {space.name: space for name in datasets.names() for space in datasets.find(name).relabel_targets}


def to_cityscapes() -> dict[str, Mapping[str, str]]:
    """What the data sets say: label space -> class -> the class of Cityscapes that means the same."""
    described = (datasets.find(name).to_cityscapes for name in datasets.names())
    return {space: classes for spaces in described for space, classes in spaces.items()}


@dataclass(frozen=True)
class Relabelling:
    labels: LabelSpace
    table: bytes  # 256 of them: train id -> train id in `labels`, or 255

    def apply(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            yield dataclasses.replace(sample, load=functools.partial(_load, sample.load, self.table))


def _load(load: Callable[[], LabelledImage], table: bytes) -> LabelledImage:
    loaded = load()
    return loaded._replace(label_HW=np.frombuffer(table, dtype=np.uint8)[loaded.label_HW])


def relabelling(source: LabelSpace, target: str, own: Mapping[str, Mapping[str, str]] | None = None) -> Relabelling:
    """`target`: a name of `targets()`, or the URI of a JSON file. `own`: `to_cityscapes` of a user's own data set.

    Raises ConfigError or DataError if the label space does not fit.
    """
    known_targets = targets()
    if target in known_targets:
        spaces = {**to_cityscapes(), **(own or {})}
        classes = spaces.get(source.name, {})
        if not classes or not classes.keys() <= set(source.classes):
            known = ", ".join(spaces)
            raise ConfigError(f"relabel {target}: label space {source.name!r} is none of {known}; give a .json file")
        labels = dataclasses.replace(known_targets[target], id_map={})
        return Relabelling(labels, _table(source, labels, classes))
    if target.endswith(".json"):
        return _from_file(source, target)
    raise ConfigError(f"relabel {target!r}: must be {', '.join(known_targets)} or the name of a .json file")


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
    name = body["name"]
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 1000:
        raise DataError(f"{uri}: name = {name!r:.80}: must be a word, of 1000 characters at most")
    classes, palette = raw.parse_classes(body["classes"], f"{uri}: classes")
    given = {_composed(name): _composed(new) for name, new in body["map"].items()}
    _check_map(given, source, classes, uri)
    labels = LabelSpace(name=name, classes=classes, palette=palette)
    return Relabelling(labels, _table(source, labels, given))


def _composed(name: Any) -> Any:
    """Names of classes are compared in composed form (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


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
