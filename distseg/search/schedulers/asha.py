"""Asynchronous successive halving (Li et al. 2020): a trial that is bad at a rung is stopped, without waiting.

Rungs are at evaluate_every times 1, reduction, reduction², … steps; of each rung the best 1 / reduction go on.
"""

from collections.abc import Mapping

from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.sample import Domain

from distseg.search.schedulers import Scheduler
from distseg.search.search_config import Budget


class Asha(Scheduler):
    def build(self, budget: Budget, space: Mapping[str, Domain], *, num_trials: int, seed: int) -> ASHAScheduler | None:
        if budget.evaluate_every >= budget.max_steps:
            return None  # there is no evaluation before the end
        return ASHAScheduler(
            time_attr="step",
            max_t=budget.max_steps - 1,  # no rung at the last step, where a stop would only cut off the report
            grace_period=budget.evaluate_every,
            reduction_factor=budget.reduction,
            stop_last_trials=False,  # a trial that comes to the last step ends by itself, in order
        )


SCHEDULER = Asha
