"""Population based training (Jaderberg et al. 2017, section 3).

The trials wait for each other at every evaluation but the last. Then each of the worst quarter takes over a trial of
the best quarter: its weights, optimiser and values. Values that may change in the middle of a training are perturbed,
but never so that the network would have other layers: the weights that were taken over would fit it no more.
Ray's own PopulationBasedTraining copies checkpoints that Ray Tune keeps; here each training keeps its own.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from distseg import orchestration
from distseg.config import RunConfig
from distseg.errors import CheckpointError, ConfigError
from distseg.runs import Run, find_run_in
from distseg.search import records
from distseg.search.params import TAKES_OVER, parameters
from distseg.search.schedulers import Scheduler
from distseg.search.search_config import Budget
from distseg.training import checkpoint

QUANTILE = 0.25
RESAMPLE_PROBABILITY = 0.25
FACTORS = (0.8, 1.2)

MAY_CHANGE = (
    "optim.lr",
    "optim.head_lr_scale",
    "optim.poly_power",
    "optim.momentum",
    "optim.weight_decay",
    "style.probability",
    "style.kl_weight",
)
"""Fields that may change in the middle of a training, and every field of the loss."""


def may_change(name: str) -> bool:
    """Whether a dotted field may take another value in the middle of a training."""
    return name in MAY_CHANGE or name.startswith("loss.")


def layers_by(name: str, value: Any) -> object:
    """What of a field's value decides which layers the network has; the same for all values if nothing does.

    A network is made of the group `model`, the number of classes, and whether there is a loss of an auxiliary head.
    Nothing of `model` and `data` may change in the middle of a training.
    """
    return value > 0 if name == "loss.aux_weight" else None


class PopulationBased(Scheduler):
    pauses_trials = True
    changes_values = True

    def build(self, budget: Budget, space: Mapping[str, Domain], *, num_trials: int, seed: int) -> "Population":
        return Population(space, num_trials, budget.max_steps, seed=seed)


SCHEDULER = PopulationBased


class Population(FIFOScheduler):
    """The scheduler for Ray Tune, which pickles it: searches that were made before keep the names of its attributes.

    Raises ConfigError if nothing in the space may change in the middle of a training.
    """

    def __init__(self, space: Mapping[str, Domain], num_trials: int, max_steps: int, *, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._space = {name: domain for name, domain in space.items() if may_change(name)}
        if not self._space:
            raise ConfigError(
                f"--scheduler pbt: nothing of {', '.join(space)} may change in the middle of a training "
                f"({', '.join(MAY_CHANGE)} and loss.… may); choose asha"
            )
        self._num_trials, self._max_steps = num_trials, max_steps
        self._perturbed_at = 0  # step; paused trials that are not beyond it may go on
        self._random = random.Random(seed)  # noqa: S311 — no secret

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """A trial waits at each evaluation but the last."""
        is_last = int(result.get("step", self._max_steps)) >= self._max_steps
        return str(self.CONTINUE if is_last else self.PAUSE)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The paused trial that is to go on. Ray Tune itself starts those that have not begun."""
        trials = tune_controller.get_trials()
        going = [trial for trial in trials if not trial.is_finished()]
        paused = [trial for trial in going if trial.status == Trial.PAUSED]
        may_go = [trial for trial in paused if _step(trial) <= self._perturbed_at]
        if not may_go and paused == going and len(trials) == self._num_trials:
            self._perturb(paused)
            self._perturbed_at = max(map(_step, paused), default=0)
            may_go = paused
        return may_go[0] if may_go else None

    def _perturb(self, trials: list[Trial]) -> None:
        by_objective = sorted(trials, key=lambda trial: float(trial.last_result["objective"]))
        num = min(math.ceil(QUANTILE * len(trials)), len(trials) // 2)
        best = by_objective[len(trials) - num :]
        for trial in by_objective[:num]:
            other = self._random.choice(best)
            values = perturbed(parameters(other.config), self._space, self._random)
            trial.set_config(values | {TAKES_OVER: {"trial_id": other.trial_id, "step": _step(other)}})


def _step(trial: Trial) -> int:
    return int(trial.last_result.get("step", 0))


def perturbed(values: Mapping[str, Any], space: Mapping[str, Domain], rng: random.Random) -> dict[str, Any]:
    """The values with each parameter of the space changed, but never to a value outside the space.

    A number is multiplied by 0.8 or 1.2, a choice moves to its neighbour; now and then either is drawn anew. A value
    with which the network would have other layers is not taken: that parameter stays as it is.
    """
    changed = {name: _perturbed(values[name], name, domain, rng) for name, domain in space.items()}
    kept = {name: values[name] for name in space if layers_by(name, changed[name]) != layers_by(name, values[name])}
    return {**values, **changed, **kept}


def _perturbed(value: Any, name: str, domain: Domain, rng: random.Random) -> Any:
    if isinstance(domain, Categorical):
        choices = [choice for choice in domain.categories if layers_by(name, choice) == layers_by(name, value)]
        at = choices.index(value) if value in choices else None
        if not choices:
            return value
        if at is None or rng.random() < RESAMPLE_PROBABILITY:
            return rng.choice(choices)
        return choices[min(max(at + rng.choice((-1, 1)), 0), len(choices) - 1)]
    if rng.random() < RESAMPLE_PROBABILITY:
        return domain.sample(random_state=rng.randrange(2**32))
    if isinstance(domain, Float):
        return min(max(value * rng.choice(FACTORS), domain.lower), domain.upper)
    if isinstance(domain, Integer):
        return min(max(round(value * rng.choice(FACTORS)), domain.lower), domain.upper - 1)
    return value


def take_over(config: RunConfig, search_uri: str, trial_id: str, other_id: str, step: int) -> None:
    """Lets a trial's training go on from another's checkpoint of about that step, with `config`.

    Called again for the same step, it changes nothing. In MLflow a new run replaces the trial's, with all that the
    other had logged until then. Raises CheckpointError if the other has no checkpoint that can be read.
    """
    folder, others = records.trial_folder(search_uri, trial_id), records.trial_folder(search_uri, other_id)
    if records.has_taken_over(folder, other_id, step):
        return
    run_uri, other_uri = find_run_in(folder), find_run_in(others)
    if run_uri is None or other_uri is None:
        raise CheckpointError(f"{folder}: cannot take over {others}: one of them has no training")
    found = checkpoint.found_in(other_uri)  # newest first; the other may have gone on meanwhile
    wanted = [f for f in found if f.step <= step] + [f for f in reversed(found) if f.step > step]
    saved = next(checkpoint.readable(wanted), None)
    if saved is None:
        raise CheckpointError(f"{folder}: cannot take over {others}: none of its checkpoints can be read")
    orchestration.forget_checkpoints(run_uri)
    Run.read(run_uri).adopt_checkpoint(other_uri, replace(saved[1], config=config))
    records.write_take_over(folder, other_id, step)
