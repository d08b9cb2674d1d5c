"""Runs beside each other: their conditions ranked over the same classes, and the tests of their differences.

The classes are those that have truth in every condition of every run. All runs that were evaluated on the same images
are tested together, so that the best one of them may be looked for. Where there are several such groups, each is
tested at a higher level, since a page promises its error rate for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from distseg.errors import DataError
from distseg.evaluation import (
    LEVEL,
    MIN_UNITS,
    Differences,
    ImageCounts,
    Interval,
    Intervals,
    bootstrap_intervals,
    check_same_images,
    compare_runs,
    rank_conditions,
)
from distseg.review.run_review import RunReview


def told_apart(names: Sequence[str]) -> list[str]:
    """The names, those that several runs have with the run's number."""
    return [f"{name} [{k + 1}]" if names.count(name) > 1 else name for k, name in enumerate(names)]


class Comparison:
    """The runs of a comparison, by their numbers."""

    def __init__(self, runs: Sequence[RunReview]) -> None:
        tables = [run.table for run in runs]
        self.runs = runs
        self.names = told_apart([run.name for run in runs])
        self.rankings = [rank_conditions(table, tables) for table in tables]
        self.conditions = list(dict.fromkeys(name for ranking in self.rankings for name in ranking.miou))

    def classes(self, k: int) -> list[int]:
        """The numbers of those over which conditions are compared."""
        names = list(self.runs[k].table["classes"])
        return [names.index(name) for name in self.rankings[k].classes]

    def intervals(self, k: int) -> Intervals | None:
        images = self.runs[k].images
        return bootstrap_intervals(images, classes=self.classes(k)) if images is not None else None

    def pair(self, k: int, other: int = 0) -> Differences | str:
        """The differences of run `k` to another, or why there are none."""
        return self._tested.get((k, other)) or self._why_untested(k, other)

    def tested(self, k: int, condition: str, other: int = 0) -> Interval | None:
        pair = self.pair(k, other)
        return None if isinstance(pair, str) else pair.conditions.get(condition)

    def why_untested(self, k: int, condition: str, other: int) -> str:
        """Of a condition where `tested` is None."""
        pair = self.pair(k, other)
        if isinstance(pair, str):
            return pair
        return f"{pair.too_few[condition]}, {MIN_UNITS} needed" if condition in pair.too_few else "all is void"

    @cached_property
    def _tested(self) -> dict[tuple[int, int], Differences]:
        images = {k: run.images for k, run in enumerate(self.runs) if run.images is not None}
        return tested_together(images, self.classes)

    def _why_untested(self, k: int, other: int) -> str:
        run, base = self.runs[k], self.runs[other]
        if run.images is None or base.images is None:
            return f"{(base if base.images is None else run).name} has no counts of single images"
        try:
            check_same_images(run.images, base.images)
        except DataError as error:
            return str(error)
        return ""


def tested_together(
    images: Mapping[int, ImageCounts], classes: Callable[[int], Sequence[int]]
) -> dict[tuple[int, int], Differences]:
    """Each pair, by their numbers, that was evaluated on the same images. `classes`: of a number, what is compared."""
    groups: list[list[int]] = []
    for k, counts in images.items():
        group = next((group for group in groups if _are_alike(counts, images[group[0]])), None)
        if group is None:
            groups.append([k])
        else:
            group.append(k)
    groups = [group for group in groups if len(group) > 1]
    found: dict[tuple[int, int], Differences] = {}
    for group in groups:
        level = 1 - (1 - LEVEL) / len(groups)  # all groups together call something real in 5 % (Bonferroni)
        pairs = compare_runs([images[k] for k in group], classes=classes(group[0]), level=level)
        found |= {(group[i], group[j]): differences for (i, j), differences in pairs.items()}
    return found


def _are_alike(images: ImageCounts, others: ImageCounts) -> bool:
    """Whether they are of the same images and labels."""
    try:
        check_same_images(images, others)
    except DataError:
        return False
    return True
