"""What nobody reads, or a full disk does not take, stops no program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

WORK = """
import logging, pathlib, sys
from distseg import cli
def main(arguments):
    for number in range(2000):
        print("progress", number, flush=True)
        print("more", number, file=sys.stderr)
    logging.getLogger("distseg").warning("a warning")
    pathlib.Path(arguments[0]).write_text("done")
    return 3
cli.run(main)
"""


def started(path: Path, *, stdout: int, stderr: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=stdout,
        stderr=stderr,
    )


@pytest.mark.parametrize("name", ["stdout", "stderr", "both"])
def test_work_goes_on_when_the_reader_of_a_pipe_is_gone(name: str, tmp_path: Path) -> None:
    nowhere, pipe_end = subprocess.DEVNULL, subprocess.PIPE
    stdout = nowhere if name == "stderr" else pipe_end
    stderr = {"stdout": nowhere, "stderr": pipe_end, "both": subprocess.STDOUT}[name]
    process = started(tmp_path / "work", stdout=stdout, stderr=stderr)
    pipe = process.stdout or process.stderr
    assert pipe is not None
    pipe.readline()  # `| head -1`
    pipe.close()
    assert process.wait(60) == 3
    assert (tmp_path / "work").read_text() == "done"


def test_a_full_disk_is_said_once_on_the_other_stream(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = started(tmp_path / "work", stdout=full.fileno(), stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 3
    assert (tmp_path / "work").read_text() == "done"
    assert err.decode().count("stdout: No space left on device; what is printed there is lost") == 1


def test_both_streams_may_be_closed_from_the_start(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -c "$WORK" "{tmp_path / "work"}" >&- 2>&-'
    ended = subprocess.run(["sh", "-c", command], cwd=REPOSITORY, env={**os.environ, "WORK": WORK}, timeout=300)
    assert ended.returncode == 3
    assert (tmp_path / "work").read_text() == "done", "no stream got the file's number"
