"""One process at a time works on a run: the second is told who the first is, and a dead one holds nobody up."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from distseg import storage
from distseg.errors import TrainingError
from distseg.runs import lease
from distseg.runs.lease import FILE, taken
from distseg.storage import Store

ELSEWHERE = "another-boot pid:[1]"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLED_S", 0.0)
    monkeypatch.setattr(lease, "EXPIRED_S", 0.3)


@pytest.fixture
def living() -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a run's directory."""
    return str(tmp_path / "run") if request.param == "local" else f"{request.getfixturevalue('moto_s3')}/run"


def lock_of(pid: int, *, machine: str = "", owner: str = "", started_s: float | None = None) -> dict[str, Any]:
    about = lease._about("is training it", owner) | {
        "pid": pid,
        "host": "there",
        "machine": machine or lease._machine(),
    }
    if started_s is not None:
        return about | {"started_s": started_s, "started_ticks": int(started_s)}
    return about | {"started_s": psutil.Process(pid).create_time(), "started_ticks": lease._started_ticks(pid)}


def write(uri: str, about: dict[str, Any]) -> None:
    storage.write_bytes(storage.join(uri, FILE), json.dumps(about).encode())


def test_the_second_is_refused_by_name_of_the_first(uri: str) -> None:
    here = f"{re.escape(uri)}: process {os.getpid()} on {re.escape(socket.gethostname())} is training it; wait"
    with taken(uri, "is training it"), pytest.raises(TrainingError, match=here), taken(uri, "is training it"):
        pass
    with taken(uri, "is training it"):
        pass
    assert not storage.exists(storage.join(uri, FILE))


def test_another_living_process_of_this_machine_is_respected(living: int, tmp_path: Path) -> None:
    write(str(tmp_path), lock_of(living))
    with pytest.raises(TrainingError, match=f"process {living} on there is training it"), taken(str(tmp_path), ""):
        pass


def test_a_dead_process_of_this_machine_holds_nobody_up(
    living: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRED_S", 1e9)
    with subprocess.Popen(["true"]) as dead:
        pass
    for about in (lock_of(dead.pid, started_s=0.0), lock_of(living, started_s=1.0)):  # the number is another's by now
        write(str(tmp_path), about)
        with taken(str(tmp_path), "is training it"):
            pass


@pytest.mark.parametrize("hours", [-5.0, 5.0])
def test_a_clock_that_is_set_makes_no_living_process_dead(
    living: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    """By psutil all processes then began at another time: it adds theirs since the boot to that of the boot."""
    write(str(tmp_path), lock_of(living))
    by_the_clock = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: by_the_clock(process) + hours * 3600)
    with pytest.raises(TrainingError, match=f"process {living} on there is training it"), taken(str(tmp_path), ""):
        pass


def test_a_clock_that_is_set_makes_no_dead_process_alive(living: int, tmp_path: Path) -> None:
    """Another process has its number by now, and the clock says that it began when the dead one did."""
    about = lock_of(living)
    write(str(tmp_path), about | {"started_ticks": about["started_ticks"] - 5 * 3600 * 100})
    with taken(str(tmp_path), ""):
        pass


def test_a_dead_process_that_nobody_has_waited_for_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose first process does not: its number stays taken."""
    monkeypatch.setattr(lease, "EXPIRED_S", 1e9)
    with subprocess.Popen(["sleep", "600"]) as killed:
        write(str(tmp_path), lock_of(killed.pid))
        killed.kill()
        wait_until(lambda: psutil.Process(killed.pid).status() == psutil.STATUS_ZOMBIE)
        with taken(str(tmp_path), ""):
            pass


def test_a_lock_of_an_earlier_version_is_respected(living: int, tmp_path: Path) -> None:
    about = lock_of(living)
    del about["started_ticks"]
    write(str(tmp_path), about)
    with pytest.raises(TrainingError, match=f"process {living} on there is training it"), taken(str(tmp_path), ""):
        pass


def test_a_process_elsewhere_that_does_not_renew_its_lock_is_dead(uri: str) -> None:
    write(uri, lock_of(1, machine=ELSEWHERE, started_s=0.0))
    with taken(uri, "is training it"):
        assert json.loads(storage.read_bytes(storage.join(uri, FILE)))["pid"] == os.getpid()


def test_a_process_elsewhere_that_renews_its_lock_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRED_S", 60.0)
    about = lock_of(1, machine=ELSEWHERE, started_s=0.0)
    write(str(tmp_path), about)
    renewal = threading.Timer(0.2, write, (str(tmp_path), about | {"renewals": 1}))
    renewal.start()
    with pytest.raises(TrainingError, match="process 1 on there is training it"), taken(str(tmp_path), ""):
        pass
    renewal.join()


def test_a_lock_that_is_given_back_meanwhile_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRED_S", 60.0)
    write(str(tmp_path), lock_of(1, machine=ELSEWHERE, started_s=0.0))
    threading.Timer(0.2, (tmp_path / FILE).unlink).start()
    with taken(str(tmp_path), ""):
        pass


def test_a_job_of_ray_that_begins_again_has_the_lock_of_its_dead_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRED_S", 1e9)
    write(str(tmp_path), lock_of(1, machine=ELSEWHERE, started_s=0.0, owner="raysubmit_1"))
    with taken(str(tmp_path), "", owner="raysubmit_1"):
        pass


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"pid": "1"}', b"[" * 100_000])
def test_a_damaged_lock_expires(data: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(data)
    with taken(str(tmp_path), ""):
        pass


def test_the_lock_is_renewed_and_a_process_that_has_lost_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    signals: list[int] = []
    monkeypatch.setattr(lease, "RENEWED_S", 0.02)
    monkeypatch.setattr(os, "kill", lambda pid, signum: signals.append(signum))
    with taken(str(tmp_path), ""):
        wait_until(lambda: json.loads((tmp_path / FILE).read_bytes() or b'{"renewals": 0}')["renewals"] >= 2)
        other = lock_of(1, machine=ELSEWHERE, started_s=0.0)
        while not signals:  # a renewal under way may come after it
            write(str(tmp_path), other)
            time.sleep(0.01)
    assert set(signals) == {signal.SIGTERM}
    assert "process 1 on there is training it" in caplog.text
    assert json.loads((tmp_path / FILE).read_bytes())["token"] == other["token"], "another's lock is left alone"


def wait_until(condition: Any) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


# ---- who makes the file


@pytest.mark.parametrize("knows", [True, False], ids=["conditional writes", "no conditional writes"])
def test_of_several_who_make_a_file_together_one_does(knows: bool, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not knows:
        monkeypatch.setattr("distseg.storage.stores.s3._put_if_absent", lambda *_: None)
        monkeypatch.setattr("distseg.storage.store.SETTLED_S", 0.5)
        if not storage.is_remote(uri):
            monkeypatch.setattr("distseg.storage.local.LocalStore.create", Store.create)
    together, made = threading.Barrier(4), []

    def make(number: int) -> None:
        together.wait()
        made.append(storage.create(f"{uri}/file", str(number).encode()))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]
    assert not storage.create(f"{uri}/file", b"later")
