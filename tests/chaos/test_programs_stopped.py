"""SIGTERM, as machines and schedulers send it, ends programs other than `train` over Ray, and what is left goes on.

`train` over Ray: test_stopped.py. A training without Ray, at more phases: tests/unit/runs/test_stopping.py.
"""

import json
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from distseg import tracking
from distseg.config import RunConfig, ScalingConfig
from distseg.data import RECEIPTS
from distseg.data.shards import verify
from distseg.runs import read_run_json
from distseg.search import records
from distseg.training import checkpoint
from tests import programs
from tests.chaos.conftest import write_config
from tests.chaos.test_stopped import endless, run_folder
from tests.conftest import free_port
from tests.recorded import only_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

TOWN = ("distseg.pack", "town", "--train", "72", "--val", "18", "--size", "64", "96", "--max_samples_per_shard", "2")


def wait_for_step(run: Path, step: int) -> None:
    end_s = time.monotonic() + programs.PATIENCE_S
    while not any(record["step"] >= step for record in tracking.read_journal(str(run))):
        assert time.monotonic() < end_s
        time.sleep(0.05)


def assert_closed_with_its_newest_step(config: RunConfig) -> int:
    """The step."""
    recorded = only_run(config.tracking.uri, config.tracking.experiment)
    assert read_run_json(str(run_folder(config)))["status"] == recorded.run.info.status == "KILLED"
    found = checkpoint.newest(str(run_folder(config)))
    assert found is not None and found[1].step == recorded.steps("train/loss")[-1]
    assert not (run_folder(config) / "lock.json").exists()
    return found[1].step


def test_two_ranks_of_torchrun_save_their_newest_step_and_one_goes_on(config: RunConfig, tmp_path: Path) -> None:
    config = endless(config)
    environment = programs.plain_environment() | {"OMP_NUM_THREADS": "1"}
    torchrun = ("torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", "-m", "distseg.train")
    with programs.start(tmp_path / "run", environment, *torchrun, "--config", write_config(config, tmp_path)) as it:
        it.wait_for_step(3)
        it.process.send_signal(signal.SIGTERM)
        ended = it.wait()
    assert ended.code != 0 and "error:" not in ended.err
    step = assert_closed_with_its_newest_step(config)
    more = ("--resume", str(run_folder(config)), "--optim.max_steps", str(step + 2))
    ended = programs.run(tmp_path / "again", programs.alone(), "distseg.train", *more)
    assert ended.code == 0, ended.err
    assert only_run(config.tracking.uri, config.tracking.experiment).steps("train/loss") == list(range(1, step + 3))


def test_packing_ends_at_once_and_goes_on_with_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "town"
    with programs.start(tmp_path / "first", programs.plain_environment(), *TOWN, "--out", str(out)) as packer:
        while packer.process.poll() is None and len(list((out / RECEIPTS).glob("*.json"))) < 2:
            time.sleep(0.01)
        packer.process.send_signal(signal.SIGTERM)
        ended = packer.wait()
    assert ended.code == 143 and ended.err.endswith("stopped\n") and "Traceback" not in ended.err, ended.err
    assert not (out / "manifest.json").exists()
    receipts = [path.read_text() for path in (out / RECEIPTS).glob("*.json")]  # of parts that are done, see `packing`
    whole = [out / name for text in receipts for name in re.findall(r'"([^"]+\.tar)"', text)]
    packed = {path: path.stat().st_mtime_ns for path in whole}
    ended = programs.run(tmp_path / "second", programs.plain_environment(), *TOWN, "--out", str(out))
    assert ended.code == 0, ended.err
    assert len(packed) >= 2
    assert [path.name for path, before in packed.items() if path.stat().st_mtime_ns != before] == [], "made twice"
    assert verify(str(out)) == []


SPACE = '''"""One trial that takes long."""
from ray import tune
from distseg.search import Budget

SPACE = {"optim.lr": tune.choice((0.01, 0.02))}
FIRST = ({"optim.lr": 0.01},)
OBJECTIVE = "val/mIoU"
BUDGET = Budget(num_trials=1, max_steps=NUM_STEPS, evaluate_every=4)
'''


@pytest.mark.ray
@pytest.mark.nightly
def test_a_search_is_closed_and_goes_on(config: RunConfig, ray_cluster: Mapping[str, str], tmp_path: Path) -> None:
    num_steps = 60
    (tmp_path / "my_space.py").write_text(SPACE.replace("NUM_STEPS", str(num_steps)))
    config = replace(config, scaling=ScalingConfig(num_workers=1))
    arguments = ("my_space", "--config", write_config(config, tmp_path), "--scheduler", "none")
    with programs.start(tmp_path, ray_cluster, "distseg.tune", *arguments) as it:
        it.wait_for(r"trial 1: step \d+ ")
        it.process.send_signal(signal.SIGTERM)
        ended = it.wait()
    assert ended.code == 143 and "Traceback" not in ended.err and "error:" not in ended.err, ended.err
    (folder,) = Path(config.checkpoint.uri).iterdir()
    assert not (folder / "lock.json").exists()
    assert set(statuses(config).values()) == {"KILLED"}, "the search's own run and the trial's"

    ended = programs.run(tmp_path, ray_cluster, "distseg.tune", "--resume", str(folder))
    assert ended.code == 0, ended.err
    (trial,) = records.read_trials(str(folder))
    assert (trial.status, trial.steps) == ("finished", num_steps)
    assert set(statuses(config).values()) == {"FINISHED"}


def statuses(config: RunConfig) -> dict[str, str]:
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    return {run.info.run_id: run.info.status for run in client.search_runs([experiment.experiment_id])}


@pytest.mark.ray
def test_ray_job_stop_saves_the_newest_step(config: RunConfig, tmp_path: Path) -> None:
    config = endless(config)
    training = (sys.executable, "-m", "distseg.train", "--config", write_config(config, tmp_path))
    with programs.ray_cluster(dashboard=True) as cluster:
        patient = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
        job = ("ray.scripts.scripts", "job")
        submit = ("submit", "--no-wait", "--submission-id", "it", "--runtime-env-json", patient, "--", *training)
        end_s = time.monotonic() + programs.PATIENCE_S
        ended = programs.run(tmp_path / "submit", cluster, *job, *submit)
        while "No available agent" in ended.err and time.monotonic() < end_s:  # they start after the rest of Ray
            ended = programs.run(tmp_path / "submit", cluster, *job, *submit)
        assert ended.code == 0, ended.err
        wait_for_step(run_folder(config), 3)
        ended = programs.run(tmp_path / "stop", cluster, *job, "stop", "it")
        assert ended.code == 0, ended.err
    assert_closed_with_its_newest_step(config)
