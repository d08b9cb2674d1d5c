"""cluster/slurm.sh on real slurmctld and slurmd: two nodes, the job's true exit code, its time limit, its requeue."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distseg.config import RunConfig
from tests import programs
from tests.chaos.conftest import write_config
from tests.conftest import REPOSITORY, free_port, lacking, run_script, short_directory, sourced
from tests.recorded import assert_each_once, only_run

pytestmark = [pytest.mark.chaos, pytest.mark.servers, pytest.mark.ray, pytest.mark.timeout(1800)]

NUM_STEPS, STOPPED_AT = 20, 3


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which sbatch finds a cluster of two nodes with one CPU each."""
    if os.geteuid() != 0:
        lacking("Slurm's daemons, which need root")
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            lacking(f"{program} (Slurm)")
    parent = short_directory()
    parent.chmod(0o755)
    settings = {"SLURM_STATE": str(parent / "s"), "SLURM_PORT": str(free_port(3))}
    try:
        run_script("cluster/local_slurm.sh", "up", "2", env=settings)
        yield sourced(parent / "s" / "env")
    finally:
        run_script("cluster/local_slurm.sh", "down", env=settings)
        shutil.rmtree(parent, ignore_errors=True)


class Job:
    def __init__(self, slurm: dict[str, str], folder: Path, *arguments: str, nodes: int = 2) -> None:
        self.out = folder / "slurm.out"
        self._environment = programs.plain_environment() | slurm
        submitted = {"CHECKPOINTS": str(folder / "runs"), "PYTHON": sys.executable}
        script = ["cluster/slurm.sh", *arguments]
        options = ["--parsable", f"--output={self.out}", f"--nodes={nodes}", "--time=10"]
        self.id = self._call("sbatch", *options, *script, **submitted).strip()

    def _call(self, *command: str, **more: str) -> str:
        environment = self._environment | more
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def signal(self, name: str) -> None:
        """To the batch script alone, as `--signal=B:NAME@SECONDS` does before the time limit."""
        self._call("scancel", "--batch", f"--signal={name}", self.id)

    def wait_for(self, pattern: str) -> None:
        self._until(lambda: self.out.exists() and re.search(pattern, self.out.read_text()) is not None)

    def ended(self) -> dict[str, str]:
        """What scontrol says of the job, once it has ended for good."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self._until(lambda: self._shown()["JobState"] in final, may_fail=True)
        return self._shown()

    def _shown(self) -> dict[str, str]:
        words = self._call("scontrol", "show", "job", "-o", self.id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def _until(self, condition: Callable[[], bool], *, may_fail: bool = False) -> None:
        end_s = time.monotonic() + programs.PATIENCE_S
        while not condition():
            text = self.out.read_text() if self.out.exists() else ""
            assert time.monotonic() < end_s, text
            assert may_fail or self._shown()["JobState"] not in ("FAILED", "CANCELLED"), text
            time.sleep(0.1)


@pytest.mark.nightly
def test_a_job_that_is_stopped_before_its_time_limit_resumes_on_both_nodes(
    slurm: dict[str, str], config: RunConfig, tmp_path: Path
) -> None:
    config = replace(
        config,
        optim=replace(config.optim, max_steps=NUM_STEPS),
        checkpoint=replace(config.checkpoint, every_steps=0),  # so that only the signal has saved one
    )
    job = Job(slurm, tmp_path, "--config", write_config(config, tmp_path))
    job.wait_for(rf"(?m)^step {STOPPED_AT}/")
    job.signal("TERM")
    shown = job.ended()
    out = job.out.read_text()
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"], shown["NumNodes"]) == (
        "COMPLETED",
        "0:0",
        "1",
        "2",
    ), out
    assert "slurm.sh: stopped with 143; queues again" in out
    assert "slurm.sh: resumes " in out
    recorded = only_run(config.tracking.uri, config.tracking.experiment)
    assert_each_once(recorded, NUM_STEPS)
    (resumed_at,) = recorded.values("train/resumed_at")
    assert STOPPED_AT <= resumed_at < NUM_STEPS


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["town", "--optim.lr", "-1"], 2, "optim.lr"),
        (["town", "--data.uri", "/no/such/data"], 1, "/no/such/data"),
        (["town", "--resume", "x"], 1, "are this script's own"),
    ],
)
def test_a_job_that_fails_has_the_exit_code_of_the_training(
    slurm: dict[str, str], tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    job = Job(slurm, tmp_path, *arguments, nodes=1)
    shown = job.ended()
    out = job.out.read_text()
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("FAILED", f"{code}:0", "0"), out
    assert said in out
