"""infra/compose.yaml and infra/kubernetes: valid, in agreement with the scripts that infra/up.sh starts, with each
other and with the secrets that infra/secrets.sh makes up; a planted error is found.

docker-compose validates the one, kubernetes-validate and promtool the other. Neither starts anything.
"""

import copy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import lacking
from tests.unit.cluster.infra_checks import COMPOSE, INFRA, Setup, problems


def docker_compose(file: Path) -> "subprocess.CompletedProcess[str]":
    if not shutil.which("docker-compose"):
        lacking("docker-compose")
    command = ["docker-compose", "--project-directory", str(INFRA), "-f", str(file), "config"]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    understood = docker_compose(COMPOSE)
    assert (understood.returncode, understood.stderr) == (0, "")
    made = tmp_path_factory.mktemp("made") / "secrets"
    script = [str(INFRA / "secrets.sh")]
    subprocess.run(script, env={"PATH": "/usr/bin:/bin", "INFRA_SECRETS": str(made)}, check=True, capture_output=True)
    kustomization = yaml.safe_load((INFRA / "kustomization.yaml").read_text())
    documents = [each for name in kustomization["resources"] for each in yaml.safe_load_all((INFRA / name).read_text())]
    grafana = INFRA / "grafana"
    return Setup(
        yaml.safe_load(understood.stdout),
        {(each["kind"], each["metadata"]["name"]): each for each in documents},
        kustomization,
        {path.name: path.read_text() for path in made.iterdir() if path.is_file()},
        yaml.safe_load((grafana / "datasources.yaml").read_text())["datasources"][0],
        yaml.safe_load((grafana / "dashboards.yaml").read_text())["providers"][0],
    )


@pytest.fixture
def setup(sound: Setup) -> Setup:
    return copy.deepcopy(sound)


def test_nothing_is_wrong(setup: Setup) -> None:
    assert problems(setup) == []


def server(setup: Setup, name: str) -> dict[str, Any]:
    found: dict[str, Any] = setup.compose["services"][name]
    return found


def pod(setup: Setup, name: str) -> dict[str, Any]:
    found: dict[str, Any] = setup.kubernetes["StatefulSet", name]["spec"]["template"]["spec"]
    return found


PLANTED: dict[str, Callable[[Setup], Any]] = {
    "Kubernetes has another image": lambda s: server(s, "grafana").update(image="grafana/grafana:latest"),
    "another base image": lambda s: server(s, "mlflow")["build"]["args"].update(BASE_IMAGE="python:3.12"),
    "published on 0.0.0.0": lambda s: server(s, "grafana").update(ports=["0.0.0.0:3000:3000/tcp"]),
    "by infra/up.sh 5000": lambda s: server(s, "mlflow").update(ports=["127.0.0.1:5001:5000/tcp"]),
    "MLflow alone needs it": lambda s: server(s, "postgres").update(ports=["127.0.0.1:5432:5432/tcp"]),
    "nobody knows S3_BUCKET": lambda s: server(s, "object-store")["environment"].update(S3_BUCKET="x"),
    "nobody knows MLFLOW_WORKER": lambda s: server(s, "mlflow")["environment"].update(MLFLOW_WORKER="2"),
    "secrets.sh makes no s3_key": lambda s: s.compose["secrets"].update(s3_key={"file": "/x/s3_key"}),
    "no secret s3_key": lambda s: server(s, "object-store")["secrets"].append({"source": "s3_key"}),
    "it is not given": lambda s: server(s, "mlflow")["secrets"].pop(),
    "no reference to a secret": lambda s: server(s, "postgres")["environment"].update(POSTGRES_PASSWORD="hunter2"),
    "another database": lambda s: server(s, "postgres")["environment"].update(POSTGRES_DB="tracking"),
    "other keys of S3": lambda s: s.secrets.update(s3_keys="access a\nsecret b\n"),
    "another object store": lambda s: s.secrets.update(mlflow_stores="AWS_ENDPOINT_URL=http://s3:9000 "),
    "another Prometheus": lambda s: s.datasource.update(url="http://localhost:9090"),
    "its dashboards elsewhere": lambda s: s.dashboards["options"].update(path="/var/lib/grafana"),
    "there is no": lambda s: server(s, "prometheus")["volumes"].append(f"{INFRA}/prometheus.yaml:/x:ro"),
    "'imaeg' was unexpected": lambda s: pod(s, "mlflow")["containers"][0].update(imaeg="x"),
    "gets MLFLOW_PORT": lambda s: s.kubernetes["StatefulSet", "mlflow"]["spec"]["template"]["spec"].pop(
        "enableServiceLinks"
    ),
    "more than it needs": lambda s: pod(s, "postgres")["securityContext"].update(runAsNonRoot=False),
    "another user than": lambda s: pod(s, "mlflow")["securityContext"].update(runAsUser=0),
    "its service has another port": lambda s: pod(s, "grafana")["containers"][0]["ports"][0].update(containerPort=80),
    "another port on Kubernetes": lambda s: s.kubernetes["Service", "mlflow"]["spec"]["ports"][0].update(port=80),
    "is not in both": lambda s: pod(s, "mlflow")["containers"][0]["env"].pop(0),
    "POSTGRES_DB is x": lambda s: pod(s, "postgres")["containers"][0]["env"][1].update(value="x"),
    "secrets.sh makes no keys": lambda s: pod(s, "mlflow")["volumes"][0]["secret"]["items"][0].update(key="keys"),
    "no ConfigMap prometheus": lambda s: pod(s, "prometheus")["volumes"][0]["configMap"].update(name="prometheus"),
    "there is no volume data": lambda s: pod(s, "grafana")["containers"][0]["volumeMounts"][0].update(name="data"),
    "there is no grafana/panels.json": lambda s: s.kustomization["configMapGenerator"][1]["files"].append(
        "grafana/panels.json"
    ),
    "postgres: open to everybody": lambda s: s.kubernetes.pop(("NetworkPolicy", "postgres")),
    "opens another port": lambda s: s.kubernetes["NetworkPolicy", "mlflow"]["spec"]["ingress"][0]["ports"][0].update(
        port=1
    ),
    "does not find Ray's pods": lambda s: s.kubernetes["Service", "distseg-metrics"]["spec"].pop("clusterIP"),
    "asks another cluster": lambda s: s.kubernetes["Service", "distseg-metrics"]["spec"].update(
        selector={"app": "ray"}
    ),
}


@pytest.mark.parametrize("expected", PLANTED)
def test_a_planted_error_is_found(expected: str, setup: Setup) -> None:
    PLANTED[expected](setup)
    found = problems(setup)
    assert any(expected in text for text in found), found


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        ("    healthcheck:", "    healthchek:", "healthchek"),
        ("restart: unless-stopped", "restart: [always]", "contains an invalid type"),
        ('["object-store:/state"]', '["objects:/state"]', "objects"),
        ("interval: 5s", "interval: 5 apples", "interval"),
        ("postgres: { condition", "postgresql: { condition", "postgresql"),
    ],
)
def test_docker_compose_finds_a_planted_error(good: str, bad: str, expected: str, tmp_path: Path) -> None:
    text = COMPOSE.read_text()
    assert good in text
    (tmp_path / "compose.yaml").write_text(text.replace(good, bad, 1))
    done = docker_compose(tmp_path / "compose.yaml")
    assert (done.returncode, expected in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("file", ["prometheus.yml", "kubernetes/prometheus.yml"])
def test_promtool_accepts_the_file_and_finds_a_planted_error(file: str, tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        lacking("promtool (prometheus)")
    for replaced, code in (("scrape_interval: 10s", 0), ("scrape_intervall: 10s", 1)):
        (tmp_path / "p.yml").write_text((INFRA / file).read_text().replace("scrape_interval: 10s", replaced))
        done = subprocess.run(["promtool", "check", "config", tmp_path / "p.yml"], capture_output=True, text=True)
        assert done.returncode == code, done.stderr


def test_secrets_are_made_up_once_for_their_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "s"

    def made() -> dict[str, str]:
        environment = {"PATH": "/usr/bin:/bin", "INFRA_SECRETS": str(place)}
        done = subprocess.run([INFRA / "secrets.sh"], env=environment, capture_output=True, text=True, check=True)
        found = {path.name: path.read_text() for path in place.rglob("*") if path.is_file()}
        passwords = [text.strip() for name, text in found.items() if name.endswith("password")]
        assert len(set(passwords)) == 3 and not any(text in done.stdout + done.stderr for text in passwords)
        return found

    found = made()
    assert made() == found
    assert place.stat().st_mode & 0o777 == 0o700
    assert (place / "client/env").stat().st_mode & 0o777 == 0o600
    assert f"MLFLOW_TRACKING_PASSWORD={found['mlflow_password'].strip()}\n" in found["env"]
