"""A worker process dies in the middle of a training: the run goes on by itself and ends as if nothing had happened."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from distseg.config import RunConfig
from tests import programs
from tests.chaos.conftest import NUM_STEPS, SAVED_EVERY, Undisturbed, assert_same_training, write_config
from tests.recorded import assert_each_once, only_run

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]


def test_the_run_survives_the_loss_of_rank_1_before_the_first_checkpoint_and_of_rank_0_later(
    config: RunConfig, ray_cluster: Mapping[str, str], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    arguments = ("distseg.train", "--config", write_config(config, tmp_path))
    with programs.start(tmp_path / "driver", ray_cluster, *arguments) as driver:
        for rank, step, starts_again in ((1, 2, "step 1/"), (0, NUM_STEPS // 2, r"step \d+/\d+  resumed")):
            driver.wait_for_step(step)
            os.kill(programs.worker_pids(ray_cluster, run_name(config))[rank], signal.SIGKILL)
            driver.wait_for(rf"(?s)step {step}/.*{starts_again}")
        ended = driver.wait()
    assert ended.code == 0, ended.err
    recorded = only_run(config.tracking.uri, config.tracking.experiment)
    assert ended.printed("MLflow run") == recorded.run.info.run_id
    assert_each_once(recorded, NUM_STEPS)
    assert recorded.values("train/resumed_at") in ([SAVED_EVERY], [2 * SAVED_EVERY])
    assert_same_training(recorded, ended.printed("run"), undisturbed)


def run_name(config: RunConfig) -> str:
    """There is one directory of a run below `checkpoint.uri`."""
    (folder,) = Path(config.checkpoint.uri).iterdir()
    return folder.name
