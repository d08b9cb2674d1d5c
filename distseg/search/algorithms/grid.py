"""Every point of a grid, as in a paper's table."""

import itertools
from collections.abc import Mapping, Sequence

from ray import tune
from ray.tune.search.sample import Categorical, Domain

from distseg.errors import ConfigError
from distseg.search.algorithms import Grid, Point
from distseg.search.algorithms.random import Random


class EveryPoint(Random):
    tries_every_point = True

    def points(
        self, space: Mapping[str, Domain], first: Sequence[Point], grid: Grid
    ) -> tuple[Mapping[str, Domain], Sequence[Point]]:
        points = points_of(grid)
        return smallest_space(points), points


def points_of(grid: Grid) -> list[Point]:
    """Every combination of the values of a space; of a list of points, those.

    Raises ConfigError for a range, which has no end of values, and for points that do not have the same fields.
    """
    if not isinstance(grid, Mapping):
        if not grid or any(point.keys() != grid[0].keys() for point in grid):
            raise ConfigError("--algorithm grid: GRID must be a space of choices, or points that have the same fields")
        return [dict(point) for point in grid]
    for name, domain in grid.items():
        if not isinstance(domain, Categorical):
            raise ConfigError(f"--algorithm grid: {name} is a range; choose random or optuna, or a space of choices")
    axes = [[(name, value) for value in domain.categories] for name, domain in grid.items()]
    return [dict(point) for point in itertools.product(*axes)]


def smallest_space(points: Sequence[Point]) -> dict[str, Domain]:
    """The smallest space that holds these points."""
    return {name: tune.choice(list(dict.fromkeys(point[name] for point in points))) for name in points[0]}


ALGORITHM = EveryPoint
