"""The MLflow server dies or was never there: training neither fails nor waits, and every record arrives once later."""

import itertools
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distseg import tracking
from distseg.config import RunConfig, ScalingConfig
from tests import programs
from tests.chaos.conftest import NUM_STEPS, write_config
from tests.chaos.tracking_server import Server
from tests.recorded import Recorded, assert_each_once, only_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


@pytest.fixture
def config(config: RunConfig, server: Server, request: pytest.FixtureRequest) -> RunConfig:
    """One worker is enough here."""
    tracked = replace(config.tracking, uri=server.uri, experiment=request.node.name)
    return replace(config, tracking=tracked, scaling=ScalingConfig(num_workers=1))


def test_a_server_that_is_down_from_the_start_gets_everything_on_resume(
    config: RunConfig, server: Server, tmp_path: Path
) -> None:
    server.kill()
    arguments = ("distseg.train", "--config", write_config(config, tmp_path))
    ended = programs.run(tmp_path / "first", programs.alone(), *arguments)
    assert_all_in_journal(ended)
    assert "MLflow run" not in ended.out

    server.start()
    ended = programs.run(tmp_path / "second", programs.alone(), "distseg.train", "--resume", ended.printed("run"))
    recorded = assert_all_sent(ended, config)
    assert recorded.run.data.params["optim.max_steps"] == str(NUM_STEPS)
    assert recorded.run.data.tags["stage"] == "train"


def test_a_server_that_comes_back_during_the_training_gets_everything(
    config: RunConfig, running: Server, tmp_path: Path
) -> None:
    arguments = ("distseg.train", "--config", write_config(config, tmp_path))
    with programs.start(tmp_path / "program", programs.alone(), *arguments) as program:
        program.wait_for_step(5)
        running.kill()
        program.wait_for_step(NUM_STEPS // 2)
        # The training is held here, so that the server is sure to be back before it ends.
        os.kill(program.process.pid, signal.SIGSTOP)
        running.start()
        os.kill(program.process.pid, signal.SIGCONT)
        ended = program.wait()
    recorded = assert_all_sent(ended, config)
    report_gaps("server killed and started again", recorded, last_step=NUM_STEPS // 2)


def assert_all_in_journal(ended: programs.Ended) -> None:
    """The training ended well, says that MLflow lacks some of it, and has all its steps and its report."""
    assert ended.code == 0, ended.err
    run_uri = ended.printed("run")
    assert f"send it with python -m distseg.sync {run_uri}" in ended.out
    records = tracking.read_journal(run_uri)
    assert [r["step"] for r in records if "train/loss" in r["metrics"]] == list(range(1, NUM_STEPS + 1))
    assert [r["step"] for r in records if "val/mIoU" in r["metrics"]] == [NUM_STEPS]
    assert Path(run_uri, "report", "index.html").exists()


def assert_all_sent(ended: programs.Ended, config: RunConfig) -> Recorded:
    assert ended.code == 0, ended.err
    assert "not sent" not in ended.out
    recorded = assert_all_there(config)
    assert ended.printed("MLflow run") == recorded.run.info.run_id
    return recorded


def assert_all_there(config: RunConfig) -> Recorded:
    recorded = only_run(config.tracking.uri, config.tracking.experiment)
    assert_each_once(recorded, NUM_STEPS)
    assert recorded.artifacts("tables") == {"tables/conditions.json", "tables/images.json"}
    return recorded


def report_gaps(what: str, recorded: Recorded, last_step: int) -> None:
    """Prints how long the slowest step took while the server was away; how long is too long depends on the machine."""
    times_s = recorded.times_s("train/loss")[:last_step]
    gaps_s = [after - before for before, after in itertools.pairwise(times_s)]
    median_s = sorted(gaps_s)[len(gaps_s) // 2]
    sys.stderr.write(f"{what}: slowest step {max(gaps_s[5:]):.2f} s, median {median_s:.2f} s\n")
