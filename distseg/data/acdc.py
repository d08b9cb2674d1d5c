"""ACDC: `rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png`, `gt/…/*_gt_labelTrainIds.png`.

Four conditions, fog, night, rain and snow, filmed in Switzerland, annotated in Cityscapes' train ids (Sakaridis et al.
2021). Annotated are train and val. The splits train_ref and val_ref show the same places in clear weather and are taken
as the condition `clear` where a release annotates them (`*_rgb_ref_anon.png`, `*_gt_ref_labelTrainIds.png`).
"""

import dataclasses
from collections.abc import Iterator

from distseg import storage
from distseg.data import cityscapes, raw
from distseg.data.sample import Sample
from distseg.errors import DataError

LABELS = dataclasses.replace(cityscapes.LABELS, id_map={})  # its files hold train ids

_CONDITIONS = ("fog", "night", "rain", "snow")
_SPLITS = ("train", "val", "train_ref", "val_ref")
_LAYOUT = "ACDC's root has rgb_anon/<condition>/<split>/<sequence>/ and gt/<condition>/<split>/<sequence>/"


def samples(root: str, split: str) -> Iterator[Sample]:
    """The frames of a split in every condition that is there. Raises DataError for a split without annotations."""
    if split not in _SPLITS:
        raise DataError(f"ACDC has no public annotations of {split!r}; choose from {', '.join(_SPLITS)}")
    conditions = [name for name in storage.list_folders(storage.join(root, "rgb_anon")) if name in _CONDITIONS]
    if not conditions:
        raise DataError(f"{storage.join(root, 'rgb_anon')}: none of {', '.join(_CONDITIONS)} is here; {_LAYOUT}")
    for condition in conditions:
        yield from _of_condition(root, split, condition)


def _of_condition(root: str, split: str, condition: str) -> Iterator[Sample]:
    ref = "_ref" if split.endswith("_ref") else ""
    place = f"{condition}/{split}"
    layout = f"this release does not annotate {split}; choose train or val" if ref else _LAYOUT
    pairs = raw.pairs(
        root,
        raw.Files(f"rgb_anon/{place}", (f"_rgb{ref}_anon.png",)),
        raw.Files(f"gt/{place}", (f"_gt{ref}_labelTrainIds.png",)),
        layout,
    )
    for pair in pairs:
        yield raw.sample(
            root,
            pair,
            LABELS,
            key=f"{condition}-{pair.stem}",
            split=split,
            condition="clear" if ref else condition,
            site="switzerland",
            sequence=pair.stem.split("_")[0],
        )
