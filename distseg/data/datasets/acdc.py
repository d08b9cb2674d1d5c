"""ACDC: `rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png`, `gt/…/*_gt_labelTrainIds.png`.

Four conditions, fog, night, rain and snow, filmed in Switzerland, annotated in Cityscapes' train ids (Sakaridis et al.
2021). A split that has `*_gt_labelIds.png` alone is read from these, which hold Cityscapes' raw ids. Annotated are
train and val. The splits train_ref and val_ref show the same places in clear weather and are taken as the condition
`clear` where a release annotates them (`*_rgb_ref_anon.png`, `*_gt_ref_labelTrainIds.png`).

Root is the folder of both parts, or that of the folders that the archives were unpacked in.
"""

import dataclasses
from collections.abc import Iterator

from distseg import storage
from distseg.data import Sample, raw
from distseg.data.datasets import DataSet, cityscapes
from distseg.errors import DataError

LABELS = dataclasses.replace(cityscapes.LABELS, id_map={})  # of *_labelTrainIds.png

_CONDITIONS = ("fog", "night", "rain", "snow")
_SPLITS = ("train", "val", "train_ref", "val_ref")
_LAYOUT = "ACDC's root has rgb_anon/<condition>/<split>/<sequence>/ and gt/<condition>/<split>/<sequence>/"


def samples(root: str, split: str) -> Iterator[Sample]:
    """The frames of a split in every condition that has it. Raises DataError for a split without annotations."""
    if split not in _SPLITS:
        raise DataError(f"ACDC has no public annotations of {split!r}; choose from {', '.join(_SPLITS)}")
    images_root = raw.place(root, "rgb_anon", ("rgb_anon_trainvaltest",)) or root
    labels_root = raw.place(root, "gt", ("gt_trainval",)) or images_root
    images, annotations = storage.join(images_root, "rgb_anon"), storage.join(labels_root, "gt")
    photographed, annotated = _has_split(images, split), _has_split(annotations, split)
    for condition, has_split in annotated.items():
        if condition not in photographed or (has_split and not photographed[condition]):
            place = f"{condition}/{split}" if condition in photographed else condition
            raise DataError(f"{annotations}/{place}: its photographs {images}/{place} are missing; {_LAYOUT}")
    if not any(photographed.values()):
        raise DataError(f"{images}: none of {', '.join(_CONDITIONS)} with {split}/ is here; {_LAYOUT}")
    for condition, has_split in photographed.items():
        if has_split:
            yield from _of_condition(images_root, labels_root, split, condition)


def _has_split(folder: str, split: str) -> dict[str, bool]:
    """Each condition below: has it the split? Raises DataError for a folder that is no condition."""
    names = raw.folders(folder)
    for name in names:
        if name not in _CONDITIONS:
            known = ", ".join(_CONDITIONS)
            raise DataError(f"{folder}/{name}: not a condition of ACDC; rename it to one of {known}, or move it away")
    return {name: split in storage.list_folders(storage.join(folder, name)) for name in names}


def _of_condition(images_root: str, labels_root: str, split: str, condition: str) -> Iterator[Sample]:
    ref = "_ref" if split.endswith("_ref") else ""
    place = f"{condition}/{split}"
    annotations = f"gt/{place}"
    raw_ids, train_ids = (f"_gt{ref}_label{kind}.png" for kind in ("Ids", "TrainIds"))
    names = [name.lower() for name in raw.names_in(storage.join(labels_root, annotations))]
    has_train_ids, has_raw_ids = (any(n.endswith(kind.lower()) for n in names) for kind in (train_ids, raw_ids))
    by_raw_ids = has_raw_ids and not has_train_ids
    layout = f"this release does not annotate {split}; choose train or val" if ref else _LAYOUT
    pairs = raw.pairs(
        images_root,
        raw.Files(f"rgb_anon/{place}", (f"_rgb{ref}_anon.png",)),
        raw.Files(annotations, (raw_ids if by_raw_ids else train_ids,)),
        layout,
        labels_root=labels_root,
    )
    for pair in pairs:
        yield raw.sample(
            images_root,
            pair,
            cityscapes.LABELS if by_raw_ids else LABELS,
            key=f"{condition}-{pair.stem}",
            split=split,
            condition="clear" if ref else condition,
            site="switzerland",
            sequence=pair.stem.split("_")[0],
        )


DATASET = DataSet(
    name="acdc",
    layout=__doc__,
    labels=lambda root: LABELS,
    samples=samples,
    conditions=(*_CONDITIONS, "clear"),
)
