"""The world that torchrun describes, on machines with GPUs that are only said to be there."""

import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from distseg.errors import ConfigError, ResourceError
from distseg.evaluation import torchrun_world
from tests import programs
from tests.conftest import free_port


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Which of them was chosen."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_each_process_takes_its_gpu(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert torchrun_world().device == torch.device("cuda", 1)
    assert two_gpus == [torch.device("cuda", 1)]


def test_more_processes_than_gpus_are_refused(two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ResourceError, match=r"^LOCAL_RANK = 2: .* torch sees 2 here; give torchrun --nproc-per-node 2"):
        torchrun_world()
    assert two_gpus == []


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RANK": "x"}, r"^RANK = 'x': must be a whole number from 0 on"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, r"^WORLD_SIZE = '0': must be a whole number from 1 on"),
        ({"WORLD_SIZE": ""}, r"^WORLD_SIZE = '': must be a whole number from 1 on"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, r"^RANK = 2: must be below WORLD_SIZE, which is 2"),
        ({"LOCAL_RANK": "-1"}, r"^LOCAL_RANK = '-1': must be a whole number"),
    ],
)
def test_an_environment_that_is_none_of_torchruns(
    variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        torchrun_world()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, r"^MASTER_ADDR = '', MASTER_PORT = 0: must be the host and port at which 2 processes meet"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"}, r"^MASTER_PORT = 'abc': must be a whole number"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"}, r"MASTER_PORT = 99999: must be the host and port"),
    ],
)
def test_where_ranks_meet_must_be_said(variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        torchrun_world()


def test_ranks_that_never_come_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**alone_of_two(), "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ResourceError, match=r"^rank 1 of 2 did not meet the others at 127\.0\.0\.1:\d+ \("):
        torchrun_world(timeout_s=1.0)


def test_an_interrupt_ends_a_program_that_waits_for_other_ranks(tmp_path: Path) -> None:
    environment = programs.plain_environment() | alone_of_two()
    with programs.start(tmp_path, environment, "distseg.evaluate", "--checkpoint", "c", "--data", "d") as evaluation:
        while not is_open(int(environment["MASTER_PORT"])):
            assert evaluation.process.poll() is None, evaluation.err
            time.sleep(0.1)
        evaluation.process.send_signal(signal.SIGINT)
        assert evaluation.wait().code == -signal.SIGINT


def alone_of_two() -> dict[str, str]:
    return {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
