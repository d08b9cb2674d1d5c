"""Differences of mIoU that hold together: between the conditions of a run, and between runs on the same images.

Who names the best and the worst of K chooses them on the images that test them: of nine conditions that are alike, the
two extremes differ "significantly" in half of all cases. So a difference is judged beside all others of its kind:

    T = the largest |difference| / standard error among all pairs

A permutation test (Westfall & Young 1993, "Resampling-Based Multiple Testing", max-T) tells how large T is where
nothing differs: the images are dealt to the conditions anew, or the runs are exchanged image by image, 999 times. Each
interval is the difference give or take the 95th percentile of T standard errors. If all conditions, or all runs, are
alike, the chance that any of the intervals excludes 0 is 5 %, for any number of conditions and images. Dividing by the
standard error keeps this nearly true where the means are equal and only the spreads differ (Chung & Romano 2013, "Exact
and asymptotically robust permutation tests"). tests/benchmarks/false_verdicts.py measures both.

What is dealt must be independent: images, or whole sequences where the images are frames of a drive. In: their pixel
counts (n, 3, K), as of `metrics.class_counts`. Shapes: B permutations, G conditions, R runs, C conditions of a run, N
images in all, K classes.
"""

import contextlib
import itertools
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEVEL = 0.95
PERMUTATIONS = 999
_FEW = 199  # permutations, where there are so many images that 999 would take minutes; the error rate is the same
_MANY = 10**9  # numbers that are added up for them, seconds of work
_CHUNK = 1 << 19  # numbers at once: 4 MiB, which a core keeps at hand
_NOTHING = 1e-12  # what is left of a difference of 0 after rounding

POOLED, WORST = "(all images)", "(worst condition)"  # beside the conditions' names; no condition has brackets in it


@dataclass(frozen=True)
class Interval:
    value: float  # of the images themselves
    low: float
    high: float

    @property
    def excludes_0(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def reversed(self) -> "Interval":
        """Of the difference the other way round."""
        return Interval(-self.value, -self.high, -self.low)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The sums are many and small: on a busy machine, threads wait for each other ten times as long as they work."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@_one_thread()
def between_conditions(
    counts: Mapping[str, Tensor],
    classes: Tensor | None = None,
    *,
    permutations: int = PERMUTATIONS,
    level: float = LEVEL,
    seed: int = 0,
) -> Callable[[str, str], Interval]:
    """What gives of (one, other) the mIoU of one condition minus that of the other, for every pair of `counts`.

    Over those of the classes (ids; all by default) that have truth in every condition.
    """
    names = list(counts)
    counts_N3K = torch.cat([counts[name] for name in names]).double()
    labels_N = torch.arange(len(names)).repeat_interleave(torch.tensor([len(counts[name]) for name in names]))
    chosen_K = _mask(classes, counts_N3K.shape[-1])

    def of(labels_BN: Tensor) -> tuple[Tensor, Tensor]:
        score_BG, variance_BG = _condition_scores(counts_N3K, labels_BN, len(names), chosen_K)
        difference_BGG = score_BG[:, :, None] - score_BG[:, None]
        return difference_BGG, (variance_BG[:, :, None] + variance_BG[:, None]).sqrt()

    generator = torch.Generator().manual_seed(seed)
    largest = [
        _ratio(*of(labels_N[torch.rand(count, len(labels_N), generator=generator).argsort(-1)])).flatten(1).amax(1)
        for count in _chunks(permutations, counts_N3K.numel() + 4 * len(names) ** 2)
    ]
    critical = _quantile(torch.cat(largest), level)
    difference_GG, error_GG = (found[0] for found in of(labels_N[None]))

    def interval(one: str, other: str) -> Interval:
        place = names.index(one), names.index(other)
        return _interval(difference_GG[place], error_GG[place], critical)

    return interval


def _condition_scores(
    counts_N3K: Tensor, labels_BN: Tensor, num_conditions: int, chosen_K: Tensor
) -> tuple[Tensor, Tensor]:
    """mIoU (B, G) of the images that have each label, and its variance."""
    num_drawn = len(labels_BN)
    place_BN = labels_BN + num_conditions * torch.arange(num_drawn)[:, None]

    def added_up(values_BNx: Tensor) -> Tensor:
        flat = torch.zeros(num_drawn * num_conditions, *values_BNx.shape[2:], dtype=values_BNx.dtype)
        flat.index_add_(0, place_BN.flatten(), values_BNx.flatten(0, 1))
        return flat.reshape(num_drawn, num_conditions, *values_BNx.shape[2:])

    totals_BG3K = added_up(counts_N3K.expand(num_drawn, *counts_N3K.shape))
    shared_B1K = chosen_K & (totals_BG3K[:, :, 0] > 0).all(1, keepdim=True)
    shared_B1K = torch.where(shared_B1K.any(-1, keepdim=True), shared_B1K, chosen_K)
    score_BG, hit_BGK, union_BGK = _linearised(totals_BG3K, shared_B1K)
    hit_NK, union_NK = _hit_and_union(counts_N3K)
    by_hit_BNK, by_union_BNK = (by.flatten(0, 1)[place_BN] for by in (hit_BGK, union_BGK))
    influence_BN = (by_hit_BNK * hit_NK - by_union_BNK * union_NK).sum(-1)
    num_BG = added_up(torch.ones(labels_BN.shape, dtype=counts_N3K.dtype))
    return score_BG, added_up(influence_BN.square()) * num_BG / (num_BG - 1)


@_one_thread()
def between_runs(
    runs: Sequence[Mapping[str, Tensor]],
    classes: Tensor | None = None,
    *,
    tested: Sequence[str],
    permutations: int = PERMUTATIONS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[tuple[int, int], dict[str, Interval]]:
    """(k, l) -> the mIoU of run k minus that of run l: of the conditions of `tested`, POOLED and WORST.

    `runs`: the counts of the same images by condition, in the same order. Conditions are compared over `classes` (by
    default each over its own), POOLED is over all. WORST is of each run's own worst condition.
    """
    design = _Design.of(runs, classes, [list(runs[0]).index(name) for name in tested])
    num_runs, num_units = len(runs), sum(design.sizes)
    generator = torch.Generator().manual_seed(seed)
    largest = []
    for count in _chunks(permutations, num_runs**2 * num_units * len(design.chosen_K)):
        order_BNR = torch.rand(count, num_units, num_runs, generator=generator).argsort(-1)
        largest.append(_ratio(*design.differences(order_BNR)).flatten(1).amax(1))
    critical = _quantile(torch.cat(largest), level)
    as_they_are_1NR = torch.arange(num_runs).expand(1, num_units, num_runs)
    difference_PS, error_PS = (found[0] for found in design.differences(as_they_are_1NR))
    found: dict[tuple[int, int], dict[str, Interval]] = {}
    for p, (k, other) in enumerate(design.pairs):
        of_pair = {
            name: _interval(difference_PS[p, s], error_PS[p, s], critical)
            for s, name in enumerate((*tested, POOLED, WORST))
        }
        found[k, other] = of_pair
        found[other, k] = {name: interval.reversed for name, interval in of_pair.items()}
    return found


@dataclass(frozen=True, kw_only=True)
class _Design:
    """Runs on the same images, whose results can be exchanged image by image."""

    counts_RN3K: Tensor
    sizes: list[int]  # images of each condition, which lie one after the other
    chosen_K: Tensor
    tested: list[int]  # conditions
    pairs: list[tuple[int, int]]

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Tensor]], classes: Tensor | None, tested: list[int]) -> "_Design":
        counts_RN3K = torch.stack([torch.cat(list(counts.values())) for counts in runs]).double()
        return cls(
            counts_RN3K=counts_RN3K,
            sizes=[len(counts) for counts in runs[0].values()],
            chosen_K=_mask(classes, counts_RN3K.shape[-1]),
            tested=tested,
            pairs=list(itertools.combinations(range(len(runs)), 2)),
        )

    def differences(self, order_BNR: Tensor) -> tuple[Tensor, Tensor]:
        """Differences (B, pairs, S) and their standard errors; S: the tested conditions, all images, the worst.

        `order_BNR`: which run's result of image n stands in the place of run r.
        """
        num_runs = len(self.counts_RN3K)
        member_BRSN = (order_BNR.mT[:, :, None] == torch.arange(num_runs)[:, None]).double()
        parts = list(zip(member_BRSN.split(self.sizes, -1), self.counts_RN3K.split(self.sizes, 1), strict=True))
        totals_BRC3K = torch.stack([self._totals(*part) for part in parts], 2)
        score_BRC, hit_BRCK, union_BRCK = _linearised(totals_BRC3K, self.chosen_K)
        pooled_BR, hit_BRK, union_BRK = _linearised(totals_BRC3K.sum(2), torch.ones_like(self.chosen_K))
        own = [self._own(hit_BRCK[:, :, c], union_BRCK[:, :, c], *part) for c, part in enumerate(parts)]
        of_all = [self._own(hit_BRK, union_BRK, *part) for part in parts]
        worst_BR = score_BRC.nan_to_num(torch.inf).argmin(-1)
        of_worst = [influence_BRn * (worst_BR == c)[..., None] for c, influence_BRn in enumerate(own)]
        differences, variances = [], []
        for c in self.tested:
            differences.append(score_BRC[..., c])
            variances.append(self._variance([own[c]]))
        differences += [pooled_BR, score_BRC.gather(-1, worst_BR[..., None])[..., 0]]
        variances += [self._variance(of_all), self._variance(of_worst)]
        first, second = (torch.tensor(places) for places in zip(*self.pairs, strict=True))
        score_BRS = torch.stack(differences, -1)
        return score_BRS[:, first] - score_BRS[:, second], torch.stack(variances, -1).sqrt()

    @staticmethod
    def _totals(member_BRSn: Tensor, counts_Sn3K: Tensor) -> Tensor:
        """The added-up counts (B, R, 3, K) of what stands in the place of each run."""
        totals_BRx = member_BRSn.flatten(2) @ counts_Sn3K.flatten(0, 1).flatten(1)
        return totals_BRx.reshape(*totals_BRx.shape[:2], *counts_Sn3K.shape[2:])

    @staticmethod
    def _own(hit_BRK: Tensor, union_BRK: Tensor, member_BRSn: Tensor, counts_Sn3K: Tensor) -> Tensor:
        """The influence (B, R, n) of what stands in the place of each run."""
        influence_BRx = _influence(hit_BRK, union_BRK, counts_Sn3K.flatten(0, 1))
        return (influence_BRx.reshape(member_BRSn.shape) * member_BRSn).sum(2)

    def _variance(self, influences: Sequence[Tensor]) -> Tensor:
        """Of the differences (B, pairs), from the influence (B, R, n) of each image, condition after condition.

        The number of images of each condition is given, not drawn: images vary about the mean of their condition.
        """
        first, second = (torch.tensor(places) for places in zip(*self.pairs, strict=True))
        of_conditions = []
        for influence_BRn in influences:
            num = influence_BRn.shape[-1]
            difference_BPn = influence_BRn[:, first] - influence_BRn[:, second]
            centred_BPn = difference_BPn - difference_BPn.mean(-1, keepdim=True)
            of_conditions.append(centred_BPn.square().sum(-1) * num / max(1, num - 1))
        return torch.stack(of_conditions).sum(0)


def seeds_difference(scores: Sequence[float], base: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    """The mean score of some trainings minus that of others which differ from them by more than the seed.

    Welch's t interval; None for a single training of either. It covers the seeds, not the choice of test images.
    """
    if min(len(scores), len(base)) < 2:
        return None
    from scipy import stats  # here, as it takes a third of a second to import

    value = statistics.fmean(scores) - statistics.fmean(base)
    if len({*scores}) == len({*base}) == 1:
        return Interval(value, value, value)
    with (
        warnings.catch_warnings()
    ):  # of scores that are alike to the last digit, whose spread is 0 for all that matters
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.ttest_ind(scores, base, equal_var=False).confidence_interval(level)
    return Interval(value, float(found.low), float(found.high))


# ---- mIoU and what each image does to it


def _linearised(totals_3K: Tensor, chosen_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """mIoU (…) of added-up counts (…, 3, K), and how it changes with a pixel more of each class (…, K): in the hits, in
    the union. Over the chosen classes that are in truth or prediction; NaN if none is."""
    truth_K, predicted_K, hit_K = totals_3K.unbind(-2)
    union_K = truth_K + predicted_K - hit_K
    is_there_K = chosen_K & (union_K > 0)
    iou_K = torch.where(is_there_K, hit_K / union_K, 0.0)
    num_classes = is_there_K.sum(-1)
    by_hit_K = torch.where(is_there_K, 1 / union_K, 0.0) / num_classes.clamp(min=1)[..., None]
    return iou_K.sum(-1) / num_classes, by_hit_K, by_hit_K * iou_K


def _influence(hit_GK: Tensor, union_GK: Tensor, counts_N3K: Tensor) -> Tensor:
    """(…, G, N): what each image adds to each mIoU, to first order (the delta method); 0 in the mean."""
    hit_NK, union_NK = _hit_and_union(counts_N3K)
    return hit_GK @ hit_NK.T - union_GK @ union_NK.T


def _hit_and_union(counts_N3K: Tensor) -> tuple[Tensor, Tensor]:
    truth_NK, predicted_NK, hit_NK = counts_N3K.unbind(-2)
    return hit_NK, truth_NK + predicted_NK - hit_NK


def _mask(classes: Tensor | None, num_classes: int) -> Tensor:
    mask_K = torch.ones(num_classes, dtype=torch.bool)
    if classes is not None:
        mask_K[:] = False
        mask_K[classes] = True
    return mask_K


# ---- the test


def _chunks(permutations: int, numbers_each: int) -> Iterator[int]:
    """How many permutations at a time, in all as many as are made."""
    left = permutations if permutations * numbers_each <= _MANY else min(_FEW, permutations)
    at_once = max(1, _CHUNK // numbers_each)
    while left > 0:
        yield min(left, at_once)
        left -= at_once


def _ratio(difference: Tensor, error: Tensor) -> Tensor:
    """|difference| / error. Nothing differs where both are 0, nor where nothing was scored."""
    ratio = (difference.abs() / error).nan_to_num(nan=0.0, posinf=torch.inf)
    return torch.where(difference.abs() < _NOTHING, 0.0, ratio)


def _quantile(largest_B: Tensor, level: float) -> float:
    """What the largest ratio exceeds with a probability of at most 1 - level if nothing differs."""
    place = math.ceil(level * (len(largest_B) + 1))
    return float(largest_B.sort().values[min(place, len(largest_B)) - 1])


def _interval(difference: Tensor, error: Tensor, critical: float) -> Interval:
    """Differences of mIoU lie between -1 and 1."""
    value = float(difference)
    half = float(error) * critical if math.isfinite(critical) else math.inf
    return Interval(value, max(-1.0, value - half), min(1.0, value + half))
