"""The MLflow server dies or was never there: training neither fails nor waits, and every record arrives once later."""

import itertools
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from distseg import tracking
from distseg.config import RunConfig, ScalingConfig
from tests import programs
from tests.chaos.conftest import NUM_STEPS, write_config
from tests.conftest import free_port
from tests.recorded import Recorded, assert_each_once, only_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


class Server:
    """An MLflow server on SQLite that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._running = ExitStack()

    def start(self) -> None:
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        stores = [
            f"--backend-store-uri=sqlite:///{self.folder / 'mlflow.db'}",
            f"--artifacts-destination={self.folder}",
        ]
        address = ["--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        self._running.enter_context(
            programs.start(
                self.folder, programs.plain_environment() | environment, "mlflow", "server", *address, *stores
            )
        )
        end_s = time.monotonic() + programs.PATIENCE_S
        while not self.is_up():
            assert time.monotonic() < end_s, (self.folder / "err").read_text()
            time.sleep(0.1)

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()


@pytest.fixture
def running(server: Server) -> Server:
    if not server.is_up():
        server.start()
    return server


@pytest.fixture
def config(config: RunConfig, server: Server, request: pytest.FixtureRequest) -> RunConfig:
    """One worker is enough here."""
    tracked = replace(config.tracking, uri=server.uri, experiment=request.node.name)
    return replace(config, tracking=tracked, scaling=ScalingConfig(num_workers=1))


def test_a_server_that_is_down_from_the_start_gets_everything_on_resume(
    config: RunConfig, server: Server, tmp_path: Path
) -> None:
    arguments = ("distseg.train", "--config", write_config(config, tmp_path))
    ended = programs.run(tmp_path / "first", programs.alone(), *arguments)
    assert_all_in_journal(ended, num_steps=NUM_STEPS)
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


def test_a_server_that_dies_for_good_gets_the_rest_on_resume(
    config: RunConfig, running: Server, ray_cluster: Mapping[str, str], tmp_path: Path
) -> None:
    arguments = ("distseg.train", "--config", write_config(config, tmp_path))
    with programs.start(tmp_path / "first", ray_cluster, *arguments) as driver:
        driver.wait_for_step(5)
        running.kill()
        ended = driver.wait()
    assert_all_in_journal(ended, num_steps=NUM_STEPS - 20)

    running.start()
    ended = programs.run(tmp_path / "second", programs.alone(), "distseg.train", "--resume", ended.printed("run"))
    recorded = assert_all_sent(ended, config)
    report_gaps("server killed for good", recorded, last_step=NUM_STEPS)


def assert_all_in_journal(ended: programs.Ended, num_steps: int) -> None:
    """The training ended well, and its journal holds the evaluation and at least the last `num_steps` steps."""
    assert ended.code == 0, ended.err
    records = tracking.read_journal(ended.printed("run"))
    assert f"{len(records)} records wait in {ended.printed('run')}/journal" in ended.out
    kept = [record["step"] for record in records if "train/loss" in record["metrics"]]
    assert kept[-num_steps:] == list(range(NUM_STEPS - num_steps + 1, NUM_STEPS + 1))
    assert [record["step"] for record in records if "val/mIoU" in record["metrics"]] == [NUM_STEPS]


def assert_all_sent(ended: programs.Ended, config: RunConfig) -> Recorded:
    assert ended.code == 0, ended.err
    assert "records wait" not in ended.out
    assert tracking.read_journal(ended.printed("run")) == []
    recorded = only_run(config.tracking.uri, config.tracking.experiment)
    assert ended.printed("MLflow run") == recorded.run.info.run_id
    assert_each_once(recorded, NUM_STEPS)
    assert recorded.artifacts("tables") == {"tables/conditions.json", "tables/images.json"}
    return recorded


def report_gaps(what: str, recorded: Recorded, last_step: int) -> None:
    """Prints how long the slowest step took while the server was away; how long is too long depends on the machine."""
    times_s = recorded.times_s("train/loss")[:last_step]
    gaps_s = [after - before for before, after in itertools.pairwise(times_s)]
    median_s = sorted(gaps_s)[len(gaps_s) // 2]
    sys.stderr.write(f"{what}: slowest step {max(gaps_s[5:]):.2f} s, median {median_s:.2f} s\n")
