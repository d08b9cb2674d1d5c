"""What is asked of a search: what it may spend, and everything else that decides how it goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distseg.errors import ConfigError
from distseg.search import algorithms, costs, objectives, schedulers

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may spend. `max_steps` and `evaluate_every` replace the recipe's."""

    num_trials: int
    max_steps: int  # optimiser steps of a trial that is not stopped
    evaluate_every: int  # steps; also the first step at which a trial can be stopped
    reduction: int = 2  # of this many trials that reach a rung, one goes on (ASHA, HyperBand)

    def __post_init__(self) -> None:
        for name, least in (("num_trials", 1), ("max_steps", 1), ("evaluate_every", 1), ("reduction", 2)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"budget {name} = {value!r}: must be a whole number of at least {least}")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search. Raises ConfigError for a combination that makes no sense.

    `objective`, `second`, `algorithm` and `scheduler` are names of this package, or a user's `module:name`.
    """

    uri: str  # its directory
    space: Mapping[str, "Domain"]  # dotted field -> where its values come from
    first: Sequence[Mapping[str, Any]]  # points to try before all others; of a grid all points
    objective: str  # to be maximised, see objectives.py
    budget: Budget
    second: str | None = None  # a cost, to be minimised, see costs/
    algorithm: str = "optuna"  # what chooses the values, see algorithms/
    scheduler: str = "asha"  # what stops or changes bad trials early, see schedulers/
    seeds_per_trial: int = 1
    hours: float | None = None
    keep: int = 3  # trials whose checkpoints stay
    parent_run_id: str = ""  # MLflow's

    def __post_init__(self) -> None:
        objectives.find(self.objective, "--objective")
        if self.second is not None:
            costs.find(self.second)
        scheduler, algorithm = schedulers.find(self.scheduler), algorithms.find(self.algorithm)
        if scheduler.pauses_trials and algorithm.learns:
            raise ConfigError(
                f"--algorithm {self.algorithm}: --scheduler {self.scheduler} begins all trials before it could learn "
                "from any; choose random or grid"
            )
        several = self.second is not None or self.seeds_per_trial > 1
        if several and scheduler.compares_unfinished:
            what = "a second objective" if self.second else f"seeds_per_trial = {self.seeds_per_trial}"
            raise ConfigError(f"--scheduler {self.scheduler}: cannot rank half-done trials of {what}; give none")
        if self.second is not None and not algorithm.takes_two_objectives:
            raise ConfigError(f"--algorithm {self.algorithm}: a second objective needs optuna")
        for name, least in (("seeds_per_trial", 1), ("keep", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if self.hours is not None and self.hours <= 0:
            raise ConfigError(f"--hours {self.hours}: must be positive")


def default_algorithm(scheduler: str | None) -> str:
    """optuna, or random if the scheduler pauses trials: then an algorithm has nothing to learn from in time."""
    return "random" if scheduler is not None and schedulers.find(scheduler).pauses_trials else "optuna"


def default_scheduler(algorithm: str, second: str | None, seeds_per_trial: int) -> str:
    """asha, or none if trials can be compared only when they are trained in full."""
    needs_whole = second is not None or seeds_per_trial > 1 or algorithms.find(algorithm).tries_every_point
    return "none" if needs_whole else "asha"
