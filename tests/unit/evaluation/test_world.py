"""The world that torchrun describes, on machines with GPUs that are only said to be there."""

import pytest
import torch

from distseg.errors import ResourceError
from distseg.evaluation import torchrun_world


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
