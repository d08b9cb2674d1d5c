"""Every trial is trained to its end."""

from collections.abc import Mapping

from ray.tune.search.sample import Domain

from distseg.search.schedulers import Scheduler
from distseg.search.search_config import Budget


class RunAll(Scheduler):
    compares_unfinished = False

    def build(self, budget: Budget, space: Mapping[str, Domain], *, num_trials: int, seed: int) -> None:
        return None


SCHEDULER = RunAll
