"""Search algorithms: what chooses the values of the next trial. One module each, found by its file name.

A module here holds ALGORITHM, a subclass of `Algorithm`. A user's own is such a subclass in his own module:

    python -m distseg.tune optim --algorithm my_algorithms:Bayes
"""

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from distseg import plugins
from distseg.errors import ConfigError

if TYPE_CHECKING:
    from ray.tune.search import SearchAlgorithm, Searcher
    from ray.tune.search.sample import Domain

FLAG = "--algorithm"
SCORE = "objective"  # what Ray Tune knows a trial's score by; searches made before have it in their state

Point = Mapping[str, Any]
"""dotted field -> value"""
Grid = Mapping[str, Any] | Sequence[Point]
"""What a space gives as GRID: choices for each field, or points."""


class Algorithm(abc.ABC):
    """How Ray Tune is to choose the values of trials."""

    learns: ClassVar[bool] = False
    """It is told the space by `build`, and chooses by the scores so far; so the trials must not all begin at once."""
    takes_two_objectives: ClassVar[bool] = False
    tries_every_point: ClassVar[bool] = False
    """The points are a table: there are as many trials as points, and each is worth training in full."""

    def points(
        self, space: Mapping[str, "Domain"], first: Sequence[Point], grid: Grid
    ) -> tuple[Mapping[str, "Domain"], Sequence[Point]]:
        """(the space to search, the points of it to try before all others) of what a space's module gives."""
        return space, first

    @abc.abstractmethod
    def build(
        self, space: Mapping[str, "Domain"], first: Sequence[Point], *, second: str | None, at_once: int, seed: int
    ) -> "Searcher | SearchAlgorithm":
        """Ray Tune's algorithm. `at_once`: trials that the cluster holds at a time; 0 for no limit."""


def names() -> tuple[str, ...]:
    return plugins.names(__name__)


def find(name: str) -> Algorithm:
    """The algorithm of a name, or a user's `module:name`. Raises ConfigError if there is none."""
    found = plugins.find(FLAG, __name__, "ALGORITHM", name)
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"{FLAG} {name}: not a subclass of distseg.search.Algorithm")
    return found()
