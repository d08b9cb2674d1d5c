"""HyperBand (Li et al. 2018): trials wait at a rung until its others have come, then the best go on."""

from collections.abc import Mapping

from ray.tune.schedulers import HyperBandScheduler
from ray.tune.search.sample import Domain

from distseg.search.schedulers import Scheduler
from distseg.search.search_config import Budget


class HyperBand(Scheduler):
    pauses_trials = True

    def build(self, budget: Budget, space: Mapping[str, Domain], *, num_trials: int, seed: int) -> HyperBandScheduler:
        return HyperBandScheduler(
            time_attr="step", max_t=budget.max_steps, reduction_factor=budget.reduction, stop_last_trials=False
        )


SCHEDULER = HyperBand
