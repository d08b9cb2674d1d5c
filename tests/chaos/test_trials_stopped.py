"""ASHA stops a trial in the middle of its training: its workers end, and its place is the next trial's."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from distseg.config import RunConfig, ScalingConfig
from distseg.search import records
from tests import programs
from tests.chaos.conftest import write_config
from tests.conftest import REPOSITORY

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


LAST_BREATH = """
import threading, time

import ray
from ray.util.placement_group import placement_group, placement_group_table

from distseg import orchestration

def states(places):
    return [placement_group_table()[place]["state"] for place in places]

@ray.remote(num_cpus=0)
class Trial:
    def ask(self):
        asking = threading.Thread(target=self._ask)  # as a controller is one
        asking.start()
        asking.join()
        return self._places

    def _ask(self):
        self._places = [place().id.hex() for _ in range(2)]

def place():
    group = placement_group([{"CPU": 0.25}])
    ray.get(group.ready())
    return group

ray.init(logging_level=40, log_to_driver=False)
dead, alive, of_none = Trial.remote(), Trial.remote(), place()
places, others = ray.get([dead.ask.remote(), alive.ask.remote()])
with orchestration.places_come_free():
    time.sleep(2)
    print("lives", *states(places))
    ray.kill(dead)
    while states(places) != ["REMOVED", "REMOVED"]:
        time.sleep(0.1)
    time.sleep(1)
print("others", *states([*others, of_none.id.hex()]))
"""


def test_all_places_that_a_dead_trial_asked_for_come_free(ray_cluster: dict[str, str], tmp_path: Path) -> None:
    """Also one that it asked for when it was dying, which Ray Train's own helper does not hear of."""
    (tmp_path / "last_breath.py").write_text(LAST_BREATH)
    ended = programs.run(tmp_path, ray_cluster | {"PYTHONPATH": str(REPOSITORY)}, "last_breath")
    assert (ended.code, ended.out) == (0, "lives CREATED CREATED\nothers CREATED CREATED CREATED\n"), ended.err


def test_a_stopped_trial_ends_and_leaves_its_place_to_the_next(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "my_space.py").write_text(SPACE)
    config = replace(config, scaling=ScalingConfig(num_workers=1))
    arguments = ("my_space", "--config", write_config(config, tmp_path), "--scheduler", "asha")
    with programs.ray_cluster(num_cpus=1) as environment:
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
