"""Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png`, `gtFine|gtCoarse/<split>/<city>/*_labelIds.png`.

34 raw ids become the 19 classes that are evaluated, all others void (Cordts et al. 2016, table 1). The city, a folder,
is the site, the first two parts of a file's name are the sequence. Fine annotations: train, val. Coarse: train, val and
train_extra. Those of test were never published; the files of its folder say "void" throughout. A split that has
`*_labelTrainIds.png` alone, what Cityscapes' scripts make of the raw ids, is read from these, and one that has
`*_instanceIds.png` alone from those: an instance's number above 1000 begins with its raw id.

Root is the folder of both parts, or that of the folders that the archives were unpacked in.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from distseg import storage
from distseg.data import IGNORE_INDEX, LabelSpace, Sample, raw
from distseg.data.datasets import DataSet, same
from distseg.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Options:
    annotations: Literal["fine", "coarse"] = "fine"
    """Coarse ones are of train, val and train_extra."""


_CLASSES = {  # name: raw id, colour
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic-light": (19, (250, 170, 30)),
    "traffic-sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
_RAW_IDS = (*range(34), 255)  # 255: the licence plate's -1 in 8 bits


def _space(name: str, without: tuple[str, ...] = ()) -> LabelSpace:
    classes = tuple(c for c in _CLASSES if c not in without)
    train_ids = {_CLASSES[c][0]: train_id for train_id, c in enumerate(classes)}
    return LabelSpace(
        name=name,
        classes=classes,
        palette=tuple(_CLASSES[c][1] for c in classes),
        id_map={raw_id: train_ids.get(raw_id, IGNORE_INDEX) for raw_id in _RAW_IDS},
    )


LABELS = _space("cityscapes")
_TRAIN_ID_LABELS = dataclasses.replace(LABELS, id_map={})
LABELS_16 = _space("cityscapes-16", without=("terrain", "truck", "train"))  # what SYNTHIA-RAND-CITYSCAPES shares
LABELS_13 = _space("cityscapes-13", without=("terrain", "truck", "train", "wall", "fence", "pole"))
_SPACES = (LABELS, LABELS_16, LABELS_13)

_IMAGE_ARCHIVES = ("leftImg8bit_trainvaltest", "leftImg8bit_trainextra")
_ANNOTATION_ARCHIVES = ("gtFine_trainvaltest", "gtFine", "gtCoarse")
_SPLITS = {"fine": ("train", "val"), "coarse": ("train", "val", "train_extra")}
_DEFAULTS = Options()


def samples(root: str, split: str, options: Options = _DEFAULTS) -> Iterator[Sample]:
    """The frames of a split, sorted by name. Raises DataError for a split without annotations."""
    annotations = options.annotations
    if split not in _SPLITS[annotations]:
        hint = "; those of train_extra are coarse" if split == "train_extra" else ""
        known = ", ".join(_SPLITS[annotations])
        raise DataError(f"Cityscapes' {annotations} annotations are of {known}, not of {split!r}{hint}")
    folder = "gtFine" if annotations == "fine" else "gtCoarse"
    images_root = raw.place(root, f"leftImg8bit/{split}", _IMAGE_ARCHIVES) or root
    labels_root = raw.place(root, f"{folder}/{split}", _ANNOTATION_ARCHIVES) or images_root
    ending, space, read = _kind(storage.join(labels_root, folder, split), folder)
    pairs = raw.pairs(
        images_root,
        raw.Files(f"leftImg8bit/{split}", ("_leftImg8bit.png",)),
        raw.Files(f"{folder}/{split}", (ending,)),
        f"Cityscapes' root has leftImg8bit/<split>/<city>/ and {folder}/<split>/<city>/",
        labels_root=labels_root,
    )
    for pair in pairs:
        sequence = "_".join(pair.stem.split("_")[:2])
        city = pair.name.partition("/")[0] if "/" in pair.name else pair.stem.partition("_")[0]
        yield raw.sample(images_root, pair, space, split=split, sequence=sequence, site=city, read=read)


class _Kind(NamedTuple):
    """Of annotations: what their names end in, what their ids mean, and how they are read."""

    ending: str
    space: LabelSpace
    read: Callable[[str], raw.Ids]


def _kind(annotated: str, folder: str) -> _Kind:
    """The first of the kinds that the folder has; the first of all if it has none, for the error."""
    kinds = (
        _Kind(f"_{folder}_labelIds.png", LABELS, raw.read_ids),
        _Kind(f"_{folder}_labelTrainIds.png", _TRAIN_ID_LABELS, raw.read_ids),
        _Kind(f"_{folder}_instanceIds.png", LABELS, read_instances),
    )
    names = [name.lower() for name in raw.names_in(annotated)]
    there = (kind for kind in kinds if any(name.endswith(kind.ending.lower()) for name in names))
    return next(there, kinds[0])


def read_instances(uri: str) -> raw.Ids:
    """The raw ids (H, W): 26 of 26 (a group of cars) and of 26003 (the fourth car)."""
    ids_HW = raw.read_ids(uri)
    return np.where(ids_HW >= 1000, ids_HW // 1000, ids_HW)


DATASET = DataSet(
    name="cityscapes",
    layout=__doc__,
    labels=lambda root: LABELS,
    recipe="pspnet_cityscapes",
    samples=samples,
    options=Options,
    to_cityscapes={space.name: same(" ".join(space.classes)) for space in _SPACES},
    relabel_targets=_SPACES,
)
