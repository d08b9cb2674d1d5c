"""Trials are stopped at an evaluation, wait for each other and go on: of a population some with another's training."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from distseg import search
from distseg.config import RunConfig, ScalingConfig
from distseg.search import Trial
from tests import programs
from tests.chaos.conftest import write_config
from tests.recorded import Recorded

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]

NUM_STEPS, EVALUATED_EVERY, NUM_TRIALS = 8, 4, 4
SPACE = f'''"""One that learns, and three that hardly do; two fit the cluster at a time."""
from ray import tune
from distseg.search import Budget

RATES = (0.02, 1e-6, 1e-7, 1e-8)
SPACE = {{"optim.lr": tune.choice(RATES)}}
FIRST = tuple({{"optim.lr": rate}} for rate in RATES)
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials={NUM_TRIALS}, max_steps={NUM_STEPS}, evaluate_every={EVALUATED_EVERY})
'''


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[dict[str, str]]:
    with programs.ray_cluster(dashboard=True) as environment:
        yield environment


def searched(
    scheduler: str, config: RunConfig, ray_cluster: Mapping[str, str], tmp_path: Path
) -> tuple[Path, list[Trial], dict[int, Recorded]]:
    """The search's folder, its trials, and what MLflow has of each."""
    (tmp_path / "my_space.py").write_text(SPACE)
    config = replace(config, scaling=ScalingConfig(num_workers=1))
    arguments = ("my_space", "--config", write_config(config, tmp_path), "--scheduler", scheduler)
    ended = programs.run(tmp_path, ray_cluster, "distseg.tune", *arguments)
    assert ended.code == 0, ended.err
    (folder,) = Path(config.checkpoint.uri).iterdir()
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'trial'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    recorded = {int(str(run.info.run_name)[1:3]): Recorded(config.tracking.uri, run) for run in runs}
    trials = search.read_trials(str(folder))
    assert sorted(recorded) == [trial.number for trial in trials] == list(range(NUM_TRIALS))
    assert len(runs) == NUM_TRIALS, "a run that another took the place of is still there"
    return folder, trials, recorded


def test_a_population(config: RunConfig, ray_cluster: Mapping[str, str], tmp_path: Path) -> None:
    folder, trials, recorded = searched("pbt", config, ray_cluster, tmp_path)
    assert [(trial.status, trial.steps) for trial in trials] == [("finished", NUM_STEPS)] * NUM_TRIALS
    for trial in trials:
        assert recorded[trial.number].steps("train/loss") == list(range(1, NUM_STEPS + 1))
        assert recorded[trial.number].steps("val/mIoU") == [EVALUATED_EVERY, NUM_STEPS]

    (taker,) = [trial for trial in trials if (folder / "trials" / trial.trial_id / "took_over").exists()]
    (taken,) = (folder / "trials" / taker.trial_id / "took_over").iterdir()
    (other,) = [t for t in trials if t.trial_id == search.read_json(str(taken))["trial_id"]]
    losses = {trial.number: recorded[trial.number].values("train/loss") for trial in (taker, other)}
    assert losses[taker.number][:EVALUATED_EVERY] == losses[other.number][:EVALUATED_EVERY]
    assert taker.params == {"optim.lr": float(recorded[taker.number].run.data.params["optim.lr"])}
    assert taker.config["optim"]["lr"] == taker.params["optim.lr"]


def test_hyperband(config: RunConfig, ray_cluster: Mapping[str, str], tmp_path: Path) -> None:
    _, trials, recorded = searched("hyperband", config, ray_cluster, tmp_path)
    assert {trial.status for trial in trials} <= {"finished", "stopped"}
    assert max(trial.steps for trial in trials) == NUM_STEPS
    for trial in trials:
        assert recorded[trial.number].steps("val/mIoU")[-1] == trial.steps
