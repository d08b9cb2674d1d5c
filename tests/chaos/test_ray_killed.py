"""A part of Ray dies under a training: the run is closed with one line, and goes on as if nothing had been."""

import contextlib
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from distseg.config import RunConfig
from distseg.runs import read_run_json
from tests import programs
from tests.chaos.conftest import SAVED_EVERY, Undisturbed, assert_same_training, write_config
from tests.recorded import only_run

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(1800)]


def train_and_kill(victim: str, config: RunConfig, folder: Path) -> programs.Ended:
    """How a training ends whose Ray loses this process. Its workers are held, so that it cannot end before."""
    arguments = ("--config", write_config(config, folder))
    with (
        programs.own_environment() as environment,
        programs.start(folder / "run", environment, "distseg.train", *arguments) as it,
    ):
        it.wait_for_step(SAVED_EVERY + 2)
        children = psutil.Process(it.process.pid).children(recursive=True)
        workers = [child for child in children if "RayTrainWorker" in child.name()]
        assert len(workers) == config.scaling.num_workers
        for worker in workers:
            worker.suspend()
        (process,) = (child for child in children if child.name() == victim)
        process.kill()
        ended = it.wait()
        end_s = time.monotonic() + 60
        while (alive := [child for child in children if is_alive(child)]) and time.monotonic() < end_s:
            time.sleep(0.1)
        for child in alive:
            child.kill()
        assert not alive, "something trains on beside a run that is resumed"
    return ended


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def assert_closed(ended: programs.Ended, gone: str, config: RunConfig) -> str:
    """The run's directory."""
    (folder,) = Path(config.checkpoint.uri).glob("chaos-*")
    assert ended.code == 1
    (line,) = (line for line in ended.err.splitlines() if line.startswith("error:"))
    assert gone in line and line.endswith(f"python -m distseg.train --resume {folder}")
    assert read_run_json(str(folder))["status"] == "FAILED"
    assert only_run(config.tracking.uri, config.tracking.experiment).run.info.status == "FAILED"
    return str(folder)


@pytest.mark.nightly
def test_without_its_gcs_the_run_is_closed(config: RunConfig, tmp_path: Path) -> None:
    assert_closed(train_and_kill("gcs_server", config, tmp_path), "its head's GCS", config)


def test_without_its_raylet_the_run_is_closed_and_can_go_on(
    config: RunConfig, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    folder = assert_closed(train_and_kill("raylet", config, tmp_path), "this machine's raylet", config)
    with programs.own_environment() as environment:
        resumed = programs.run(tmp_path / "resumed", environment, "distseg.train", "--resume", folder)
    assert resumed.code == 0, resumed.err
    recorded = only_run(config.tracking.uri, config.tracking.experiment)
    assert recorded.run.info.status == "FINISHED"
    assert_same_training(recorded, folder, undisturbed)
