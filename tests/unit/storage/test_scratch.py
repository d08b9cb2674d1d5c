"""Temporary directories: what a killed process left is removed by the next one, and nothing else is."""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distseg import storage
from distseg.storage import scratch
from tests.conftest import REPOSITORY

HOLDER = """
import time
from distseg import storage
folder = storage.new_scratch_folder()
(folder / "checkpoint.pt").write_bytes(b"large")
print(folder, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_stays(temporary: Path) -> None:
    command = [sys.executable, "-c", HOLDER]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, living = (Path(process.stdout.readline().strip()) for process in processes if process.stdout)
        processes[0].kill()
        processes[0].wait()
        assert killed.exists(), "a killed process removes nothing itself"
        storage.new_scratch_folder()
        assert not killed.parent.exists()
        assert (living / "checkpoint.pt").exists()
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def test_a_directory_that_is_just_being_made_is_left_alone(temporary: Path) -> None:
    new, old = (temporary / f"distseg-{os.getuid()}-{name}" for name in ("new", "old"))
    for folder in (new, old):
        folder.mkdir()
    past = time.time() - 2 * scratch._UNLOCKED_S
    os.utime(old, (past, past))
    storage.new_scratch_folder()
    assert new.exists() and not old.exists()


@pytest.mark.parametrize("call", ["flock", "rename"])
def test_a_process_that_begins_while_another_does_removes_nothing_of_it(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks are of open files: who opens a file a second time is to them another process."""
    owner: Any = {"flock": fcntl, "rename": Path}[call]
    usual, num_calls = getattr(owner, call), 0

    def between_looks_of_another(*args: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        with monkeypatch.context() as its:
            its.setattr(owner, call, usual)
            scratch._remove_left(f"distseg-{os.getuid()}-")
            result = usual(*args)
            scratch._remove_left(f"distseg-{os.getuid()}-")
        return result

    monkeypatch.setattr(owner, call, between_looks_of_another)
    (storage.new_scratch_folder() / "file").touch()
    assert num_calls == 1


def test_a_block_removes_its_own() -> None:
    with storage.scratch_folder() as folder:
        (folder / "file").touch()
    assert not folder.exists() and folder.parent.exists()


def test_a_process_that_ends_removes_all(temporary: Path) -> None:
    code = HOLDER.replace("time.sleep(600)", "")
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)
    assert list(temporary.iterdir()) == []
