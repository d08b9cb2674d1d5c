"""How far a score may be trusted: the pixel counts of each image, and the intervals that are made of them.

Of a single score, the percentile bootstrap (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13):
the images of each condition are drawn with replacement, as many as there are; their pixel counts are added up and
scored as `metrics` does; the interval holds the middle 95 % of 1000 such scores. Of differences between conditions or
runs, whose largest one is looked at, the intervals of `simultaneous`, which hold for all of them together.

Frames of one drive resemble each other. Where the sequences of a condition's images are known, whole sequences are
drawn. Of fewer than MIN_UNITS images or sequences nothing is said. The intervals cover which images happen to be in the
split. They do not cover another seed of the training.

Conditions are compared as `ranking` says: over the classes that have truth in all of them. Where no class has, each is
scored over its own, and there is no worst one. Images and conditions without truth take no part.
"""

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distseg.errors import DataError
from distseg.evaluation.ranking import shared_classes, worst_first
from distseg.evaluation.simultaneous import (
    LEVEL,
    PERMUTATIONS,
    POOLED,
    WORST,
    Interval,
    between_conditions,
    between_runs,
)

RESAMPLES = 1000
MIN_UNITS = 8  # of fewer, the drawn samples differ too little: the interval would promise more than is known


@dataclass(frozen=True)
class Units:
    """What is drawn of a condition: images, or whole sequences, and always such that have truth."""

    counts_n3K: Tensor  # int64, added up over each
    kind: str  # "image" or "sequence"

    @property
    def are_enough(self) -> bool:
        return len(self.counts_n3K) >= MIN_UNITS

    def __str__(self) -> str:
        num = len(self.counts_n3K)
        return f"{num} {self.kind}{'' if num == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """One evaluation, image by image: what resampling needs, in 3·K numbers an image instead of K²."""

    keys: tuple[str, ...]  # sorted and unique, so that results do not depend on which rank scored what
    conditions: tuple[str, ...]  # of each image
    counts_N3K: Tensor  # int64: pixels of each class in the truth, in the prediction, and in both at once
    sequences: tuple[str, ...] = ()  # of each image, "" where it is not known; (): of no image

    @classmethod
    def of(
        cls, keys: Sequence[str], conditions: Sequence[str], counts_N3K: Tensor, sequences: Sequence[str] = ()
    ) -> "ImageCounts":
        """From `class_counts` of each image, in any order. Raises DataError for no image, and for a key twice."""
        if not len(keys) == len(conditions) == len(counts_N3K) == len(sequences or keys):
            raise ValueError(
                f"{len(keys)} keys, {len(conditions)} conditions, {len(sequences)} sequences, "
                f"counts of {len(counts_N3K)} images"
            )
        if not keys:
            raise DataError("no image was evaluated: there is nothing to resample")
        order = sorted(range(len(keys)), key=keys.__getitem__)
        ranked = [keys[i] for i in order]
        if twice := next((a for a, b in itertools.pairwise(ranked) if a == b), None):
            raise DataError(f"image {twice} was evaluated twice, so intervals would be wrong; evaluate again")
        return cls(
            keys=tuple(ranked),
            conditions=tuple(conditions[i] for i in order),
            counts_N3K=counts_N3K.cpu()[torch.tensor(order, dtype=torch.int64)],
            sequences=tuple(sequences[i] for i in order) if any(sequences) else (),
        )

    @classmethod
    def from_json(cls, found: Any, source: str) -> "ImageCounts":
        """What `as_json` gave. Raises DataError naming `source` for anything else."""
        try:
            counts_N3K = torch.tensor(found["counts"], dtype=torch.int64)
            if counts_N3K.ndim != 3 or counts_N3K.shape[1] != 3:
                raise ValueError
            keys, conditions, sequences = (
                list(map(str, values)) for values in (found["keys"], found["conditions"], found.get("sequences", ()))
            )
            return cls.of(keys, conditions, counts_N3K, sequences)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DataError(f"{source} does not hold the counts of images; evaluate the run again") from None

    def as_json(self) -> dict[str, Any]:
        return {
            "keys": self.keys,
            "conditions": self.conditions,
            "sequences": self.sequences,
            "counts": self.counts_N3K.tolist(),
        }

    def by_condition(self) -> dict[str, Units]:
        """condition -> what can be drawn of it, in the order of the conditions' names."""
        chosen: dict[str, list[int]] = {name: [] for name in sorted(set(self.conditions))}
        for i, has_truth in enumerate((self.counts_N3K[:, 0].sum(-1) > 0).tolist()):
            if has_truth:
                chosen[self.conditions[i]].append(i)
        return {name: self._units(of_condition) for name, of_condition in chosen.items()}

    def _units(self, chosen: Sequence[int]) -> Units:
        counts_n3K = self.counts_N3K[torch.tensor(chosen, dtype=torch.int64)]
        sequence_of = {i: self.sequences[i] for i in chosen if self.sequences and self.sequences[i]}
        if not sequence_of:
            return Units(counts_n3K, "image")
        number_of: dict[str | int, int] = {}
        numbers = [number_of.setdefault(sequence_of.get(i) or i, len(number_of)) for i in chosen]
        added_up = torch.zeros(len(number_of), *counts_n3K.shape[1:], dtype=torch.int64)
        return Units(added_up.index_add_(0, torch.tensor(numbers), counts_n3K), "sequence")


def _too_few(units: Mapping[str, Units]) -> dict[str, str]:
    return {name: str(found) for name, found in units.items() if not found.are_enough}


# ---- of one run


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Of one run. None: too few images or sequences for it."""

    conditions: dict[str, Interval | None]  # of each alone
    pooled: Interval | None  # of all images together, over all classes
    gap: Interval | None  # best minus worst condition, allowing for their being chosen among all
    rivals: tuple[str, ...]  # conditions that cannot be told apart from the worst one, if there is a gap
    too_few: dict[str, str]  # condition with truth -> "5 images": fewer than MIN_UNITS


def bootstrap_intervals(
    images: ImageCounts,
    *,
    classes: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """`classes`: the ids over which conditions are compared; by default those that have truth in every condition."""
    of_all = images.by_condition()
    units = {name: found for name, found in of_all.items() if len(found.counts_n3K)}
    counts = {name: found.counts_n3K for name, found in units.items()}
    drawn = _draw(counts, resamples, seed)
    compared = _compared_classes(counts, classes)
    scores = {name: _mean_iou(drawn[name], compared) for name in counts}
    values = {name: float(_mean_iou(_total(counts[name]), compared)) for name in counts}
    too_few = _too_few(units)
    alone = {name: _interval(values[name], scores[name], level) for name in counts if name not in too_few}
    gap, rivals = _gap(counts, values, compared, too_few, resamples - 1, level, seed)
    pooled_value = float(_mean_iou(_total(images.counts_N3K)))
    return Intervals(
        conditions={name: alone.get(name) for name in of_all},
        pooled=_interval(pooled_value, _mean_iou(_summed(drawn)), level) if units and not too_few else None,
        gap=gap,
        rivals=rivals,
        too_few=too_few,
    )


def _gap(
    counts: Mapping[str, Tensor],
    values: Mapping[str, float],
    compared: Tensor | None,
    too_few: Mapping[str, str],
    permutations: int,
    level: float,
    seed: int,
) -> tuple[Interval | None, tuple[str, ...]]:
    """That of the best and the worst condition, and who might be the worst as well."""
    ranked = list(worst_first({name: None if math.isnan(value) else value for name, value in values.items()}))
    if compared is None or len(ranked) < 2 or not too_few.keys().isdisjoint((ranked[0], ranked[-1])):
        return None, ()
    worst, best = ranked[0], ranked[-1]
    enough = {name: counts[name] for name in ranked if name not in too_few}
    difference = between_conditions(enough, compared, permutations=permutations, level=level, seed=seed)
    rivals = (name for name in ranked[1:] if name in too_few or difference(name, worst).low <= 0)
    return difference(best, worst), tuple(rivals)


# ---- between runs


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Of a run to another on the same images: its mIoU minus the other's. None: too few images or sequences."""

    conditions: dict[str, Interval | None]
    pooled: Interval | None
    worst: Interval | None  # of each run's own worst condition; None also where conditions have no class in common
    too_few: dict[str, str]  # condition with truth -> "5 images": fewer than MIN_UNITS


def compare_runs(
    runs: Sequence[ImageCounts],
    *,
    classes: Sequence[int] | None = None,
    permutations: int = PERMUTATIONS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[tuple[int, int], Differences]:
    """(k, l) -> the mIoU of run k minus that of run l, for every pair; all intervals hold together.

    `classes` as of `bootstrap_intervals`. Raises DataError unless all were evaluated on the same images and labels.
    """
    for other in runs[1:]:
        check_same_images(other, runs[0])
    of_runs = [{name: u for name, u in run.by_condition().items() if len(u.counts_n3K)} for run in runs]
    counts = [{name: found.counts_n3K for name, found in units.items()} for units in of_runs]
    too_few = _too_few(of_runs[0])
    compared = _compared_classes(counts[0], classes)
    tested = [name for name in counts[0] if name not in too_few]
    pairs = itertools.permutations(range(len(runs)), 2)
    if not tested:
        return {pair: _no_difference(runs[0], too_few) for pair in pairs}
    found = between_runs(counts, compared, tested=tested, permutations=permutations, level=level, seed=seed)
    is_ranked = compared is not None or len(counts[0]) == 1
    return {
        pair: Differences(
            conditions=dict.fromkeys(sorted(set(runs[0].conditions))) | {name: found[pair][name] for name in tested},
            pooled=None if too_few else found[pair][POOLED],
            worst=None if too_few or not is_ranked else found[pair][WORST],
            too_few=too_few,
        )
        for pair in pairs
    }


def _no_difference(images: ImageCounts, too_few: dict[str, str]) -> Differences:
    return Differences(conditions=dict.fromkeys(images.conditions), pooled=None, worst=None, too_few=too_few)


def check_same_images(images: ImageCounts, base: ImageCounts) -> None:
    """Raises DataError if a paired comparison would compare different pictures or different labels."""
    if alone := sorted(
        set(zip(images.keys, images.conditions, strict=True)) ^ set(zip(base.keys, base.conditions, strict=True))
    ):
        raise DataError(
            f"the runs were not evaluated on the same images: {alone[0][0]} ({alone[0][1]}) is of one only; "
            "evaluate both on one data set, split and conditions"
        )
    if images.counts_N3K.shape != base.counts_N3K.shape:
        raise DataError(
            f"the runs predict {images.counts_N3K.shape[2]} and {base.counts_N3K.shape[2]} classes; "
            "compare runs of one label space"
        )
    differing_N = (images.counts_N3K[:, 0] != base.counts_N3K[:, 0]).any(1)
    if differing_N.any():
        key = images.keys[int(differing_N.nonzero()[0])]
        raise DataError(f"the runs were evaluated with different labels of {key}; evaluate both on one data set")


# ---- draws and scores


def _draw(counts: Mapping[str, Tensor], resamples: int, seed: int) -> dict[str, Tensor]:
    """condition -> added-up counts (resamples, 3, K) of its drawn images.

    In float64, which holds sums of pixels exactly. A condition's draws depend on its name and its number of images
    alone: they stay the same whichever other conditions or runs are looked at.
    """
    drawn = {}
    for name, counts_n3K in counts.items():
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        num_units = len(counts_n3K)
        picks_Rn = torch.randint(num_units, (resamples, num_units), generator=generator)
        times_Rn = torch.zeros(resamples, num_units, dtype=torch.float64)
        times_Rn.scatter_add_(1, picks_Rn, torch.ones(1, dtype=torch.float64).expand_as(picks_Rn))
        drawn[name] = (times_Rn @ counts_n3K.double().flatten(1)).unflatten(1, counts_n3K.shape[1:])
    return drawn


def _mean_iou(counts_3K: Tensor, classes: Tensor | None = None) -> Tensor:
    """(…, 3, K) -> (…): over `classes`, or all, without those in neither truth nor prediction; NaN if none is left."""
    truth_K, predicted_K, hit_K = counts_3K.unbind(-2)
    iou_K = hit_K / (truth_K + predicted_K - hit_K)  # 0 / 0 is NaN: left out
    return (iou_K if classes is None else iou_K[..., classes]).nanmean(-1)


def _compared_classes(counts: Mapping[str, Tensor], classes: Sequence[int] | None) -> Tensor | None:
    """The ids of the classes over which conditions are compared, or None for 'each over its own'."""
    if classes is None:
        truth_of = {name: counts_n3K[:, 0].sum(0).tolist() for name, counts_n3K in counts.items()}
        shared = shared_classes(dict(enumerate(truth_K)) for truth_K in truth_of.values())
        classes = sorted(shared) if len(counts) > 1 else ()
    return torch.tensor(classes, dtype=torch.int64) if classes else None


def _total(counts_n3K: Tensor) -> Tensor:
    return counts_n3K.sum(0).double()


def _summed(counts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(counts.values())).sum(0)


def _interval(value: float, scores_R: Tensor, level: float) -> Interval | None:
    if value != value:
        return None  # nothing but void
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=scores_R.dtype)
    low, high = scores_R.nanquantile(tails).tolist()
    return Interval(value, low, high)
