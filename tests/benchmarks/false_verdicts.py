"""How often something is called real that is not: a table, in Markdown.

    python -m tests.benchmarks.false_verdicts [--trials 200] [--conditions 2 4 9 20]

Images are drawn from one population, dealt to conditions or given to runs that are alike, and counted as an evaluation
counts them: six classes of unlike size and difficulty, where an image lacks some and is easy or hard as a whole. Then
the intervals are asked for, as a run's page asks for them, and each trial in which something is called real counts. The
rate that is promised is 5 %. Below it stand what the difference of the chosen two alone would give (the percentile
bootstrap of best minus worst, as before), and how often a condition that is worse by 0.06 mIoU is found.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distseg.evaluation import ImageCounts, Interval, bootstrap_intervals, compare_runs

CLASSES, PIXELS, RESAMPLES = 6, 10_000, 200
SHARE_FOUND = np.array([0.95, 0.9, 0.8, 0.7, 0.55, 0.4])  # of each class's pixels, in the mean
Counts = npt.NDArray[np.int64]


def pictures(
    rng: np.random.Generator, num: int, *, spread: float = 0.2, worse: float = 0.0, drives: int | None = None
) -> Counts:
    """Counts (num, 3, K) of images. `drives`: they are frames of so many, which are easy or hard alike."""
    share_NK = rng.dirichlet(np.full(CLASSES, 0.7), num)
    truth_NK = np.floor(np.where(share_NK < 0.01, 0, share_NK) * PIXELS)
    easy_N1 = rng.uniform(-1, 1, (num, 1))
    if drives is not None:
        easy_N1 = np.repeat(rng.uniform(-1, 1, (drives, 1)), num // drives, 0)
    easy_NK = easy_N1 + rng.uniform(-1, 1, (num, CLASSES))
    room_K = np.minimum(SHARE_FOUND, 1 - SHARE_FOUND) / 2  # so that the mean stays what it is
    found_NK = SHARE_FOUND - worse + easy_NK * np.minimum(spread, room_K)
    hit_NK = np.floor(truth_NK * found_NK.clip(0, 1))
    wrong_N1 = (truth_NK - hit_NK).sum(1, keepdims=True)
    predicted_NK = hit_NK + np.floor(wrong_N1 * rng.dirichlet(np.ones(CLASSES), num))
    return np.stack([truth_NK, predicted_NK, hit_NK], 1).astype(np.int64)


def evaluated(counts: Sequence[Counts], drives: int | None = None) -> ImageCounts:
    conditions = [f"c{k:02d}" for k, of_condition in enumerate(counts) for _ in of_condition]
    keys = [f"{name}/{i:05d}" for i, name in enumerate(conditions)]
    sequences = (
        [f"{k}-{i * drives // len(of)}" for k, of in enumerate(counts) for i in range(len(of))] if drives else ()
    )
    return ImageCounts.of(keys, conditions, torch.from_numpy(np.concatenate(counts)), sequences)


# ---- what is called real


def gap_is_real(images: ImageCounts) -> bool:
    gap = bootstrap_intervals(images, resamples=RESAMPLES).gap
    return gap is not None and gap.excludes_0


def gap_of_the_two_alone(images: ImageCounts) -> bool:
    """Best minus worst, by a percentile bootstrap that does not allow for the choice."""

    def miou(counts_3K: Tensor) -> Tensor:
        truth_K, predicted_K, hit_K = counts_3K.double().unbind(-2)
        return (hit_K / (truth_K + predicted_K - hit_K)).nanmean(-1)

    counts = [units.counts_n3K for units in images.by_condition().values()]
    value = torch.stack([miou(of.sum(0)) for of in counts])
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for chosen in (counts[int(value.argmax())], counts[int(value.argmin())]):
        picks_Rn = torch.randint(len(chosen), (RESAMPLES, len(chosen)), generator=generator)
        drawn.append(miou(chosen[picks_Rn].sum(1)))
    return bool((drawn[0] - drawn[1]).quantile(0.025) > 0)


def run_is_better(runs: Sequence[ImageCounts]) -> bool:
    """Anything of any pair: at a condition, over all images, at the worst condition."""
    found: list[Interval | None] = []
    for pair in compare_runs(runs, permutations=RESAMPLES - 1).values():
        found += [*pair.conditions.values(), pair.pooled, pair.worst]
    return any(interval is not None and interval.excludes_0 for interval in found)


# ---- cases


def alike(num_images: Sequence[int]) -> Callable[[np.random.Generator, int], ImageCounts]:
    return lambda rng, num: evaluated([pictures(rng, size) for size in np.resize(num_images, num)])


def unlike_spreads(rng: np.random.Generator, num: int) -> ImageCounts:
    """One mean, but every second condition has few and unsteady images, the others many and steady ones."""
    kinds = [(20, 0.3), (80, 0.05)]
    return evaluated([pictures(rng, size, spread=s) for size, s in (kinds[k % 2] for k in range(num))])


def one_is_worse(rng: np.random.Generator, num: int) -> ImageCounts:
    return evaluated([pictures(rng, 40, worse=0.05 if k == 0 else 0.0) for k in range(num)])


def driven(rng: np.random.Generator, num: int, known: bool) -> ImageCounts:
    """100 frames of each condition, of ten drives."""
    return evaluated([pictures(rng, 100, drives=10) for _ in range(num)], 10 if known else None)


def alike_runs(num_runs: int) -> Callable[[np.random.Generator, int], list[ImageCounts]]:
    """On 30 images of each condition; each run misses up to a tenth of the hits of each image, at random."""

    def make(rng: np.random.Generator, num: int) -> list[ImageCounts]:
        shown = [pictures(rng, 30) for _ in range(num)]
        runs = []
        for _ in range(num_runs):
            lost = [np.floor(of[:, 2] * rng.uniform(0, 0.1, (len(of), 1))).astype(np.int64) for of in shown]
            runs.append(
                evaluated(
                    [
                        np.stack([of[:, 0], of[:, 1] - less, of[:, 2] - less], 1)
                        for of, less in zip(shown, lost, strict=True)
                    ]
                )
            )
        return runs

    return make


Case = tuple[str, Callable[[np.random.Generator, int], object], Callable[..., bool]]

CASES: tuple[Case, ...] = (
    ("alike, 10 images each", alike([10]), gap_is_real),
    ("alike, 40 images each", alike([40]), gap_is_real),
    ("alike, 10, 100, 30, 60 … images", alike([10, 100, 30, 60]), gap_is_real),
    ("one mean, unlike spreads and numbers", unlike_spreads, gap_is_real),
    ("alike, ten drives of ten frames, drives known", lambda rng, num: driven(rng, num, True), gap_is_real),
    ("the same, drives not known", lambda rng, num: driven(rng, num, False), gap_is_real),
    ("two runs alike, anything real", alike_runs(2), run_is_better),
    ("four runs alike, anything real", alike_runs(4), run_is_better),
    ("the chosen two alone: alike, 10 images each", alike([10]), gap_of_the_two_alone),
    ("the chosen two alone: alike, 40 images each", alike([40]), gap_of_the_two_alone),
    ("found: one of 40 images each is worse by 0.06", one_is_worse, gap_is_real),
    ("found by the chosen two alone", one_is_worse, gap_of_the_two_alone),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--conditions", type=int, nargs="+", default=[2, 4, 9, 20])
    options = parser.parse_args()
    torch.set_num_threads(1)  # the sums are small
    print(
        f"| called real, % of {options.trials} trials | {' | '.join(f'{k} conditions' for k in options.conditions)} |"
    )
    print("|---" * (1 + len(options.conditions)) + "|", flush=True)
    for title, make, is_real in CASES:
        rates = []
        for num in options.conditions:
            rng = np.random.default_rng(num)
            rates.append(100 * sum(is_real(make(rng, num)) for _ in range(options.trials)) / options.trials)
        print(f"| {title} | {' | '.join(f'{rate:.1f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
