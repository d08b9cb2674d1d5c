"""Runs distseg's programs as a user does: in processes of their own, apart from other Ray clusters of this machine.

plain_environment, alone    for programs that need no Ray
own_environment             for a program that starts a local Ray, although another may run here
ray_cluster                 two CPUs of Ray that several programs use one after the other
start, run                  a program in the background, or to its end
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.conftest import REPOSITORY, free_port, short_directory

PATIENCE_S = 900.0  # for what takes seconds on an idle machine


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    def printed(self, name: str) -> str:
        """The value of a line `name   value` of the output."""
        found = re.search(rf"^{re.escape(name)} +(\S+)$", self.out, re.MULTILINE)
        assert found, f"no {name!r} in the output:\n{self.out}\n{self.err}"
        return found[1]


@dataclass(frozen=True)
class Program:
    """A running program, the leader of a process group of its own."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def wait_for(self, pattern: str) -> None:
        """Until the output has a match; fails if the program ends without."""
        seen = self.ends_or_prints(pattern)
        assert seen, f"ended with {self.process.returncode} before {pattern!r}:\n{self.out}\n{self.err}"

    def ends_or_prints(self, pattern: str) -> bool:
        """Waits for either: whether the output has a match."""
        end_s = time.monotonic() + PATIENCE_S
        while True:
            has_ended = self.process.poll() is not None  # asked first: what it printed last is read below
            is_there = re.search(pattern, self.out) is not None
            if is_there or has_ended:
                return is_there
            assert time.monotonic() < end_s, f"no {pattern!r} in {PATIENCE_S:.0f} s:\n{self.out}\n{self.err}"
            time.sleep(0.05)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(rf"(?m)^step {step}/")

    def wait(self) -> Ended:
        self.process.wait(PATIENCE_S)
        return Ended(self.process.returncode, self.out, self.err)

    def kill_all(self) -> None:
        """SIGKILL to it and to all it started, as when the machine loses power."""
        kill_tree(self.process.pid)
        self.process.wait(PATIENCE_S)


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and its descendants, also to those born meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        root.suspend()  # so that it starts no more
        family = [*root.children(recursive=True), root]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)


@contextlib.contextmanager
def start(folder: Path, environment: Mapping[str, str], *arguments: str) -> Iterator[Program]:
    """`python -m ARGUMENTS…` in the background, its output in files of `folder`; nothing of it outlives the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL, process_group=0
        )
    program = Program(process, folder)
    try:
        yield program
    finally:
        program.kill_all()


def run(folder: Path, environment: Mapping[str, str], *arguments: str) -> Ended:
    with start(folder, environment, *arguments) as program:
        return program.wait()


def interrupt(program: Program) -> None:
    """Ctrl-C: SIGINT to the whole process group, as a terminal sends it."""
    os.killpg(program.process.pid, signal.SIGINT)


# ---- environments


def plain_environment() -> dict[str, str]:
    """This one without what leads to other servers and clusters."""
    theirs = ("AWS_", "MLFLOW_", "RAY_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return environment | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def alone() -> dict[str, str]:
    """For training in one process, without Ray: what torchrun would set."""
    single = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    return plain_environment() | single


_RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # its 15 starves workers beside other tests
}


@contextlib.contextmanager
def own_environment() -> Iterator[dict[str, str]]:
    """For a program that starts a local Ray although another may run here; its files are removed at the end."""
    folder = short_directory()
    try:
        yield plain_environment() | _RAY | {"RAY_ADDRESS": "local", "RAY_TMPDIR": str(folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ray_cluster(num_cpus: int = 2, *, dashboard: bool = False) -> Iterator[dict[str, str]]:
    """A Ray cluster on this machine, for programs that join it. The dashboard costs seconds."""
    folder, environment = short_directory(), plain_environment() | _RAY
    options = [
        "--head",
        "--block",
        f"--num-cpus={num_cpus}",
        "--num-gpus=0",
        f"--include-dashboard={str(dashboard).lower()}",
    ]
    try:
        with contextlib.ExitStack() as running:
            for attempt in range(3):  # Ray gives its own processes 30 s to start: too little on a crowded machine
                port, files = free_port(), folder / str(attempt)
                # The dashboard does not start where another cluster has its port, and its agent takes no jobs.
                own = [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-port={free_port()}"]
                places = [f"--port={port}", *own, f"--temp-dir={files}"]
                head = start(files, environment, "ray.scripts.scripts", "start", *options, *places)
                if running.enter_context(head).ends_or_prints("Ray runtime started"):
                    break
            yield environment | {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_TMPDIR": str(files)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def worker_pids(environment: Mapping[str, str], run_name: str) -> list[int]:
    """The processes of a run's newest worker group, by rank: Ray Train's controller notes them in its log."""
    name = f"ray-train-sys-controller-{run_name}.log"
    (log,) = Path(environment["RAY_TMPDIR"]).glob(f"**/session_latest/logs/train/{name}")
    newest = log.read_text().rpartition("Started training worker group")[2]
    members = re.findall(r"pid=(\d+)\) world_rank=(\d+)", newest)
    return [int(pid) for pid, rank in sorted(members, key=lambda member: int(member[1]))]
