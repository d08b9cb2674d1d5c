"""The servers that `infra` starts do their work together, and again after a restart."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import requests

from distseg import tracking
from distseg.errors import TrackingError
from tests.conftest import (
    REPOSITORY,
    free_network,
    free_port,
    lacking,
    run_script,
    short_directory,
    sourced,
    use_environment,
)

pytestmark = pytest.mark.servers

# In a process of its own: MLflow keeps settings and threads.
CLIENT = """
import mlflow, sys
mlflow.set_experiment("servers")
with mlflow.start_run() as run:
    mlflow.log_metric("val/mIoU", 0.5)
    mlflow.log_text("by way of the server", "note.txt")
found = mlflow.get_run(run.info.run_id)
assert found.data.metrics == {"val/mIoU": 0.5}
assert mlflow.artifacts.load_text(found.info.artifact_uri + "/note.txt") == "by way of the server"
print(run.info.run_id)
"""


def test_mlflow_keeps_metrics_in_postgres_and_artifacts_in_s3(
    tracking_uri: str, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It knows the server's address, user and password, no credentials of S3.
    done = subprocess.run([sys.executable, "-c", CLIENT], check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    run_id = done.stdout.split()[-1]
    use_environment(s3_server, monkeypatch)
    listed = boto3.client("s3").list_objects_v2(Bucket="mlflow")["Contents"]
    assert [Path(item["Key"]).name for item in listed if f"/{run_id}/" in item["Key"]] == ["note.txt"]


def test_mlflow_asks_for_a_password_and_keeps_it_to_itself(
    mlflow_server: dict[str, str], tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, password = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), os.environ["MLFLOW_TRACKING_PASSWORD"]
    assert requests.get(f"{tracking_uri}/health", timeout=60).status_code == 200
    listing = f"{tracking_uri}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(listing, timeout=60).status_code == 401
    assert requests.get(listing, auth=("admin", password), timeout=60).status_code == 200
    made_up = {"username": "reviewer", "password": "long-enough-for-mlflow"}
    new_user = f"{tracking_uri}/api/2.0/mlflow/users/create"
    assert requests.post(new_user, json=made_up, timeout=60).status_code == 401, "nobody makes a user of himself"

    tracking.try_out(tracking_uri, "asked")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(names[1], "not-this-one")
    assert refusal(tracking_uri).endswith(f"refuses this user and password (401): correct {names[0]} and {names[1]}")
    monkeypatch.delenv(names[1])
    assert f"set {names[1]}, too" in refusal(tracking_uri)
    monkeypatch.delenv(names[0])
    assert f"set {names[0]} and {names[1]}, or MLFLOW_TRACKING_TOKEN" in refusal(tracking_uri)
    (tmp_path / ".mlflow").mkdir()
    file = tmp_path / ".mlflow/credentials"
    file.write_text(f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {password}\n")
    tracking.try_out(tracking_uri, "asked")
    file.write_text("[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = not-this-one\n")
    assert "correct ~/.mlflow/credentials" in refusal(tracking_uri)

    state = Path(mlflow_server["MLFLOW_STATE"])
    holding = {
        path.name: path.stat().st_mode & 0o777 for path in state.iterdir() if password in path.read_text("latin1")
    }
    assert holding == {"password": 0o600, "auth.ini": 0o600, "env": 0o600}
    assert state.stat().st_mode & 0o777 == 0o700
    assert "GET /health" in (state / "server.log").read_text(), "where it would be"
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert password.encode() not in process.read_bytes()


def refusal(uri: str) -> str:
    """Of one line."""
    with pytest.raises(TrackingError) as caught:
        tracking.try_out(uri, "asked")
    assert "\n" not in str(caught.value) and "not-this-one" not in str(caught.value)
    return str(caught.value)


@pytest.mark.ray
def test_servers_reach_the_hosts(
    ray_hosts: dict[str, str], hosts_s3_server: dict[str, str], hosts_mlflow_server: dict[str, str]
) -> None:
    for url in (hosts_s3_server["AWS_ENDPOINT_URL"], hosts_mlflow_server["MLFLOW_TRACKING_URI"] + "/health"):
        for host in ("0", "1", "2"):
            run_script("cluster/local_hosts.sh", "exec", host, "curl", "-sf", "-m", "10", url, env=ray_hosts)


def test_postgres_asks_for_its_password_and_keeps_data(postgres: dict[str, str]) -> None:
    state = short_directory()
    state.chmod(0o755)
    settings = {"PG_STATE": str(state / "s"), "PG_PORT": str(free_port())}
    try:
        run_script("infra/postgres.sh", "start", env=settings)
        access = sourced(state / "s" / "env")
        assert psql(access, "create table t (x int); insert into t values (7)").returncode == 0
        refused = psql(access | {"PGPASSWORD": "wrong"}, "select 1")
        assert refused.returncode != 0
        assert "password authentication failed" in refused.stderr
        run_script("infra/postgres.sh", "stop", env=settings)
        run_script("infra/postgres.sh", "start", env=settings)
        access = sourced(state / "s" / "env")
        assert psql(access, "select x from t").stdout.strip() == "7"
        check_backup(settings, access, state / "backup")
    finally:
        run_script("infra/postgres.sh", "wipe", env=settings)
        shutil.rmtree(state)


def check_backup(settings: dict[str, str], access: dict[str, str], file: Path) -> None:
    """A table that is dropped comes back; a damaged file and a database in use change nothing."""
    script = [str(REPOSITORY / "infra/postgres.sh")]
    run_script("infra/postgres.sh", "backup", str(file), env=settings)
    assert file.stat().st_mode & 0o777 == 0o600
    assert psql(access, "drop table t; create table later (y int)").returncode == 0
    damaged = file.with_name("damaged")
    damaged.write_bytes(file.read_bytes()[:-40])
    for path, remedy in ((damaged, "the database is as it was"), (file.with_name("none"), "there is no file")):
        done = subprocess.run(
            [*script, "restore", path], env={**os.environ, **settings}, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert remedy in done.stderr
    assert psql(access, "select count(*) from later").stdout.strip() == "0"
    in_use = subprocess.Popen(["psql", "-c", "select pg_sleep(600)"], env={"PATH": "/usr/bin:/bin", **access})
    try:
        while psql(access, "select 1 from pg_stat_activity where query like '%pg_sleep(600)%'").stdout.count("1") < 2:
            assert in_use.poll() is None
        done = subprocess.run(
            [*script, "restore", file], env={**os.environ, **settings}, capture_output=True, text=True
        )
        assert (done.returncode, "stop MLflow first" in done.stderr) == (1, True), done.stderr
    finally:
        in_use.kill()
        in_use.wait()
    psql(
        access | {"PGDATABASE": "postgres"},
        "select pg_terminate_backend(pid) from pg_stat_activity where query like '%(600)'",
    )
    run_script("infra/postgres.sh", "restore", str(file), env=settings)
    assert psql(access, "select x from t").stdout.strip() == "7"
    assert psql(access, "select count(*) from later").returncode != 0
    kept = psql(access, "select datname from pg_database where datname like 'mlflow_until_%'").stdout.strip()
    assert psql(access | {"PGDATABASE": kept}, "select count(*) from later").stdout.strip() == "0"


def psql(access: dict[str, str], statement: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["psql", "-Atc", statement], env={"PATH": "/usr/bin:/bin", **access}, capture_output=True, text=True
    )


def test_prometheus_runs_on_loopback_and_keeps_its_log() -> None:
    if not shutil.which("prometheus"):
        lacking("Prometheus")
    state = short_directory()
    port = free_port()
    settings = {"PROMETHEUS_STATE": str(state / "s"), "PROMETHEUS_PORT": str(port)}
    try:
        for _ in range(2):  # the second time it runs already
            run_script("infra/prometheus.sh", "start", env=settings)
        listening = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True)
        assert [line.split()[3] for line in listening.stdout.splitlines()] == [f"127.0.0.1:{port}"]
        run_script("infra/prometheus.sh", "stop", env=settings)
        assert "Server is ready" in (state / "s/server.log").read_text()
    finally:
        run_script("infra/prometheus.sh", "wipe", env=settings)
        state.rmdir()


def test_s3_runs_as_in_a_container_with_keys_that_it_is_given_until_it_is_told_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("radosgw"):
        lacking("radosgw (a Ceph S3 server)")
    secrets, state, port = tmp_path / "secrets", short_directory() / "s", free_port(2)
    run_script("infra/secrets.sh", env={"INFRA_SECRETS": str(secrets)})
    settings = {"S3_STATE": str(state), "S3_PORT": str(port), "S3_KEYS": str(secrets / "s3_keys")}
    try:
        with (tmp_path / "out").open("w") as out:
            script = str(REPOSITORY / "infra/s3_server.sh")
            server = subprocess.Popen([script, "run"], env=os.environ | settings, stdout=out, stderr=out)
        end_s = time.monotonic() + 300
        while "next:" not in (tmp_path / "out").read_text():
            assert server.poll() is None and time.monotonic() < end_s, (tmp_path / "out").read_text()
            time.sleep(0.1)
        client = sourced(secrets / "client/env") | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        use_environment(client, monkeypatch)
        names = {each["Name"] for each in boto3.Session().client("s3").list_buckets()["Buckets"]}
        assert names == {"distseg", "mlflow"}
        server.terminate()
        assert server.wait(120) == 0
        status = subprocess.run([script, "status"], env=os.environ | settings, capture_output=True, text=True)
        assert (status.returncode, status.stdout.count("stopped")) == (1, 3)
    finally:
        run_script("infra/s3_server.sh", "wipe", env=settings)
        state.parent.rmdir()


def up(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "INFRA_STATE": str(folder / "state"), "CALLS": str(folder / "calls")}
    return subprocess.run([folder / "up.sh", *arguments], env=environment, capture_output=True, text=True)


def test_up_starts_the_servers_in_order_until_one_fails_and_down_stops_them_in_the_other(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "infra/up.sh", tmp_path)
    names = ["s3_server", "postgres", "mlflow_server", "prometheus"]
    for name in names:
        script = tmp_path / f"{name}.sh"
        script.write_text(f'#!/bin/sh\necho {name} $1 >>"$CALLS"\n[ ! -e "$0.fails" ]\n')
        script.chmod(0o755)
    calls = tmp_path / "calls"
    assert up(tmp_path).returncode == 0
    assert calls.read_text().splitlines() == [f"{name} start" for name in names]
    calls.unlink()
    assert up(tmp_path, "down").returncode == 0
    assert calls.read_text().splitlines() == [f"{name} stop" for name in reversed(names)]
    calls.unlink()
    (tmp_path / "postgres.sh.fails").touch()
    failed = up(tmp_path)
    assert (failed.returncode, "postgres did not start" in failed.stderr) == (1, True)
    assert calls.read_text().splitlines() == ["s3_server start", "postgres start"]
    assert (up(tmp_path, "status").returncode, up(tmp_path, "upp").returncode) == (1, 2)


@pytest.mark.parametrize(
    ("script", "variable"),
    [
        ("infra/s3_server.sh", "S3"),
        ("infra/postgres.sh", "PG"),
        ("infra/mlflow_server.sh", "MLFLOW"),
        ("infra/prometheus.sh", "PROMETHEUS"),
    ],
)
def test_a_directory_that_is_not_theirs_is_left_alone(script: str, variable: str, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = subprocess.run(
        [REPOSITORY / script, "wipe"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", f"{variable}_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "was not made by this script; left alone" in done.stderr
    assert (tmp_path / "precious").exists()


def test_hosts_that_do_not_come_up_leave_their_logs(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("ip"):
        lacking("network namespaces: root and iproute2")
    ray = tmp_path / "ray"
    ray.write_text("#!/bin/sh\necho 'the reason'\nexit 1\n")
    ray.chmod(0o755)
    state = short_directory() / "h"
    hosts = {"HOSTS_STATE": str(state), "HOSTS_NET": free_network(), "HOSTS_NAME": f"u{os.getpid() % 10**7}"}
    script = [str(REPOSITORY / "cluster/local_hosts.sh")]
    try:
        up = subprocess.run([*script, "up", "1"], env={**os.environ, **hosts, "RAY": str(ray)}, capture_output=True)
        assert up.returncode == 1
        assert f"see {state}/start0.log" in up.stderr.decode()
        log = (state / "start0.log").read_text().splitlines()
        assert log[::2] == ["the reason"] * 3, "of each attempt"
        assert (
            "no hosts"
            in subprocess.run([*script, "status"], env={**os.environ, **hosts}, capture_output=True, text=True).stdout
        )
    finally:
        run_script("cluster/local_hosts.sh", "down", env=hosts)
    assert not state.exists()
    state.parent.rmdir()
