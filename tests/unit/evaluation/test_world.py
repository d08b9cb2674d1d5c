"""The world that torchrun describes, on machines with GPUs that are only said to be there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from distseg.errors import ConfigError, ResourceError
from distseg.evaluation import torchrun_world
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
        ({"RANK": "0", "WORLD_SIZE": "0"}, r"^RANK = 0: must be below WORLD_SIZE, which is 0"),
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


def test_an_interrupt_ends_a_process_that_waits_for_others(tmp_path: Path) -> None:
    code = "from distseg.evaluation import torchrun_world; print('waiting', flush=True); torchrun_world()"
    alone_of_two = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {**os.environ, **alone_of_two, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None and waiting.stdout.readline()
        while waiting.poll() is None:  # from whatever it is doing by then
            waiting.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert waiting.returncode in (-signal.SIGINT, 1)
