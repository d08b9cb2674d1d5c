"""What cluster/slurm.sh refuses before it starts anything. tests/chaos/test_slurm.py has it run on a real Slurm."""

import os
import subprocess

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
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    ended = subprocess.run(
        ["bash", "cluster/slurm.sh", *arguments],
        cwd=REPOSITORY,
        env=environment | ALLOCATION | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("slurm.sh: ")
    assert said in ended.stderr
