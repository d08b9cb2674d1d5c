"""The doctor on real hosts: sound ones pass; wrong credentials and missing variables are found; no secret is shown."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests import programs
from tests.conftest import REPOSITORY, make_bucket, use_environment

pytestmark = [pytest.mark.servers, pytest.mark.ray, pytest.mark.nightly]

CANARY = "canary0123456789"
AT_LEAST = ["--min-disk=0.01", "--min-bandwidth=0.1"]  # what this machine has is not what is tested


def examined(environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    ended = subprocess.run(
        [sys.executable, "-m", "cluster.doctor", "--json", *AT_LEAST, "--working-dir", str(REPOSITORY), *arguments],
        env=programs.plain_environment() | environment,
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert ended.stdout.startswith("{"), ended.stderr
    return ended.returncode, json.loads(ended.stdout), ended.stdout + ended.stderr


def failing(report: dict[str, Any]) -> dict[str, Any]:
    return {check["name"]: check for check in report["checks"] if check["status"] == "FAILED"}


@pytest.mark.timeout(1200)
def test_real_hosts(
    ray_hosts: dict[str, str],
    hosts_s3_server: dict[str, str],
    hosts_mlflow_server: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_environment(hosts_s3_server, monkeypatch)
    bucket = make_bucket()
    shell = ray_hosts | hosts_s3_server | hosts_mlflow_server
    passed_on = [f"--env={name}" for name in (*hosts_s3_server, *hosts_mlflow_server)]

    code, report, output = examined(shell, "--checkpoint", f"{bucket}/runs", *passed_on)
    seen = {check["name"]: check for check in report["checks"]}
    assert (code, report["ok"]) == (0, True), failing(report)
    assert "machines: 3" in seen["cluster"]["seen"]
    assert "workers: 2, machines: 2" in seen["all-reduce"]["seen"]
    for name in ("checkpoints, boto3", "checkpoints, Ray Train", "checkpoints, Ray Tune's pyarrow", "MLflow"):
        assert len(seen[name]["where"]) == 4, seen[name]
    assert hosts_s3_server["AWS_SECRET_ACCESS_KEY"] not in output

    wrong = shell | {"AWS_SECRET_ACCESS_KEY": CANARY}
    code, report, output = examined(wrong, "--checkpoint", f"{bucket}/runs", "--env=AWS_ENDPOINT_URL")
    assert (code, report["ok"]) == (1, False)
    found = failing(report)
    assert {"checkpoints, boto3", "checkpoints, Ray Train", "checkpoints, Ray Tune's pyarrow"} == found.keys()
    said = [check["seen"] for check in report["checks"] if check["name"] == "checkpoints, boto3"]
    assert any("wrong credentials" in text for text in said), said  # from here
    assert any("no credentials" in text for text in said), said  # from the hosts
    assert CANARY not in output
