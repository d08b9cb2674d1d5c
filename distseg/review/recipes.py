"""Several trainings of one recipe, which differ by the seed alone, as one entry: mean, spread, and leads that outlast.

A lead between recipes is real if it is so over the seeds (Welch's t interval of the mean scores) and over the test
images (the paired test of `distseg.evaluation.compare_runs`, on the counts of all seeds together). Each of the two
holds for all pairs of recipes and all conditions at once, so both together call something real in at most 5 % of the
cases where the recipes are alike.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from distseg.evaluation import (
    LEVEL,
    Differences,
    ImageCounts,
    Interval,
    seeds_difference,
)
from distseg.review.html import HtmlTable
from distseg.review.run_review import RunReview
from distseg.review.tested_runs import Comparison, tested_together
from distseg.review.text import ABSENT, listed, mean_and_spread, signed, span

PLACES = ("name", "checkpoint.uri", "tracking.uri", "tracking.experiment")  # fields that do not change what is computed
_NEEDED = "that takes two seeds of each recipe, and counts of the same images"
WORST, ALL = "worst condition of each", "all images together"


def fields_of(run: RunReview) -> dict[str, str]:
    """The configuration, flat: "optim.lr" -> JSON, without PLACES."""
    return {name: value for name, value in _dotted(run.config) if name not in PLACES}


def _dotted(config: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", json.dumps(value, default=str)


@dataclass(frozen=True)
class Recipe:
    name: str
    runs: tuple[int, ...]  # their numbers in the comparison, each of another seed


class Recipes:
    """The recipes of a comparison, in the order of their first runs."""

    def __init__(self, compared: Comparison) -> None:
        self.compared = compared
        self.recipes = _grouped(compared)
        self.rows = [*compared.conditions, *((WORST,) if len(compared.conditions) > 1 else ()), ALL]
        several = [k for k, recipe in enumerate(self.recipes) if len(recipe.runs) > 1]
        num_tests = max(1, math.comb(len(several), 2) * len(self.rows))
        self._level = 1 - (1 - LEVEL) / num_tests  # of all tests together LEVEL (Bonferroni)

    @property
    def has_seeds(self) -> bool:
        return any(len(recipe.runs) > 1 for recipe in self.recipes)

    def scores(self, recipe: int, row: str) -> list[float]:
        """mIoU of each seed that has one."""
        compared, found = self.compared, []
        for k in self.recipes[recipe].runs:
            ranking = compared.rankings[k]
            of_row = {WORST: ranking.miou_worst, ALL: compared.runs[k].table["mIoU"]}
            found.append(of_row[row] if row in of_row else ranking.miou.get(row))
        return [score for score in found if score is not None]

    def over_seeds(self, recipe: int, other: int, row: str) -> Interval | None:
        return seeds_difference(self.scores(recipe, row), self.scores(other, row), level=self._level)

    def over_images(self, recipe: int, other: int, row: str) -> Interval | None:
        found = self._on_images.get((recipe, other))
        if found is None:
            return None
        return {WORST: found.worst, ALL: found.pooled}.get(row, found.conditions.get(row))

    def is_real(self, recipe: int, other: int, row: str) -> bool | None:
        """Whether the difference is of one sign over seeds and images; None if either is not tested."""
        both = (self.over_seeds(recipe, other, row), self.over_images(recipe, other, row))
        if None in both:
            return None
        return all(each.low > 0 for each in both if each) or all(each.high < 0 for each in both if each)

    @cached_property
    def _on_images(self) -> dict[tuple[int, int], Differences]:
        """Between recipes of several seeds: a single training says nothing of its recipe."""
        several = [(k, self._counts(recipe)) for k, recipe in enumerate(self.recipes) if len(recipe.runs) > 1]
        images = {k: counts for k, counts in several if counts is not None}
        return tested_together(images, lambda k: self.compared.classes(self.recipes[k].runs[0]))

    def _counts(self, recipe: Recipe) -> ImageCounts | None:
        """Of all its seeds together; of each recipe as many times the truth, as the test asks for the same labels."""
        images = [self.compared.runs[k].images for k in recipe.runs]
        known = [each for each in images if each is not None]
        if len(known) < len(images) or any(each.keys != known[0].keys for each in known):
            return None
        times = math.lcm(*(len(each.runs) for each in self.recipes)) // len(recipe.runs)
        return replace(known[0], counts_N3K=times * torch.stack([each.counts_N3K for each in known]).sum(0))

    def table(self) -> HtmlTable:
        """Rows are conditions, columns recipes: mean ± standard deviation over seeds, the difference to the first."""
        names = [f"{recipe.name}, {len(recipe.runs)} {_seeds(recipe)}" for recipe in self.recipes]
        rows = [(row, *(self._cell(k, row) for k in range(len(self.recipes)))) for row in self.rows]
        return HtmlTable(("condition", *names), rows)

    def _cell(self, recipe: int, row: str) -> str:
        scores = self.scores(recipe, row)
        if not scores:
            return ABSENT
        lines = [mean_and_spread(scores)]
        seeds, images = (
            (test(recipe, 0, row) for test in (self.over_seeds, self.over_images)) if recipe else (None, None)
        )
        if seeds is not None:
            lines.append(f"{signed(seeds.value, 3)}, over seeds {span(seeds, 3)}")
            lines += [f"over images {span(images, 3)}"] if images else []
            real = self.is_real(recipe, 0, row)
            gained = "real gain" if seeds.value > 0 else "real loss"
            lines += [] if real is None else [gained if real else "may be chance"]
        return "\n".join(lines)

    def summary(self) -> str:
        """Which recipe leads where. Only leads that are real over seeds and images count."""
        if len(self.recipes) == 1:
            return self._summary_of_one()
        leads: dict[str, list[str]] = {}
        chance: list[str] = []
        untested: list[str] = []
        for condition in self.compared.conditions:
            means = {k: sum(s) / len(s) for k in range(len(self.recipes)) if (s := self.scores(k, condition))}
            best = max(means, key=means.__getitem__)
            tests = [self.is_real(best, other, condition) for other in means if other != best]
            if False in tests:
                chance.append(condition)
            elif None in tests:
                untested.append(condition)
            elif tests:
                leads.setdefault(self.recipes[best].name, []).append(condition)
        parts = [f"{name} is best at {listed(conditions)}" for name, conditions in leads.items()]
        where = f"at {listed(chance)} " if leads or untested else ""
        parts += [f"{where}no recipe leads by more than seeds and test images explain"] if chance else []
        parts += [f"not tested at {listed(untested)}: {_NEEDED}"] if untested else []
        if not parts:
            return "They have no condition in common."
        text = "; ".join(parts)
        return f"{text if leads else text[0].upper() + text[1:]}."

    def _summary_of_one(self) -> str:
        if not self.scores(0, ALL):
            return f"{len(self.recipes[0].runs)} seeds of one recipe, without a score: all is void."
        worst = self.scores(0, WORST) if WORST in self.rows else []
        at_worst = f", at the worst condition {mean_and_spread(worst)}" if worst else ""
        return (
            f"{len(self.recipes[0].runs)} seeds of one recipe: mIoU {mean_and_spread(self.scores(0, ALL))}{at_worst}. "
            "What differs between them is chance."
        )


def _seeds(recipe: Recipe) -> str:
    return "seed" if len(recipe.runs) == 1 else "seeds"


def _grouped(compared: Comparison) -> list[Recipe]:
    """A run without a configuration, and one whose seed its recipe has already, is a recipe of its own."""
    groups: dict[tuple[str, ...], dict[str, int]] = {}
    for k, run in enumerate(compared.runs):
        fields = fields_of(run)
        seed = fields.pop("seed", "")
        key: tuple[str, ...] = (run.data_digest, json.dumps(fields, sort_keys=True))
        if not fields or seed in groups.get(key, {}):
            key = (*key, str(k))
        groups.setdefault(key, {})[seed] = k
    found = [Recipe(_name(compared, tuple(group.values())), tuple(group.values())) for group in groups.values()]
    names = [recipe.name for recipe in found]
    return [replace(r, name=f"{r.name} [{n + 1}]") if names.count(r.name) > 1 else r for n, r in enumerate(found)]


def _name(compared: Comparison, runs: Sequence[int]) -> str:
    """What all of them are called: the name that was given, or the beginning that their names have in common."""
    if len(runs) == 1:
        return compared.names[runs[0]]
    given = {str(compared.runs[k].config.get("name", "")) for k in runs}
    if len(given) == 1 and "" not in given:
        return given.pop()
    names = [compared.names[k] for k in runs]
    common = names[0][: next((i for i, c in enumerate(zip(*names, strict=False)) if len({*c}) > 1), len(min(names)))]
    return common.rstrip("-_ .") or names[0]
