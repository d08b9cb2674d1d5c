"""Trials are stopped at an evaluation, wait for each other and go on: of a population one with the other's training."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from distseg.config import RunConfig, ScalingConfig
from distseg.search import records
from tests import programs
from tests.chaos.conftest import write_config
from tests.recorded import Recorded

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(1800)]

NUM_STEPS, EVALUATED_EVERY = 8, 4
SPACE = f'''"""One that learns, and one that hardly does; one fits the cluster at a time."""
from ray import tune
from distseg.search import Budget


SPACE = {{"optim.lr": tune.loguniform(1e-8, 0.1)}}
FIRST = ({{"optim.lr": 0.02}}, {{"optim.lr": 1e-6}})
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=2, max_steps={NUM_STEPS}, evaluate_every={EVALUATED_EVERY})
'''


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[dict[str, str]]:
    with programs.ray_cluster(num_cpus=1) as environment:
        yield environment


def test_a_population(config: RunConfig, ray_cluster: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "my_space.py").write_text(SPACE)
    config = replace(config, scaling=ScalingConfig(num_workers=1))
    arguments = ("my_space", "--config", write_config(config, tmp_path), "--scheduler", "pbt")
    ended = programs.run(tmp_path, ray_cluster, "distseg.tune", *arguments)
    assert ended.code == 0, ended.err

    (folder,) = Path(config.checkpoint.uri).iterdir()
    trials = records.read_trials(str(folder))
    assert [(trial.status, trial.steps) for trial in trials] == [("finished", NUM_STEPS)] * 2
    (taker,) = [trial for trial in trials if (folder / "trials" / trial.trial_id / "took_over").exists()]
    (taken,) = (folder / "trials" / taker.trial_id / "took_over").iterdir()
    (other,) = [trial for trial in trials if trial is not taker]
    assert json.loads(taken.read_text()) == {"trial_id": other.trial_id, "step": EVALUATED_EVERY}

    recorded = recorded_by_number(config)
    losses = {number: run.values("train/loss") for number, run in recorded.items()}
    assert losses[taker.number][:EVALUATED_EVERY] == losses[other.number][:EVALUATED_EVERY]
    assert losses[taker.number] != losses[other.number]
    assert float(recorded[taker.number].run.data.params["optim.lr"]) == taker.params["optim.lr"]
    assert taker.config["optim"]["lr"] == taker.params["optim.lr"] != other.params["optim.lr"]


def recorded_by_number(config: RunConfig) -> dict[int, Recorded]:
    """What MLflow has of each trial: one finished run with each step once."""
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'trial'")
    assert len(runs) == 2, "a run that another took the place of is still there"
    for run in runs:
        recorded = Recorded(config.tracking.uri, run)
        assert run.info.status == "FINISHED"
        assert recorded.steps("train/loss") == list(range(1, NUM_STEPS + 1))
        assert recorded.steps("val/mIoU") == [EVALUATED_EVERY, NUM_STEPS]
    return {int(str(run.info.run_name)[1:3]): Recorded(config.tracking.uri, run) for run in runs}
