"""Schedulers: which trials go on after an evaluation. One module each, found by its file name.

A module here holds SCHEDULER, a subclass of `Scheduler`. A user's own is such a subclass in his own module:

    from ray.tune.schedulers import MedianStoppingRule
    from distseg.search import Scheduler

    class Median(Scheduler):
        def build(self, budget, space, *, num_trials, seed):
            return MedianStoppingRule(time_attr="step", grace_period=budget.evaluate_every)

    python -m distseg.tune optim --scheduler my_schedulers:Median

Ray Tune gives a scheduler a result for each evaluation: {"step": …, "objective": the score, to be maximised}.
"""

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from distseg import plugins
from distseg.errors import ConfigError

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search.sample import Domain

    from distseg.search.search_config import Budget

FLAG = "--scheduler"


class Scheduler(abc.ABC):
    """How Ray Tune is to schedule the trials of a search."""

    pauses_trials: ClassVar[bool] = False
    """Trials wait for each other. Then all of them begin, however few the cluster holds at a time."""
    compares_unfinished: ClassVar[bool] = True
    """Trials are compared before they end: not possible with a second objective or several seeds per trial."""
    changes_values: ClassVar[bool] = False
    """A trial's values change in the middle of its training, so they cannot be part of its run's name."""

    @abc.abstractmethod
    def build(
        self, budget: "Budget", space: Mapping[str, "Domain"], *, num_trials: int, seed: int
    ) -> "TrialScheduler | None":
        """Ray Tune's scheduler; None lets every trial run to its end. Raises ConfigError for a space it cannot use."""


def names() -> tuple[str, ...]:
    return plugins.names(__name__)


def find(name: str) -> Scheduler:
    """The scheduler of a name, or a user's `module:name`. Raises ConfigError if there is none."""
    found = plugins.find(FLAG, __name__, "SCHEDULER", name)
    if not (isinstance(found, type) and issubclass(found, Scheduler)):
        raise ConfigError(f"{FLAG} {name}: not a subclass of distseg.search.Scheduler")
    return found()
