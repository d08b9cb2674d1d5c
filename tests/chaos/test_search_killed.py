"""A search loses a trial, then its machine: the other trials go on, and `--resume` ends it with what was asked, on
another cluster."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from distseg.config import RunConfig, ScalingConfig, from_dict
from distseg.search import records, results
from distseg.search.records import TrialRecord
from tests import programs
from tests.chaos.conftest import NUM_STEPS, write_config
from tests.recorded import Recorded

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

EVALUATED_EVERY = 6  # steps
SPACE = f'''"""Two that train, and one that diverges."""
from ray import tune
from distseg.search import Budget

SPACE = {{"optim.lr": tune.choice((0.01, 1e30, 0.02))}}
FIRST = ({{"optim.lr": 0.01}}, {{"optim.lr": 1e30}}, {{"optim.lr": 0.02}})
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=3, max_steps={NUM_STEPS}, evaluate_every={EVALUATED_EVERY})
'''


def test_a_search_outlives_a_trial_and_its_driver(
    config: RunConfig, ray_cluster: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "my_space.py").write_text(SPACE)
    config = replace(config, scaling=ScalingConfig(num_workers=1))  # two trials at a time
    arguments = ("my_space", "--config", write_config(config, tmp_path), "--scheduler", "none")
    with (
        programs.own_environment() as environment,
        programs.start(tmp_path, environment, "distseg.tune", *arguments) as driver,
    ):
        driver.wait_for(r"trial 2: step 0 +failed")
        driver.wait_for(r"trial 1: step \d+ .*finished")
        driver.wait_for(rf"trial 3: step {NUM_STEPS // 2} ")
        driver.kill_all()
    (folder,) = Path(config.checkpoint.uri).iterdir()
    before = {trial.number: trial for trial in records.read_trials(str(folder))}
    assert [before[number].status for number in (1, 2, 3)] == ["finished", "failed", "running"]

    ended = programs.run(tmp_path, ray_cluster, "distseg.tune", "--resume", str(folder))
    assert ended.code == 0, ended.err
    after = {trial.number: trial for trial in records.read_trials(str(folder))}
    assert after.keys() == before.keys()
    assert (after[1], after[2]) == (before[1], before[2])  # not done again: an evaluation carries its time
    assert (after[3].trial_id, after[3].status, after[3].steps) == (before[3].trial_id, "finished", NUM_STEPS)
    assert "the loss of step 2 is nan" in after[2].error and f"- trial 2: {after[2].error}" in ended.out

    best = results.ranked(after.values(), "val/mIoU")[0]
    assert from_dict(json.loads((folder / "best.json").read_text())).optim.lr == best.params["optim.lr"]
    assert_recorded(config, after, best)


def assert_recorded(config: RunConfig, trials: dict[int, TrialRecord], best: TrialRecord) -> None:
    """One closed MLflow run for the search, one for each trial, each step in it once."""
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["stage"] == "search"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["search/best_trial"] == best.number
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} >= {"search.md", "best.json"}

    children = [run for run in runs if run.data.tags["stage"] == "trial"]
    assert {number_of(run): run.info.status for run in children} == {1: "FINISHED", 2: "FAILED", 3: "FINISHED"}
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        if number_of(run) == 2:
            continue
        recorded = Recorded(config.tracking.uri, run)
        assert recorded.steps("train/loss") == list(range(1, NUM_STEPS + 1))
        assert recorded.steps("val/mIoU") == list(range(EVALUATED_EVERY, NUM_STEPS + 1, EVALUATED_EVERY))
        assert recorded.values("val/mIoU")[-1] == pytest.approx(trials[number_of(run)].score("val/mIoU"), abs=1e-5)


def number_of(run: Run) -> int:
    return int(str(run.info.run_name)[1:3])
