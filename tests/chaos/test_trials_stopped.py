"""ASHA stops a trial in the middle of its training: its workers end, and its place is the next trial's."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from distseg.config import RunConfig, ScalingConfig
from distseg.search import records
from tests import programs
from tests.chaos.conftest import write_config

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]

NUM_STEPS, EVALUATED_EVERY = 24, 4
SPACE = f'''"""One that learns, and two that hardly do; one fits the cluster at a time."""
from ray import tune
from distseg.search import Budget

SPACE = {{"optim.lr": tune.loguniform(1e-8, 0.1)}}
FIRST = ({{"optim.lr": 0.02}}, {{"optim.lr": 1e-6}}, {{"optim.lr": 1e-7}})
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=3, max_steps={NUM_STEPS}, evaluate_every={EVALUATED_EVERY})
'''


def test_a_stopped_trial_ends_and_leaves_its_place_to_the_next(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "my_space.py").write_text(SPACE)
    config = replace(config, scaling=ScalingConfig(num_workers=1))
    arguments = ("my_space", "--config", write_config(config, tmp_path), "--scheduler", "asha")
    with programs.ray_cluster(num_cpus=1, dashboard=True) as environment:
        ended = programs.run(tmp_path, environment, "distseg.tune", *arguments)
    assert ended.code == 0, ended.err

    (folder,) = Path(config.checkpoint.uri).iterdir()
    first, *others = records.read_trials(str(folder))
    assert (first.status, first.steps) == ("finished", NUM_STEPS)
    for trial in others:
        assert trial.status == "stopped"
        assert trial.steps < NUM_STEPS  # a few more than where it was stopped may have been evaluated by then
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'trial'")
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
