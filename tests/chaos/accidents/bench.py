"""What the accidents happen to: a head and two workers as hosts of their own, S3, PostgreSQL, MLflow, a small town.

All of it is brought up once. `mend` makes it whole again after an accident that was not survived.
"""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import psutil  # type: ignore[import-untyped]
import pytest

from distseg.config import (
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
    TrackingConfig,
    model_config,
)
from tests import programs
from tests.conftest import (
    REPOSITORY,
    Service,
    make_bucket,
    mlflow_service,
    postgres_service,
    run_script,
    running_hosts,
    s3_service,
    short_directory,
    use_environment,
)

NUM_STEPS, SAVED_EVERY, EVALUATED_EVERY = 40, 10, 20
BATCH = 4
DISK_MIB = 256  # of a disk that becomes full
HOSTS = ("0", "1", "2")
PATIENT = {  # three checks of a second each, as cluster/local_hosts.sh has them, lose hosts of a machine that is busy
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "6",
}
NODE_ID = """
import sys, ray
head, address = sys.argv[1:]
ray.init(head, log_to_driver=False)  # a program on a worker may be connected to the head, so its own id is no answer
print(*[node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == address])
"""


class NotTriedError(Exception):
    """This machine lacks what an accident needs."""


@dataclass(frozen=True)
class Bench:
    hosts: dict[str, str]  # the environment of the cluster, and HOSTS_* of cluster/local_hosts.sh
    s3: Service
    postgres: Service
    mlflow: Service
    bucket: str  # s3://…
    shared: Path  # a small disk that all hosts have
    small_temporary: Path  # another, for temporary files
    folder: Path  # for what the jobs print

    # ---- hosts

    def host(self, command: str, *hosts: str) -> None:
        """A command of cluster/local_hosts.sh, for each of these hosts."""
        for number in hosts:
            run_script("cluster/local_hosts.sh", command, number, env=self.hosts)

    def on_host(self, host: str, *command: str) -> str:
        script = str(REPOSITORY / "cluster/local_hosts.sh")
        done = subprocess.run(
            [script, "exec", host, *command],
            env={**os.environ, **self.hosts},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def host_of(self, pid: int) -> str:
        """The number of the host that a process runs on."""
        name = subprocess.run(["ip", "netns", "identify", str(pid)], capture_output=True, text=True, check=True).stdout
        return name.strip().removeprefix(self.hosts["HOSTS_NAME"])

    def unplug(self, host: str, seconds: float) -> None:
        """Its cable is out for so long."""
        self.host("cut", host)
        time.sleep(seconds)
        self.host("heal", host)

    def join_again(self, *hosts: str) -> None:
        """After the cable is back: Ray gives up on a host that was cut off, which is then started by hand."""
        for number in hosts:
            until(functools.partial(self._has_given_up, number), "Ray on a host that was cut off does not end")
        self.host("start", *hosts)

    def _has_given_up(self, host: str) -> bool:
        script = str(REPOSITORY / "cluster/local_hosts.sh")
        status = subprocess.run([script, "status"], env={**os.environ, **self.hosts}, capture_output=True, text=True)
        return re.search(rf"^host {host} \S+ Ray stopped", status.stdout, re.MULTILINE) is not None

    def mend(self) -> None:
        """Plugs in all cables, ends all jobs, and starts Ray and the servers anew."""
        for host in HOSTS:
            self.full_speed(host)
        self.host("heal", *HOSTS)
        self.host("kill", *HOSTS)
        time.sleep(2.0)
        self.host("start", *HOSTS)
        for server in (self.s3, self.postgres, self.mlflow):
            server.call("start")  # nothing, where it runs

    def drain(self, host: str, notice_s: float) -> None:
        """Tells Ray that the host will be taken away, as a cloud's notice does."""
        net = self.hosts["HOSTS_NET"]
        head, address = f"{net}.10:6379", f"{net}.{10 + int(host)}"
        node = self.on_host("0", sys.executable, "-c", NODE_ID, head, address).split()[-1]
        which = ("--address", head, "--node-id", node, "--deadline-remaining-seconds", str(int(notice_s)))
        why = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "accident")
        self.on_host("0", sys.executable, "-m", "ray.scripts.scripts", "drain-node", *which, *why)

    def slow_link(self, host: str, rate: str) -> None:
        """Limits what the host sends (a token bucket of Linux's tc)."""
        limits = ("rate", rate, "burst", "64kb", "latency", "400ms")
        self.on_host(host, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *limits)

    def full_speed(self, host: str) -> None:
        with contextlib.suppress(AssertionError):  # it was not limited
            self.on_host(host, "tc", "qdisc", "del", "dev", "eth0", "root")

    # ---- servers

    @contextlib.contextmanager
    def forbidden(self, bucket: str, *actions: str) -> Iterator[None]:
        """The bucket has a policy that forbids this to everybody."""
        client = boto3.Session().client("s3")
        everybody = {"Effect": "Deny", "Principal": "*", "Resource": f"arn:aws:s3:::{bucket}/*"}
        denied = everybody | {"Action": [f"s3:{action}" for action in actions]}
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
        try:
            yield
        finally:
            client.delete_bucket_policy(Bucket=bucket)

    @contextlib.contextmanager
    def key_withdrawn(self) -> Iterator[None]:
        """That of jobs and MLflow."""
        self._s3_key("rm")
        try:
            yield
        finally:
            self._s3_key("create")

    def _s3_key(self, command: str) -> None:
        keys = self.s3.environment
        given = [f"--access-key={keys['AWS_ACCESS_KEY_ID']}", f"--secret-key={keys['AWS_SECRET_ACCESS_KEY']}"]
        admin = ["radosgw-admin", "--conf", str(self.s3.state / "ceph.conf"), "--name", "client.rgw.a"]
        subprocess.run(
            [*admin, "key", command, "--uid=distseg", "--key-type=s3", *given], check=True, capture_output=True
        )

    def kill_mlflow(self) -> None:
        os.killpg(int((self.mlflow.state / "pid").read_text()), signal.SIGKILL)

    def kill_postgres(self) -> None:
        """The server and all it has started."""
        programs.kill_tree(int((self.postgres.state / "data/postmaster.pid").read_text().split()[0]))

    # ---- jobs

    @property
    def environment(self) -> dict[str, str]:
        return programs.plain_environment() | self.hosts | self.servers

    @property
    def servers(self) -> dict[str, str]:
        """The variables that lead to S3 and MLflow."""
        return self.s3.environment | self.mlflow.environment

    def config(self, name: str) -> RunConfig:
        """PSPNet on a narrow ResNet-18, dropout on. In fp64, so that one worker and two agree to what is logged."""
        return RunConfig(
            name=name,
            model=model_config(backbone="resnet18", width=0.25),
            optim=OptimConfig(lr=0.01, head_lr_scale=1.0, max_steps=NUM_STEPS),
            data=DataConfig(
                uri=f"{self.bucket}/town", batch_size=BATCH, crop_px=(64, 64), num_threads=1, cache_bytes=0
            ),
            scaling=ScalingConfig(num_workers=2, min_workers=1),
            checkpoint=CheckpointConfig(uri=f"{self.bucket}/runs/{name}", every_steps=SAVED_EVERY),
            evaluate=EvaluateConfig(every_steps=EVALUATED_EVERY, overlays_per_condition=0),
            tracking=TrackingConfig(
                uri=self.mlflow.environment["MLFLOW_TRACKING_URI"],
                experiment=name,
                log_every_steps=1,
                log_model=False,
            ),
            precision="fp64",
        )

    def submit(
        self, folder: Path, variables: Mapping[str, str], *arguments: str
    ) -> "contextlib.AbstractContextManager[programs.Program]":
        """`python -m distseg.train ARGUMENTS…` as a job, with further variables."""
        named = [f"--env={name}" for name in self.servers] + [f"--env={n}={value}" for n, value in variables.items()]
        job = ("python", "-m", "distseg.train", *arguments)
        submit = ("cluster.submit", "--working-dir", str(REPOSITORY), *named, "--", *job)
        return programs.start(folder, self.environment, *submit)

    def worker_pids(self, run_name: str) -> list[int]:
        """By rank."""
        return programs.worker_pids({"RAY_TMPDIR": self.hosts["HOSTS_STATE"]}, run_name)


def until(condition: Callable[[], bool], otherwise: str, patience_s: float = 90.0) -> None:
    end_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end_s, otherwise
        time.sleep(0.2)


# ---- bringing it up


@contextlib.contextmanager
def ready(folder: Path) -> Iterator[Bench]:
    """`folder` keeps what jobs print; the environment of this process leads to S3 and MLflow during the block."""
    with contextlib.ExitStack() as up, pytest.MonkeyPatch.context() as patch:
        shared, temporary = (up.enter_context(_small_disk()) for _ in range(2))  # first: hosts see no later mounts
        for name, value in PATIENT.items():
            patch.setenv(name, value)
        hosts = up.enter_context(running_hosts())
        this_end = hosts["HOSTS_NET"] + ".1"
        s3 = up.enter_context(s3_service(this_end))
        postgres = up.enter_context(postgres_service())
        mlflow = up.enter_context(mlflow_service(this_end, postgres.environment | s3.environment))
        use_environment(s3.environment | mlflow.environment, patch)
        bench = Bench(hosts, s3, postgres, mlflow, make_bucket(), shared, temporary, folder)
        _pack_town(bench)
        yield bench


@contextlib.contextmanager
def _small_disk() -> Iterator[Path]:
    place = short_directory()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def _pack_town(bench: Bench) -> None:
    options = ("--out", f"{bench.bucket}/town", "--size", "64", "96", "--train", "36", "--val", "18")
    arguments = ("distseg.pack", "town", *options, "--num_processes", "1")
    packed = programs.run(bench.folder / "pack", bench.environment, *arguments)
    assert packed.code == 0, packed.err


# ---- what is done to processes and disks


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """A disk on which not a byte is free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def out_of_memory(pid: int) -> Iterator[None]:
    """A process that may have no more memory than it has: the kernel kills it when it wants more."""
    is_v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    group = Path("/sys/fs/cgroup", "" if is_v2 else "memory", f"accident-{os.getpid()}")
    group.mkdir()
    try:
        (group / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(1 << 20))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        until(lambda: not psutil.pid_exists(pid) or not (group / "cgroup.procs").read_text(), "it lives")
        group.rmdir()


def with_changes(config: RunConfig, changes: Mapping[str, object]) -> RunConfig:
    """{'checkpoint.uri': …} changed."""
    for name, value in changes.items():
        group, _, field = name.partition(".")
        config = replace(config, **{group: replace(getattr(config, group), **{field: value})})
    return config
