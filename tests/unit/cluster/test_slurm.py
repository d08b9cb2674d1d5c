"""What cluster/slurm.sh refuses before it starts anything, and a Ray that does not come up at once.

tests/chaos/test_slurm.py has it run on a real Slurm.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ALLOCATION = {
    "SLURM_JOB_ID": "7",
    "SLURM_SUBMIT_DIR": str(REPOSITORY),
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_CPUS_ON_NODE": "1",
    "CHECKPOINTS": "/tmp/runs",
    "PYTHON": "/bin/false",  # what comes so far fails
    "RAY_HEAD_IP": "127.0.0.1",
}


@pytest.mark.parametrize(
    ("variables", "arguments", "said"),
    [
        ({"SLURM_GPUS_ON_NODE": "8"}, [], "this node has 8 GPUs and 1 CPUs for the job; ask for CPUs too"),
        ({}, ["town", "--checkpoint.uri", "/elsewhere"], "are this script's own"),
        ({}, ["town", "--checkpoint.uri=/elsewhere"], "are this script's own"),
        ({}, ["--resume=/runs/x"], "are this script's own"),
        ({}, ["town", "--checkpoint.uri_of_mine", "x"], "cannot look for an earlier run"),
        ({"SLURM_GPUS_ON_NODE": "1"}, [], "cannot look for an earlier run"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(variables: dict[str, str], arguments: list[str], said: str) -> None:
    ended = call(arguments, variables)
    assert ended.returncode == 1
    assert ended.stderr.startswith("slurm.sh: ")
    assert said in ended.stderr


SLOW_RAY = """#!/bin/bash
case "$*" in
  *"ray.scripts.scripts start --head"*)
    echo x >>COUNT
    [ "$(wc -l <COUNT)" -ge NEEDED ] || { echo "no raylet"; exit 1; }
    echo "Ray runtime started."
    exec sleep 600 ;;
  *--print-config*) ;;
  *distseg.train*) echo "trains at $RAY_ADDRESS" ;;
esac
"""


@pytest.mark.parametrize(("needed", "code", "trained"), [(1, 0, True), (3, 0, True), (4, 1, False)])
def test_a_head_that_does_not_come_up_is_started_up_to_three_times(
    needed: int, code: int, trained: bool, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(SLOW_RAY.replace("COUNT", str(tmp_path / "count")).replace("NEEDED", str(needed)))
    python.chmod(0o755)
    variables = {"PYTHON": str(python), "SLURM_JOB_ID": str(10**9 + os.getpid()), "RAY_PORT": "29999"}
    ended = call(["town"], variables)
    assert ended.returncode == code, ended.stderr
    assert ("trains at 127.0.0.1:29999" in ended.stdout) == trained
    assert ended.stderr.count("no raylet\nslurm.sh: Ray's head did not start, attempt") == min(needed - 1, 3)


def call(arguments: list[str], variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.run(
        ["bash", "cluster/slurm.sh", *arguments],
        cwd=REPOSITORY,
        env=environment | ALLOCATION | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
