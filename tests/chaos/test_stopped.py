"""A training over Ray is stopped by SIGTERM or Ctrl-C, as Kubernetes, Slurm, a user or `ray job stop` do it.

The same without Ray, at more phases: tests/unit/runs/test_stopping.py.
"""

import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from distseg.config import RunConfig, ScalingConfig
from distseg.runs import read_run_json
from distseg.training import checkpoint
from tests import programs
from tests.chaos.conftest import write_config
from tests.recorded import only_run

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]

SIGNALS = pytest.mark.parametrize(
    "signum",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.nightly),  # see also tests/integration
    ],
)


def endless(config: RunConfig) -> RunConfig:
    return replace(
        config,
        optim=replace(config.optim, max_steps=100_000),
        checkpoint=replace(config.checkpoint, every_steps=0),
        scaling=ScalingConfig(num_workers=2),
    )


def run_folder(config: RunConfig) -> Path:
    """Of the only run, as soon as it has begun."""
    end_s = time.monotonic() + programs.PATIENCE_S
    while not (found := list(Path(config.checkpoint.uri).glob("*/run.json"))):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    return found[0].parent


def assert_closed(config: RunConfig, ended: programs.Ended, signum: int) -> None:
    assert ended.code == 128 + signum, ended.err
    assert "Traceback" not in ended.err and "error:" not in ended.err
    assert read_run_json(str(run_folder(config)))["status"] == "KILLED"
    assert only_run(config.tracking.uri, config.tracking.experiment).run.info.status == "KILLED"


@SIGNALS
def test_in_training_the_newest_step_is_uploaded_and_the_run_closed(
    config: RunConfig, ray_cluster: Mapping[str, str], signum: int, tmp_path: Path
) -> None:
    config = endless(config)
    with programs.start(
        tmp_path / "run", ray_cluster, "distseg.train", "--config", write_config(config, tmp_path)
    ) as it:
        it.wait_for_step(3)
        it.process.send_signal(signum)
        ended = it.wait()
    assert_closed(config, ended, signum)
    found = checkpoint.newest(str(run_folder(config)))
    logged = only_run(config.tracking.uri, config.tracking.experiment).steps("train/loss")
    assert found is not None and found[1].step == logged[-1] >= 3


def test_a_second_signal_ends_at_once(config: RunConfig, ray_cluster: Mapping[str, str], tmp_path: Path) -> None:
    config = endless(config)
    with programs.start(
        tmp_path / "run", ray_cluster, "distseg.train", "--config", write_config(config, tmp_path)
    ) as it:
        it.wait_for_step(1)
        for _ in range(2):
            programs.interrupt(it)
            time.sleep(0.1)  # two that come together are one for the system
        ended = it.wait()
    assert_closed(config, ended, signal.SIGINT)
    assert f"distseg.sync {run_folder(config)}" in ended.err


def test_while_workers_are_waited_for_the_run_is_closed(
    config: RunConfig, ray_cluster: Mapping[str, str], tmp_path: Path
) -> None:
    config = endless(config)
    with programs.start(
        tmp_path / "run", ray_cluster, "distseg.train", "--config", write_config(config, tmp_path)
    ) as it:
        run_folder(config)
        it.process.send_signal(signal.SIGTERM)
        ended = it.wait()
    assert_closed(config, ended, signal.SIGTERM)
    assert not checkpoint.found_in(str(run_folder(config)))
