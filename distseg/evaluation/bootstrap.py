"""How far a score may be trusted: intervals of mIoU per condition, and of the difference of two runs.

Method: the percentile bootstrap (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapters 6 and 13). The
images of each condition are drawn with replacement, as many as there are; their pixel counts are added up and scored as
`metrics` does; the interval holds the middle 95 % of 1000 such scores. Two runs are scored on the same draws of the
same images, so that what makes an image hard for both cancels out: that is the paired interval of their difference.

It covers which images happen to be in the split. It does not cover another seed of the training, and where images
resemble each other, as the frames of one drive do, it is too narrow.

Conditions are compared as `ranking` says: over the classes that have truth in all of them. Where no class has, each is
scored over its own, and there is no worst one.
"""

import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distseg.errors import DataError
from distseg.evaluation.ranking import shared_classes, worst_first

LEVEL = 0.95
RESAMPLES = 1000
MIN_IMAGES = 8  # of fewer, the drawn samples differ too little: the interval would promise more than is known


@dataclass(frozen=True)
class Interval:
    value: float  # of the images themselves
    low: float
    high: float

    @property
    def excludes_0(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """One evaluation, image by image: what resampling needs, in 3·K numbers an image instead of K²."""

    keys: tuple[str, ...]  # sorted and unique, so that results do not depend on which rank scored what
    conditions: tuple[str, ...]  # of each image
    counts_N3K: Tensor  # int64: pixels of each class in the truth, in the prediction, and in both at once

    @classmethod
    def of(cls, keys: Sequence[str], conditions: Sequence[str], counts_N3K: Tensor) -> "ImageCounts":
        """From `class_counts` of each image, in any order. Raises DataError for no image, and for a key twice."""
        if not len(keys) == len(conditions) == len(counts_N3K):
            raise ValueError(f"{len(keys)} keys, {len(conditions)} conditions, counts of {len(counts_N3K)} images")
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
        )

    @classmethod
    def from_json(cls, found: Any, source: str) -> "ImageCounts":
        """What `as_json` gave. Raises DataError naming `source` for anything else."""
        try:
            counts_N3K = torch.tensor(found["counts"], dtype=torch.int64)
            if counts_N3K.ndim != 3 or counts_N3K.shape[1] != 3:
                raise ValueError
            return cls.of(list(map(str, found["keys"])), list(map(str, found["conditions"])), counts_N3K)
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{source} does not hold the counts of images; evaluate the run again") from None

    def as_json(self) -> dict[str, Any]:
        return {"keys": self.keys, "conditions": self.conditions, "counts": self.counts_N3K.tolist()}

    def by_condition(self) -> dict[str, Tensor]:
        """condition -> counts (n, 3, K) of its images"""
        names = sorted(set(self.conditions))
        return {name: self.counts_N3K[torch.tensor([c == name for c in self.conditions])] for name in names}


def class_counts(matrices_KK: Tensor) -> Tensor:
    """Confusion matrices (…, K, K) -> (…, 3, K): pixels in the truth, in the prediction, and in both."""
    return torch.stack([matrices_KK.sum(-1), matrices_KK.sum(-2), matrices_KK.diagonal(dim1=-2, dim2=-1)], -2)


def image_iou(counts_3K: Tensor) -> float | None:
    """IoU of the classes in one image's truth, weighted by their pixels there; None if all is void.

    To find the images to look at: in the plain mean of a single image's few classes, one of some pixels decides.
    """
    truth_K, predicted_K, hit_K = counts_3K.tolist()
    num_valid = sum(truth_K)
    if not num_valid:
        return None
    per_class = zip(truth_K, predicted_K, hit_K, strict=True)
    return math.fsum(t * hit / (t + predicted - hit) for t, predicted, hit in per_class if t) / float(num_valid)


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Of one run. None: too few images (fewer than MIN_IMAGES in a condition that it takes)."""

    conditions: dict[str, Interval | None]
    pooled: Interval | None  # of all images together, over all classes
    gap: Interval | None  # best minus worst condition, those of the images themselves
    worst_share: dict[str, float]  # condition -> in which share of the draws it was the worst; empty: too few images


def bootstrap_intervals(
    images: ImageCounts,
    *,
    classes: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """`classes`: the ids over which conditions are compared; by default those that have truth in every condition."""
    counts = images.by_condition()
    drawn = _draw(counts, resamples, seed)
    compared = _compared_classes(counts, classes)
    scores = {name: _mean_iou(drawn[name], compared) for name in counts}
    values = {name: float(_mean_iou(_total(counts[name]), compared)) for name in counts}
    ranked = worst_first({name: None if math.isnan(value) else value for name, value in values.items()})
    is_enough = _is_enough(counts)
    gap, worst_share = None, {}
    if is_enough and compared is not None and len(ranked) > 1:
        worst, *_, best = ranked
        gap = _interval(ranked[best] - ranked[worst], scores[best] - scores[worst], level)
        worst_share = _worst_share({name: scores[name] for name in counts if name in ranked})
    pooled_value, pooled_scores = float(_mean_iou(_total(images.counts_N3K))), _mean_iou(_summed(drawn))
    return Intervals(
        conditions={
            name: _interval(values[name], scores[name], level) if len(counts[name]) >= MIN_IMAGES else None
            for name in counts
        },
        pooled=_interval(pooled_value, pooled_scores, level) if is_enough else None,
        gap=gap,
        worst_share=worst_share,
    )


def _worst_share(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """condition -> the share of the draws in which its score is the lowest"""
    scores_CR = torch.stack(list(scores.values())).nan_to_num(torch.inf)
    times_worst_C = scores_CR.argmin(0).bincount(minlength=len(scores))
    return dict(zip(scores, (times_worst_C / scores_CR.shape[1]).tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Of a run to another on the same images: its mIoU minus the other's. None: too few images."""

    conditions: dict[str, Interval | None]
    pooled: Interval | None
    worst: Interval | None  # of each run's own worst condition; None also where conditions have no class in common


def paired_bootstrap(
    images: ImageCounts,
    base: ImageCounts,
    *,
    classes: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Differences:
    """`images` minus `base`; `classes` as of `bootstrap_intervals`.

    Raises DataError unless both were evaluated on the same images and labels.
    """
    check_same_images(images, base)
    of_both = images.by_condition(), base.by_condition()
    drawn = _draw(of_both[0], resamples, seed), _draw(of_both[1], resamples, seed)
    compared = _compared_classes(of_both[0], classes)
    totals: tuple[Mapping[str, Tensor], ...] = tuple({n: _total(c) for n, c in counts.items()} for counts in of_both)

    def difference(score: Callable[[Mapping[str, Tensor]], Tensor]) -> Interval | None:
        value = float(score(totals[0]) - score(totals[1]))
        return _interval(value, score(drawn[0]) - score(drawn[1]), level)

    def of_condition(name: str) -> Interval | None:
        return difference(lambda counts: _mean_iou(counts[name], compared))

    is_enough = _is_enough(of_both[0])
    return Differences(
        conditions={
            name: of_condition(name) if len(counts) >= MIN_IMAGES else None for name, counts in of_both[0].items()
        },
        pooled=difference(lambda counts: _mean_iou(_summed(counts))) if is_enough else None,
        worst=difference(lambda counts: _worst(counts, compared)) if is_enough and compared is not None else None,
    )


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


def _draw(counts: Mapping[str, Tensor], resamples: int, seed: int) -> dict[str, Tensor]:
    """condition -> added-up counts (resamples, 3, K) of its drawn images.

    In float64, which holds sums of pixels exactly. A condition's draws depend on its name and its number of images
    alone: they stay the same whichever other conditions or runs are looked at.
    """
    drawn = {}
    for name, counts_n3K in counts.items():
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        num_images = len(counts_n3K)
        picks_Rn = torch.randint(num_images, (resamples, num_images), generator=generator)
        times_Rn = torch.zeros(resamples, num_images, dtype=torch.float64)
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
        classes = sorted(shared_classes(dict(enumerate(truth_K)) for truth_K in truth_of.values()))
    return torch.tensor(classes, dtype=torch.int64) if classes else None


def _total(counts_n3K: Tensor) -> Tensor:
    return counts_n3K.sum(0).double()


def _summed(counts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(counts.values())).sum(0)


def _worst(counts: Mapping[str, Tensor], classes: Tensor | None) -> Tensor:
    return torch.stack([_mean_iou(c, classes) for c in counts.values()]).nan_to_num(torch.inf).amin(0)


def _is_enough(counts: Mapping[str, Tensor]) -> bool:
    return min(map(len, counts.values())) >= MIN_IMAGES


def _interval(value: float, scores_R: Tensor, level: float) -> Interval | None:
    if value != value:
        return None  # nothing but void
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=scores_R.dtype)
    low, high = scores_R.nanquantile(tails).tolist()
    return Interval(value, low, high)
