"""Differences that hold together: how often something is said where nothing differs, and what is still found.

All draws have fixed seeds, so each count below is always the same. The bounds are three standard deviations of a
binomial count above 5 %. tests/benchmarks/false_verdicts.py counts more cases, and of more kinds.
"""

import itertools

import pytest
import torch
from torch import Tensor

from distseg.evaluation.bootstrap import ImageCounts, bootstrap_intervals, compare_runs
from distseg.evaluation.simultaneous import between_conditions, seeds_difference

CLASSES, TRIALS, RESAMPLES = 4, 60, 100
AT_MOST = 8  # of 60, where 3 are to be expected


def pictures(
    num: int, generator: torch.Generator, *, lost: float = 0.0, spread: float = 0.25, frames: int = 1
) -> Tensor:
    """Counts (num, 3, K) of images that differ in their classes and in how well they are segmented.

    `frames`: so many after each other are of one drive, and segmented as well as each other.
    """
    truth_NK = (torch.rand(num, CLASSES, generator=generator).pow(2) * 1000).round()
    quality_N1 = spread * (2 * torch.rand(num // frames, 1, generator=generator) - 1).repeat_interleave(frames, 0)
    share_K = torch.tensor([0.7, 0.6, 0.5, 0.4])
    hit_NK = (truth_NK * (share_K + quality_N1 - lost)).round()
    wrong_N1 = (truth_NK - hit_NK).sum(1, keepdim=True)
    return torch.stack([truth_NK, hit_NK + (wrong_N1 / CLASSES).round(), hit_NK], 1).long()


def images_of(counts: dict[str, Tensor], frames: int = 0) -> ImageCounts:
    """`frames`: of each drive; 0: the drives are not known."""
    conditions = [name for name, counts_n3K in counts.items() for _ in counts_n3K]
    keys = [f"{name}/{i:04d}" for i, name in enumerate(conditions)]
    drives = [f"{i // frames}" for i in range(len(keys))] if frames else ()
    return ImageCounts.of(keys, conditions, torch.cat(list(counts.values())), drives)


@pytest.mark.parametrize("sizes", [(12, 12), (20, 200, 60, 200), (10, 40, 15, 25, 10, 30, 12, 18, 10), (10,) * 20])
def test_conditions_that_are_alike_are_seldom_told_apart(sizes: tuple[int, ...]) -> None:
    """Between the best and the worst of nine, 95 % intervals of the two alone would do so in half of the cases."""
    generator = torch.Generator().manual_seed(len(sizes))
    num_real = 0
    for _ in range(TRIALS):
        counts = {f"c{k}": pictures(num, generator) for k, num in enumerate(sizes)}
        gap = bootstrap_intervals(images_of(counts), resamples=RESAMPLES).gap
        assert gap is not None and gap.value > 0
        num_real += gap.excludes_0
    assert num_real <= AT_MOST


@pytest.mark.parametrize("are_known", [True, False])
def test_drives_that_are_alike_are_seldom_told_apart_if_they_are_known(are_known: bool) -> None:
    """Four conditions of ten drives of five frames. Frames of a drive are no independent images."""
    generator = torch.Generator().manual_seed(0)
    num_real = 0
    for _ in range(TRIALS):
        counts = {f"c{k}": pictures(50, generator, frames=5) for k in range(4)}
        gap = bootstrap_intervals(images_of(counts, 5 if are_known else 0), resamples=RESAMPLES).gap
        assert gap is not None
        num_real += gap.excludes_0
    assert (num_real <= AT_MOST) == are_known


def test_conditions_of_one_mean_and_unlike_spreads_are_seldom_told_apart() -> None:
    """Few and unsteady images here, many and steady ones there: exchanging them is no longer exact."""
    generator = torch.Generator().manual_seed(0)
    num_real = 0
    for _ in range(TRIALS):
        unsteady = {f"u{k}": pictures(15, generator, spread=0.28) for k in range(2)}
        steady = {f"s{k}": pictures(40, generator, spread=0.05) for k in range(3)}
        gap = bootstrap_intervals(images_of(unsteady | steady), resamples=RESAMPLES).gap
        assert gap is not None
        num_real += gap.excludes_0
    assert num_real <= AT_MOST


def test_a_condition_that_is_worse_is_found_among_nine() -> None:
    generator = torch.Generator().manual_seed(0)
    num_found = 0
    for _ in range(20):
        counts = {f"c{k}": pictures(40, generator, lost=0.15 if k == 4 else 0.0) for k in range(9)}
        gap = bootstrap_intervals(images_of(counts), resamples=RESAMPLES).gap
        assert gap is not None
        num_found += gap.excludes_0
    assert num_found >= 16


@pytest.mark.parametrize(("num_runs", "num_conditions"), [(2, 1), (2, 6), (4, 4)])
def test_of_runs_that_are_alike_seldom_anything_is_said(num_runs: int, num_conditions: int) -> None:
    """At no condition, of no pair, nor of the worst conditions or all images."""
    generator = torch.Generator().manual_seed(num_runs * num_conditions)
    num_real = 0
    for _ in range(TRIALS):
        shown = {f"c{k}": pictures(15, generator) for k in range(num_conditions)}
        runs = []
        for _ in range(num_runs):
            counts = {name: counts_n3K.clone() for name, counts_n3K in shown.items()}
            for counts_n3K in counts.values():
                found_n1 = 1 - 0.1 * torch.rand(len(counts_n3K), 1, generator=generator)
                counts_n3K[:, 1:] = (counts_n3K[:, 1:] * found_n1[..., None]).round().long()
            runs.append(images_of(counts))
        pairs = compare_runs(runs, permutations=RESAMPLES - 1)
        said = [i for pair in pairs.values() for i in (*pair.conditions.values(), pair.pooled, pair.worst)]
        assert all(interval is not None for interval in said)
        num_real += any(interval is not None and interval.excludes_0 for interval in said)
    assert num_real <= AT_MOST


def test_an_interval_is_of_the_difference_of_two_mious() -> None:
    """By hand: ten images of two classes; IoU 0.8 and 0.5 here, 0.6 and 0.5 there."""
    here, there = (torch.tensor([[[10, 10], [8 + d, 10], [hit, 5]]] * 10) for d, hit in ((0, 8), (2, 6)))
    here[:, 1], there[:, 1] = torch.tensor([8, 5]), torch.tensor([6, 5])
    found = between_conditions({"here": here, "there": there})
    difference = found("here", "there")
    assert difference.value == pytest.approx((0.8 + 0.5) / 2 - (0.6 + 0.5) / 2)
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1)), "images all alike leave no doubt"
    assert found("there", "here").value == pytest.approx(-0.1)


def test_a_class_that_a_condition_lacks_does_not_decide() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = pictures(10, generator), pictures(10, generator)
    other[:, 0, 3] = other[:, 2, 3] = 0  # predicted without truth: IoU 0
    whole = bootstrap_intervals(images_of({"one": one, "other": other})).gap
    without = bootstrap_intervals(images_of({"one": one[..., :3], "other": other[..., :3]})).gap
    assert whole is not None and without is not None
    assert (whole.value, whole.low, whole.high) == pytest.approx((without.value, without.low, without.high))


def test_intervals_do_not_depend_on_chance_and_stay_in_their_range() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = {name: pictures(8, generator, spread=0.3) for name in ("one", "other", "third")}
    pairs = list(itertools.permutations(counts, 2))
    found, again, other = (
        [between(*pair) for pair in pairs]
        for between in (between_conditions(counts), between_conditions(counts), between_conditions(counts, seed=1))
    )
    assert found == again != other
    assert all(-1 <= interval.low <= interval.value <= interval.high <= 1 for interval in found)


def test_seeds_are_compared_by_welchs_t() -> None:
    """By hand: variances 1 and 4 of three each; 0.05 and 2.94 degrees of freedom give t = 3.22."""
    found = seeds_difference([5.0, 6.0, 7.0], [0.0, 2.0, 4.0])
    assert found is not None
    assert (found.value, found.low) == pytest.approx((4.0, 4.0 - 3.2194 * (5 / 3) ** 0.5), abs=2e-3)
    assert seeds_difference([0.5], [0.4, 0.5]) is None
    assert seeds_difference([0.5, 0.5], [0.4, 0.4]) is not None
