"""The machine of a local run dies: driver, Ray and workers at once. `--resume` ends as if nothing had happened, on
another cluster."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from distseg.config import RunConfig
from distseg.training import checkpoint
from tests import programs
from tests.chaos.conftest import NUM_STEPS, SAVED_EVERY, Undisturbed, assert_same_training, write_config
from tests.recorded import assert_each_once, only_run

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]


def test_a_resumed_run_ends_as_if_the_driver_had_not_been_killed(
    config: RunConfig, ray_cluster: Mapping[str, str], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with programs.own_environment() as environment:
        arguments = ("distseg.train", "--config", write_config(config, tmp_path))
        with programs.start(tmp_path / "first", environment, *arguments) as driver:
            driver.wait_for_step(NUM_STEPS // 2)
            driver.kill_all()
    (run_folder,) = Path(config.checkpoint.uri).iterdir()
    saved = checkpoint.newest(str(run_folder))
    assert saved is not None and saved[1].step in range(SAVED_EVERY, NUM_STEPS, SAVED_EVERY)
    killed = only_run(config.tracking.uri, config.tracking.experiment).run.info
    assert killed.status == "RUNNING"

    ended = programs.run(tmp_path / "second", ray_cluster, "distseg.train", "--resume", str(run_folder))
    assert ended.code == 0, ended.err
    recorded = only_run(config.tracking.uri, config.tracking.experiment)
    assert ended.printed("MLflow run") == recorded.run.info.run_id == killed.run_id
    assert_each_once(recorded, NUM_STEPS)
    assert recorded.values("train/resumed_at") == [saved[1].step]
    assert_same_training(recorded, str(run_folder), undisturbed)
