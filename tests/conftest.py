"""Servers for tests. The scripts of `infra` and `cluster` start the real ones, once per session, on free ports.

    moto_s3         's3://…' of an empty bucket in an in-process imitation: fast, but it checks no credentials
    s3_server       environment of a real S3 server            s3_uri         's3://…' empty, environment set
    postgres        environment of a PostgreSQL server
    mlflow_server   environment of an MLflow server on both    tracking_uri   its address, environment set
                    with its user and password; MLFLOW_STATE is its directory
    ray_cluster     environment of a Ray cluster of this machine, with two CPUs and without a dashboard
    ray_hosts       environment of a Ray cluster of real hosts: a head and two workers
    hosts_s3_server, hosts_mlflow_server        the same servers where those hosts reach them

A test that uses a real one is marked `servers`. What a machine lacks skips the test with the remedy, or, where the
environment has CI set, fails it. The session's own environment is never changed: `monkeypatch` sets it per test.
"""

import contextlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # more threads than cores wait for each other, and busily
    os.environ["OMP_NUM_THREADS"] = "1"

# A shell's background job ignores Ctrl-C, and all that it starts would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first: they take longest, and one that begins last keeps a single core busy.

    Files that use a cluster of the whole session come last, those with several hosts at the very end: from its first
    use on its processes work, whoever uses it.
    """
    starts_processes = {"programs", "ranks"}
    clusters: dict[Path, int] = {}
    for item in items:
        names = getattr(item, "fixturenames", ())
        clusters[item.path] = max(clusters.get(item.path, 0), 2 * ("ray_hosts" in names) or int("ray_cluster" in names))
    items.sort(key=lambda item: (clusters[item.path], starts_processes.isdisjoint(vars(getattr(item, "module", item)))))


# ---- an imitation


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto_s3(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    use_environment({"AWS_ENDPOINT_URL": moto_endpoint, **keys}, monkeypatch)
    return make_bucket()


# ---- real servers


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    with running_s3("127.0.0.1") as environment:
        yield environment


@pytest.fixture
def s3_uri(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    use_environment(s3_server, monkeypatch)
    return make_bucket()


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, str]]:
    with postgres_service() as started:
        yield started.environment


@pytest.fixture(scope="session")
def mlflow_server(postgres: dict[str, str], s3_server: dict[str, str]) -> Iterator[dict[str, str]]:
    with running_mlflow("127.0.0.1", postgres | s3_server) as environment:
        yield environment


@pytest.fixture
def tracking_uri(mlflow_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    use_environment(mlflow_server, monkeypatch)
    return mlflow_server["MLFLOW_TRACKING_URI"]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[dict[str, str]]:
    """For programs that join it one after the other."""
    from tests import programs

    with programs.ray_cluster() as environment:
        yield environment


@pytest.fixture(scope="session")
def ray_hosts() -> Iterator[dict[str, str]]:
    """Also holds HOSTS_*, with which `cluster/local_hosts.sh kill 1` and its like find these hosts."""
    with running_hosts() as environment:
        yield environment


@pytest.fixture(scope="session")
def hosts_s3_server(ray_hosts: dict[str, str]) -> Iterator[dict[str, str]]:
    with running_s3(ray_hosts["HOSTS_NET"] + ".1") as environment:
        yield environment


@pytest.fixture(scope="session")
def hosts_mlflow_server(
    ray_hosts: dict[str, str], postgres: dict[str, str], hosts_s3_server: dict[str, str]
) -> Iterator[dict[str, str]]:
    with running_mlflow(ray_hosts["HOSTS_NET"] + ".1", postgres | hosts_s3_server) as environment:
        yield environment


@contextlib.contextmanager
def running_hosts() -> Iterator[dict[str, str]]:
    """A head and two workers in network namespaces: the environment of their cluster, and HOSTS_* of the script."""
    if os.geteuid() != 0:
        lacking("network namespaces, which need root")
    if not shutil.which("ip"):
        lacking("ip (iproute2)")
    state = short_directory()
    hosts = {"HOSTS_STATE": str(state / "h"), "HOSTS_NET": free_network(), "HOSTS_NAME": f"t{os.getpid() % 10**7}"}
    script = "cluster/local_hosts.sh"
    try:
        run_script(script, "up", "2", env=hosts)
        yield hosts | sourced(state / "h" / "env")
    finally:
        run_script(script, "down", env=hosts)
        shutil.rmtree(state, ignore_errors=True)


@contextlib.contextmanager
def running_s3(host: str) -> Iterator[dict[str, str]]:
    with s3_service(host) as started:
        yield started.environment


@contextlib.contextmanager
def running_mlflow(host: str, stores: dict[str, str]) -> Iterator[dict[str, str]]:
    with mlflow_service(host, stores) as started:
        yield {"MLFLOW_STATE": str(started.state)} | started.environment


def s3_service(host: str) -> "contextlib.AbstractContextManager[Service]":
    for program in ("radosgw", "ceph-mon", "ceph-osd", "ceph"):
        if not shutil.which(program):
            lacking(f"{program} (a Ceph S3 server)")
    return service("infra/s3_server.sh", "S3_STATE", S3_HOST=host, S3_PORT=str(free_port(2)))


def postgres_service() -> "contextlib.AbstractContextManager[Service]":
    if not shutil.which("initdb") and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        lacking("PostgreSQL (initdb)")
    return service("infra/postgres.sh", "PG_STATE", PG_PORT=str(free_port()))


def mlflow_service(host: str, stores: dict[str, str]) -> "contextlib.AbstractContextManager[Service]":
    place = {"MLFLOW_HOST": host, "MLFLOW_PORT": str(free_port())}
    return service("infra/mlflow_server.sh", "MLFLOW_STATE", **place, **stores)


@dataclass(frozen=True)
class Service:
    """A server that one of the scripts of `infra` has started, and can `stop` and `start` again."""

    script: str
    state: Path  # its directory
    settings: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """What its env file exports."""
        return sourced(self.state / "env")

    def call(self, *arguments: str) -> None:
        run_script(self.script, *arguments, env=self.settings)


@contextlib.contextmanager
def service(script: str, state_variable: str, **settings: str) -> Iterator[Service]:
    """Starts a server with a state directory of its own, which is removed with it."""
    parent = short_directory()
    parent.chmod(0o755)  # PostgreSQL runs as another user
    started = Service(script, parent / "state", {**settings, state_variable: str(parent / "state")})
    try:
        started.call("start")
        yield started
    finally:
        started.call("wipe")
        shutil.rmtree(parent, ignore_errors=True)


# ---- how it is done


def lacking(what: str) -> None:
    message = f"this machine lacks {what}; as root, run infra/install_debian.sh"
    pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


def not_installed(package: str) -> NoReturn:
    """For what the extra `dev` brings: an environment that was made before it did lacks it."""
    message = f"{package} is not installed; run make install"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def run_script(script: str, *arguments: str, env: dict[str, str]) -> None:
    """Output goes to a file, as a pipe would stay open for as long as the server lives."""
    with tempfile.TemporaryFile("w+") as output:
        command = [str(REPOSITORY / script), *arguments]
        done = subprocess.run(command, env={**os.environ, **env}, stdout=output, stderr=output, timeout=500)
        output.seek(0)
        assert done.returncode == 0, f"{script} {' '.join(arguments)} failed: {output.read()[-2000:]}"


def sourced(path: Path) -> dict[str, str]:
    """The variables of a file of `export A=1 B=2` lines."""
    words = [word for line in path.read_text().splitlines() for word in line.removeprefix("export ").split()]
    return dict(word.split("=", 1) for word in words)


def use_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`environment` and nothing else of AWS, MLflow and proxies, whatever the shell of the developer has."""
    for name in [n for n in os.environ if n.startswith(("AWS_", "MLFLOW_")) or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # asking a cloud that is not there takes seconds
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def use_s3_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that looks at no key."""
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "very-secret"}
    use_environment({"AWS_ENDPOINT_URL": endpoint, **keys}, monkeypatch)


def make_bucket() -> str:
    import boto3

    bucket = f"test-{uuid.uuid4().hex[:12]}"
    boto3.Session().client("s3").create_bucket(Bucket=bucket)  # not the default session: it keeps old credentials
    return f"s3://{bucket}"


def short_directory() -> Path:
    """Not pytest's tmp_path: the sockets that servers put there have names of at most 107 characters."""
    return Path(tempfile.mkdtemp(prefix="ds-", dir="/tmp"))


def free_port(count: int = 1) -> int:
    """The first of `count` neighbouring ports that nobody listens on, outside the range of outgoing connections."""
    for port in random.SystemRandom().sample(range(20000, 32000), 100):
        if all(is_free(port + i) for i in range(count)):
            return port
    raise OSError("no free port")


def free_network() -> str:
    """The first three numbers of a /24 that this machine has no address in; other clusters on it are left alone."""
    used = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout
    networks = [f"10.{i}.77" for i in range(100, 200)]
    return next(network for network in networks if f" {network}." not in used)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
