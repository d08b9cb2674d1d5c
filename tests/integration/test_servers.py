"""The servers that `infra` starts do their work together, and again after a restart."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

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
    # It knows the server's address, no credentials.
    done = subprocess.run([sys.executable, "-c", CLIENT], check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    run_id = done.stdout.split()[-1]
    use_environment(s3_server, monkeypatch)
    listed = boto3.client("s3").list_objects_v2(Bucket="mlflow")["Contents"]
    assert [Path(item["Key"]).name for item in listed if f"/{run_id}/" in item["Key"]] == ["note.txt"]


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
        assert psql(sourced(state / "s" / "env"), "select x from t").stdout.strip() == "7"
    finally:
        run_script("infra/postgres.sh", "wipe", env=settings)
        state.rmdir()


def psql(access: dict[str, str], statement: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["psql", "-Atc", statement], env={"PATH": "/usr/bin:/bin", **access}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("script", "variable"),
    [("infra/s3_server.sh", "S3"), ("infra/postgres.sh", "PG"), ("infra/mlflow_server.sh", "MLFLOW")],
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
        assert (state / "start0.log").read_text() == "the reason\n"
        assert (
            "no hosts"
            in subprocess.run([*script, "status"], env={**os.environ, **hosts}, capture_output=True, text=True).stdout
        )
    finally:
        run_script("cluster/local_hosts.sh", "down", env=hosts)
    assert not state.exists()
    state.parent.rmdir()
