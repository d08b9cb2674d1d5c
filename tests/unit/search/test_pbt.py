"""A population: who waits, who takes over whom, and what the values become."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import torch
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search.sample import Domain

from distseg import tracking
from distseg.config import RunConfig, dotted_fields, with_overrides
from distseg.data.datasets import town
from distseg.errors import CheckpointError, ConfigError
from distseg.runs.run import Run
from distseg.search import records
from distseg.search.params import TAKES_OVER, parameters
from distseg.search.schedulers.pbt import FACTORS, Population, layers_by, may_change, perturbed, take_over
from distseg.training import checkpoint
from distseg.training.segmentation import new_model
from tests import scripted
from tests.recorded import Recorded

SPACE = {"loss.aux_weight": tune.uniform(0.0, 1.0), "model.se_ratio": tune.choice((None, 8, 16))}


class FakeTrial:
    """As much of a Trial as a scheduler sees."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.trial_id, self.config, self.status = name, config, Trial.PENDING
        self.last_result: dict[str, Any] = {}

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


def trials_of(weights: Sequence[float]) -> list[FakeTrial]:
    return [FakeTrial(f"t{i}", {"loss.aux_weight": w, "model.se_ratio": 8}) for i, w in enumerate(weights)]


def chosen(population: Population, trials: list[FakeTrial]) -> Any:
    return population.choose_trial_to_run(SimpleNamespace(get_trials=lambda: trials))


def evaluated(population: Population, trial: FakeTrial, step: int, objective: float) -> None:
    trial.last_result = {"step": step, "objective": objective}
    said = population.on_trial_result(None, trial, trial.last_result)  # type: ignore[arg-type]
    assert said == ("CONTINUE" if step == 40 else "PAUSE")
    trial.status = Trial.PAUSED if said == "PAUSE" else Trial.RUNNING


def test_a_quarter_takes_over_another_once_all_have_been_evaluated() -> None:
    population, trials = Population(SPACE, 4, 40, seed=0), trials_of((0.1, 0.2, 0.3, 0.4))
    assert chosen(population, trials[:2]) is None  # Ray Tune has not even made the others
    for trial, objective in zip(trials[:3], (0.5, 0.2, 0.3), strict=True):
        evaluated(population, trial, 10, objective)
        assert chosen(population, trials) is None
    evaluated(population, trials[3], 10, 0.4)
    assert chosen(population, trials) is trials[0]

    assert [TAKES_OVER in trial.config for trial in trials] == [False, True, False, False]
    worst = trials[1].config
    assert worst[TAKES_OVER] == {"trial_id": "t0", "step": 10}
    assert parameters(worst).keys() == SPACE.keys()
    assert worst["loss.aux_weight"] != 0.1 and worst["model.se_ratio"] == 8

    trials[0].status = Trial.RUNNING
    assert chosen(population, trials) is trials[1]
    evaluated(population, trials[0], 20, 0.6)
    assert chosen(population, trials) is trials[1], "it waits for the others again"


def test_who_failed_is_not_waited_for_and_the_last_evaluation_is_the_end() -> None:
    population, trials = Population(SPACE, 3, 40, seed=0), trials_of((0.1, 0.2, 0.3))
    trials[2].status = Trial.ERROR
    evaluated(population, trials[0], 30, 0.5)
    evaluated(population, trials[1], 30, 0.4)
    assert chosen(population, trials) is trials[0]
    assert trials[1].config[TAKES_OVER] == {"trial_id": "t0", "step": 30}
    evaluated(population, trials[0], 40, 0.5)
    evaluated(population, trials[1], 40, 0.6)
    assert chosen(population, trials) is None
    assert trials[0].config == {"loss.aux_weight": 0.1, "model.se_ratio": 8}


def test_values_are_perturbed_within_their_space() -> None:
    space = {
        "optim.lr": tune.uniform(0.0, 1.0),
        "loss.name": tune.choice(("a", "b", "c")),
        "loss.n": tune.randint(1, 9),
    }
    values = {"optim.lr": 0.9, "loss.name": "a", "loss.n": 5, "model.se_ratio": 4}
    seen = [perturbed(values, space, random.Random(seed)) for seed in range(200)]
    assert all(new["model.se_ratio"] == 4 for new in seen)
    assert all(0.0 <= new["optim.lr"] <= 1.0 and new["loss.n"] in range(1, 9) for new in seen)
    assert {new["loss.name"] for new in seen} == {"a", "b", "c"}
    down, up = sum(new["optim.lr"] == 0.9 * FACTORS[0] for new in seen), sum(new["optim.lr"] == 1.0 for new in seen)
    assert 50 < down < 100 and 50 < up < 100  # the rest was drawn anew
    assert {4, 6} < {new["loss.n"] for new in seen}


def test_a_space_that_cannot_change_meanwhile_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--scheduler pbt: nothing of model\.bins, data\.crop_px may change"):
        Population({"model.bins": tune.choice(((1,),)), "data.crop_px": tune.choice((32,))}, 4, 40, seed=0)


def test_a_trial_goes_on_as_another_with_values_of_its_own(tiny_town: str, store: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "search")

    def config_of(trial_id: str) -> RunConfig:
        return scripted.config_of(records.trial_folder(uri, trial_id), store, tiny_town)

    stopped = {"before_step": scripted.stop_at(25), "is_drawn": False}
    other = scripted.train(replace(config_of("other"), seed=1), **stopped)  # type: ignore[arg-type]
    mine = scripted.train(config_of("mine"), **stopped)  # type: ignore[arg-type]
    first_id = Run.read(mine.run_uri).run_id
    changed = replace(config_of("mine"), optim=replace(config_of("mine").optim, lr=0.5))

    saved = checkpoint.newest(other.run_uri)
    assert saved is not None
    Run.read(mine.run_uri).adopt_checkpoint(other.run_uri, saved[1])  # and killed before it is recorded
    for _ in range(2):
        take_over(changed, uri, "mine", "other", 10)
    (found,) = checkpoint.found_in(mine.run_uri)
    assert checkpoint.read(found.uri).config == changed and found.step == 10
    assert [record["step"] for record in tracking.read_journal(mine.run_uri)][-1] == 10
    assert Run.read(mine.run_uri).attempt == 3, "taken over twice, not three times"

    scripted.train(changed, resume=mine.run_uri, is_drawn=False)
    runs = mlflow.MlflowClient(tracking_uri=store).search_runs(["1"])
    assert len(runs) == 2 and first_id not in {run.info.run_id for run in runs}
    (recorded,) = [Recorded(store, run) for run in runs if run.info.run_id == Run.read(mine.run_uri).run_id]
    assert recorded.steps("train/loss") == list(range(1, 31))
    assert recorded.values("train/resumed_at") == [10]


def test_who_has_no_checkpoint_cannot_be_taken_over(tiny_town: str, tmp_path: Path) -> None:
    uri = str(tmp_path)
    for trial_id in ("mine", "other"):
        config = scripted.config_of(records.trial_folder(uri, trial_id), "off", tiny_town)
        scripted.train(config, before_step=scripted.stop_at(5), is_drawn=False)
    with pytest.raises(CheckpointError, match="none of its checkpoints can be read"):
        take_over(config, uri, "mine", "other", 10)


# ---- what a population may never do: change the layers of a network


def layers(config: RunConfig) -> dict[str, Any]:
    with torch.device("meta"):
        state = new_model(config, town.LABELS, None).state_dict()
    return {name: value.shape for name, value in state.items()}


WIDE = {
    "loss.aux_weight": tune.choice((0.0, 0.2, 0.4)),
    "loss.dice_weight": tune.choice((0.0, 0.5)),
    "loss.lovasz_weight": tune.uniform(0.0, 1.0),
    "loss.class_weights": tune.choice(("none", "enet")),
    "loss.ohem_threshold": tune.choice((None, 0.7)),
    "loss.terms": tune.choice(((), ("dice=0.5",))),
    "optim.lr": tune.loguniform(1e-4, 1e-2),
    "optim.momentum": tune.choice((0.0, 0.9)),
    "optim.weight_decay": tune.choice((0.0, 1e-4)),
    "style.probability": tune.choice((0.0, 1.0)),
}


@pytest.mark.parametrize(
    "aux_weight",
    [
        tune.choice((0.0, 0.2, 0.4)),
        tune.choice((0.4, 0.0)),
        tune.uniform(0.0, 1.0),
        tune.quniform(0.0, 1.0, 0.5),
        tune.randint(0, 3),
    ],
)
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_an_auxiliary_head_neither_comes_nor_goes(aux_weight: Domain, weight: float) -> None:
    rng = random.Random(0)
    values = {"loss.aux_weight": weight}
    for _ in range(500):  # one population after the other takes it over
        values = perturbed(values, {"loss.aux_weight": aux_weight}, rng)
        assert (values["loss.aux_weight"] > 0) == (weight > 0)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_no_perturbation_changes_the_layers_of_a_network(weight: float) -> None:
    """Every field that may change is drawn many times, and the networks are compared."""
    base = with_overrides(RunConfig(), {"loss.aux_weight": weight, "model.backbone": "resnet18"})
    values = {name: value for name, value in dotted_fields(base).items() if name in WIDE}
    expected, seen, rng = layers(base), dict[str, set[str]](), random.Random(1)
    for _ in range(60):
        values = perturbed(values, WIDE, rng)
        assert layers(with_overrides(base, values)) == expected
        for name, value in values.items():
            seen.setdefault(name, set()).add(str(value))
    assert all(len(found) > 1 for name, found in seen.items() if name != "loss.aux_weight" or weight)


def test_only_an_auxiliary_head_depends_on_what_may_change() -> None:
    """A field that may change and decides a layer has to be told to `layers_by`: each is set to what leaves it out."""
    base = with_overrides(RunConfig(), {"model.backbone": "resnet18"})
    absent = {"optim.lr": 1.0, "optim.head_lr_scale": 1.0, "loss.class_weights": "none", "loss.ohem_threshold": None}
    absent |= {"loss.terms": ()}
    fields = [name for name in dotted_fields(base) if may_change(name)]
    assert len(fields) > 10
    for name in fields:
        other = with_overrides(base, {name: absent.get(name, 0.0)})
        changes = layers(other) != layers(base)
        assert changes == (layers_by(name, dotted_fields(other)[name]) != layers_by(name, dotted_fields(base)[name]))
        assert changes == (name == "loss.aux_weight")


def test_a_population_takes_over_the_layers_of_the_one_it_takes_over() -> None:
    """Beside values that never change: the taken weights have the other's layers, so it must keep all of them."""
    space = {"loss.aux_weight": tune.choice((0.0, 0.4)), "model.se_ratio": tune.choice((None, 8))}
    for seed in range(50):
        population, trials = Population(space, 4, 40, seed=seed), trials_of((0.0, 0.4, 0.0, 0.4))
        trials[2].config["model.se_ratio"] = None
        for i, trial in enumerate(trials):
            evaluated(population, trial, 10, (0.1 + i + seed) % 4)
        chosen(population, trials)
        (taker,) = [trial for trial in trials if TAKES_OVER in trial.config]
        other = next(trial for trial in trials if trial.trial_id == taker.config[TAKES_OVER]["trial_id"])
        assert (taker.config["loss.aux_weight"] > 0) == (other.config["loss.aux_weight"] > 0)
        assert taker.config["model.se_ratio"] == other.config["model.se_ratio"]
