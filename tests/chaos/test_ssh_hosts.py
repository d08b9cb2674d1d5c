"""cluster/ssh.yaml on a head and a worker with real sshd: up, a job, a worker and a head that come back, down."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import programs
from tests.chaos.conftest import NIGHTLY_ON_HOSTS
from tests.conftest import REPOSITORY, free_network, lacking, run_script, short_directory, sourced

pytestmark = NIGHTLY_ON_HOSTS

SUPERVISED = {"/raylet ", "/gcs_server ", "/ssh.sh loop"}

JOB = """
import logging, sys, time
import ray

ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
known, patience_s = sys.argv[1], float(sys.argv[2])
end_s = time.monotonic() + patience_s
def joined():
    return [n["NodeID"] for n in ray.nodes() if n["Alive"] and "CPU" in n["Resources"] and n["NodeID"] != known]

while not joined():
    assert time.monotonic() < end_s, "no worker has joined"
    time.sleep(0.2)
where = ray.remote(num_cpus=1)(lambda: ray.get_runtime_context().get_node_id())
assert ray.get(where.remote()) == joined()[0]
print("worker", joined()[0])
"""


GREETING = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    print(server.accept()[1][0])
"""


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    with brought_up() as hosts:
        yield hosts


@contextlib.contextmanager
def brought_up(**settings: str) -> Iterator[dict[str, str]]:
    if os.geteuid() != 0:
        lacking("network namespaces, which need root")
    for program in ("ip", "sshd", "ssh", "rsync"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
            lacking(f"{program} (hosts by ssh)")
    parent = short_directory()
    state = parent / "h"
    name = f"s{os.getpid() % 10**7}"
    hosts = {"HOSTS_STATE": str(state), "HOSTS_NET": free_network(), "HOSTS_NAME": name, "HOSTS_SSH": "1", **settings}
    try:
        run_script("cluster/local_hosts.sh", "up", "1", env=hosts)
        yield hosts
    finally:
        run_script("cluster/local_hosts.sh", "down", env=hosts)
        shutil.rmtree(parent, ignore_errors=True)


class Cluster:
    """What a user does who has edited ssh.yaml."""

    def __init__(self, hosts: dict[str, str], folder: Path) -> None:
        self._hosts, self._folder = hosts, folder
        self._head, self._worker = (f"{hosts['HOSTS_NET']}.{number}" for number in (10, 11))
        self._yaml = folder / "ssh.yaml"
        settings = yaml.safe_load((REPOSITORY / "cluster/ssh.yaml").read_text())
        settings["provider"] |= {"head_ip": self._head, "worker_ips": [self._worker]}
        settings["auth"] = {"ssh_user": "root", "ssh_private_key": f"{hosts['HOSTS_STATE']}/key"}
        settings["file_mounts"] = {"~/distseg/files": str(folder / "files")}
        settings["setup_commands"] = [f"ln -sfn {sys.prefix} ~/distseg/venv"]  # instead of gigabytes for each host
        settings["head_start_ray_commands"][0] += " --object-store-memory=100000000"
        settings["worker_start_ray_commands"][0] += " --object-store-memory=100000000 --num-cpus=1"
        self._yaml.write_text(yaml.safe_dump(settings))
        (folder / "job").mkdir()
        (folder / "job/job.py").write_text(JOB)
        self._environment = programs.plain_environment() | {
            "PYTHON": sys.executable,
            "SSH_FILES": str(folder / "files"),
            "RAY_TMPDIR": str(Path(hosts["HOSTS_STATE"]).parent),
            "PIP_NO_BUILD_ISOLATION": "0",  # setuptools is installed here
        }

    def _call(self, *command: str | Path, **more: str) -> str:
        with (self._folder / "out").open("w+") as output:  # a pipe would stay open for ssh's connections
            environment = self._environment | more
            done = subprocess.run(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=600,
            )
            output.seek(0)
            text = output.read()
        assert done.returncode == 0, text[-5000:]
        return text

    def up(self) -> None:
        self._call("cluster/ssh.sh", "prepare")
        self._call(sys.executable, "-m", "ray.scripts.scripts", "up", "-y", self._yaml)

    def down(self) -> None:
        text = self._call("cluster/ssh.sh", "down", self._yaml)
        assert text.index("does not matter") < text.index("ray: command not found")

    def worker(self, known: str = "none") -> str:
        """Ray's name of the worker, from a job that ran there; of one that joined after the `known` one was lost."""
        submit = ("-m", "cluster.submit", "--working-dir", self._folder / "job", "--")
        access = sourced(self._folder / "files/env") | {"RAY_API_SERVER_ADDRESS": f"http://{self._head}:8265"}
        text = self._call(sys.executable, *submit, "python", "job.py", known, str(programs.PATIENCE_S), **access)
        (line,) = [line for line in text.splitlines() if line.startswith("worker ")]
        return line.split()[1]

    def kill(self, host: int, name: str) -> None:
        address = (self._head, self._worker)[host]
        options = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
        self._call("ssh", "-i", f"{self._hosts['HOSTS_STATE']}/key", *options, f"root@{address}", f"pkill -KILL {name}")

    def running(self) -> set[str]:
        """What runs on the hosts of Ray and of its supervision."""
        commands = []
        for host in ("0", "1"):
            for pid in self._call("ip", "netns", "pids", self._hosts["HOSTS_NAME"] + host).split():
                with contextlib.suppress(OSError):  # it has ended
                    commands.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        return {part for part in SUPERVISED for command in commands if part in command}


def test_hosts_come_up_take_jobs_join_again_after_a_kill_and_go_down(hosts: dict[str, str], tmp_path: Path) -> None:
    cluster = Cluster(hosts, tmp_path)
    cluster.up()
    first = cluster.worker()
    state = Path(hosts["HOSTS_STATE"])
    assert all(list(state.glob(f"h{host}/ray/session_2*")) for host in (0, 1))  # each host has a disk of its own
    cluster.kill(1, "raylet")
    second = cluster.worker(known=first)
    assert second != first
    assert cluster.running() == SUPERVISED
    cluster.down()
    assert cluster.running() == set()


def test_with_internet_hosts_reach_what_this_machine_reaches_and_down_undoes_it() -> None:
    forwarded = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarded.read_text()
    with brought_up(HOSTS_INTERNET="1") as hosts, outside(hosts["HOSTS_NET"].replace(".77", ".78")) as (net, space):
        assert hosts["HOSTS_NET"] in rules() and forwarded.read_text() == "1\n"
        command = ["ip", "netns", "exec", space, sys.executable, "-c", GREETING, f"{net}.2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                port = server.stdout.readline().strip()
                run_script(
                    "cluster/local_hosts.sh", "exec", "0", "bash", "-c", f"exec 3<>/dev/tcp/{net}.2/{port}", env=hosts
                )
                assert server.stdout.read() == f"{net}.1\n", "it has no way back to a host's own address"
            finally:
                server.kill()
    assert hosts["HOSTS_NET"] not in rules() and forwarded.read_text() == before


@contextlib.contextmanager
def outside(net: str) -> Iterator[tuple[str, str]]:
    """A machine, .2, that only this one, .1, is connected to."""
    space = f"o{os.getpid() % 10**7}"

    def call(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    call("netns", "add", space)
    try:
        call("link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
        call("addr", "add", f"{net}.1/24", "dev", space)
        call("link", "set", space, "up")
        call("-n", space, "addr", "add", f"{net}.2/24", "dev", "eth0")
        call("-n", space, "link", "set", "eth0", "up")
        yield net, space
    finally:
        call("netns", "del", space)


def rules() -> str:
    return subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True, text=True, check=True).stdout
