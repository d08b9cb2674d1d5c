"""torch's store of addresses listens where it is told to and nowhere else; a worker's process begins clean."""

import importlib
import logging
import os
import sys
import threading
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch.distributed as dist

from distseg.orchestration import trainer
from tests.conftest import free_port

TORCHS = importlib.import_module("torch.distributed.rendezvous")


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TORCHS, "TCPStore", TORCHS.TCPStore)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)


def open_store(host: str, port: int, rank: int = 0) -> Any:
    return TORCHS._create_c10d_store(host, port, rank, 1, timedelta(seconds=10))


def listening_at(port: int) -> list[str]:
    found = psutil.Process(os.getpid()).net_connections("inet")
    return [each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN and each.laddr.port == port]


def test_the_store_listens_on_one_address_and_works() -> None:
    for _ in range(2):  # a second time changes nothing
        trainer.listen_on_one_address()
    port = free_port()
    opened = open_store("127.0.0.2", port)
    assert listening_at(port) == ["127.0.0.2"]
    joined = open_store("127.0.0.2", port, rank=1)
    joined.set("from", "another rank")
    assert opened.get("from") == b"another rank"


def test_without_it_torch_listens_everywhere() -> None:
    """Else there would be nothing left to do."""
    port = free_port()
    opened = open_store("127.0.0.1", port)
    assert opened is not None
    assert not [ip for ip in listening_at(port) if ip.startswith("127.")]


def test_an_address_of_another_machine_is_left_to_torch_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TORCHS, "TCPStore", lambda *args, **options: options)
    trainer.listen_on_one_address()
    with caplog.at_level(logging.WARNING):
        assert "master_listen_fd" not in open_store("203.0.113.1", free_port())
    assert "203.0.113.1 is no address of this machine" in caplog.text


def test_a_torch_without_the_name_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(trainer, "_STORE_NAME", "NoStore")
    before = TORCHS.TCPStore
    with caplog.at_level(logging.WARNING):
        trainer.listen_on_one_address()
    assert "its store listens on all interfaces" in caplog.text
    assert before is TORCHS.TCPStore


def test_a_process_that_trains_again_is_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[str] = []
    monkeypatch.setattr(trainer, "_has_trained", threading.Event())
    monkeypatch.setattr(trainer, "listen_on_one_address", lambda: done.append("listens"))
    monkeypatch.setattr("gc.collect", lambda: done.append("collected"))
    monkeypatch.setattr("torch.compiler.reset", lambda: done.append("forgot what was compiled"))
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    trainer.prepare_process()
    assert done == ["listens"]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    monkeypatch.setitem(sys.modules, "torch._dynamo", ModuleType("torch._dynamo"))
    trainer.prepare_process()
    assert not dist.is_initialized()
    assert done == ["listens", "forgot what was compiled", "collected", "listens"]


def test_ray_train_opens_the_store_after_it() -> None:
    calls: list[str] = []

    class Group:
        def execute(self, function: Any, **options: Any) -> None:
            calls.append(function.__name__)

        def execute_single(self, rank: int, function: Any) -> tuple[str, int]:
            calls.append(function.__name__)
            raise RuntimeError("far enough")

        def get_resources_per_worker(self) -> dict[str, float]:
            return {"CPU": 1.0}

    config = trainer.OneAddressConfig()
    with pytest.raises(RuntimeError, match="far enough"):
        config.backend_cls().on_start(Group(), config)
    assert calls[:2] == ["prepare_process", "get_address_and_port"]
