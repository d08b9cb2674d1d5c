"""What may be wrong with infra/compose.yaml and infra/kubernetes: each check yields a line for each thing it finds."""

import functools
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.conftest import REPOSITORY, not_installed

INFRA = REPOSITORY / "infra"
COMPOSE = INFRA / "compose.yaml"
VERSION = "1.34"  # of Kubernetes
OURS = {"object-store": "s3_server.sh", "mlflow": "mlflow_server.sh"}  # started by a script, in an image of ours
PORTS = {"object-store": ("s3_server.sh", "S3"), "mlflow": ("mlflow_server.sh", "MLFLOW")}
PORTS |= {"prometheus": ("prometheus.sh", "PROMETHEUS")}
RUN_SECRETS = "/run/secrets/"


class Setup(NamedTuple):
    compose: dict[str, Any]  # as docker-compose understands it
    kubernetes: dict[tuple[str, str], dict[str, Any]]  # by kind and name
    kustomization: dict[str, Any]
    secrets: dict[str, str]  # by file
    datasource: dict[str, Any]
    dashboards: dict[str, Any]


def problems(setup: Setup) -> list[str]:
    checks = (of_images, of_ports, of_variables, of_secrets, of_grafana, of_manifests, of_pods, of_the_network)
    return [text for check in checks for text in check(setup)]


def of_images(setup: Setup) -> Iterator[str]:
    written = yaml.safe_load(COMPOSE.read_text())["services"]
    images = {each["name"]: f"{each['newName']}:{each['newTag']}" for each in setup.kustomization["images"]}
    for name, service in setup.compose["services"].items():
        if not re.fullmatch(r"\$\{[A-Z_]+_IMAGE:-[^}]+\}", written[name]["image"]):
            yield f"{name}: its image is no variable"
        if images.get(f"distseg-{name}" if name in OURS else name) != service["image"]:
            yield f"{name}: Kubernetes has another image than {service['image']}"
        if name in OURS:
            dockerfile = (REPOSITORY / service["build"]["dockerfile"]).read_text()
            if f"ARG BASE_IMAGE={service['build']['args']['BASE_IMAGE']}\n" not in dockerfile:
                yield f"{name}: its Dockerfile has another base image"
            if f'CMD ["/infra/{OURS[name]}", "run"]' not in dockerfile:
                yield f"{name}: its image does not run {OURS[name]}"


def port_of(name: str) -> str:
    """What infra/up.sh would start it at."""
    script, prefix = PORTS[name]
    found = re.search(rf"{prefix}_PORT:-(\d+)", (INFRA / script).read_text())
    assert found, script
    return found[1]


def of_ports(setup: Setup) -> Iterator[str]:
    for name, service in setup.compose["services"].items():
        for published in service.get("ports", []):
            address, port, inside = str(published).removesuffix("/tcp").rsplit(":", 2)
            if address != "127.0.0.1":
                yield f"{name}: published on {address}"
            if port != inside or (name in PORTS and port != port_of(name)):
                yield f"{name}: port {published}, by infra/up.sh {port_of(name)}"
            if setup.kubernetes["Service", name]["spec"]["ports"][0]["port"] != int(port):
                yield f"{name}: another port on Kubernetes"
    if "ports" in setup.compose["services"]["postgres"]:
        yield "postgres: published, although MLflow alone needs it"


def of_variables(setup: Setup) -> Iterator[str]:
    spec = importlib.util.find_spec("mlflow.environment_variables")
    assert spec and spec.origin
    mlflows = Path(spec.origin).read_text()
    for name, script in OURS.items():
        text = (INFRA / script).read_text() + (mlflows if name == "mlflow" else "")
        for variable in setup.compose["services"][name]["environment"]:
            if not re.search(rf"\b{variable}\b", text):
                yield f"{name}: nobody knows {variable}"


def of_secrets(setup: Setup) -> Iterator[str]:
    for name, secret in setup.compose["secrets"].items():
        if Path(secret["file"]).name != name or name not in setup.secrets:
            yield f"infra/secrets.sh makes no {name}"
    for name, service in setup.compose["services"].items():
        given = {each["source"] for each in service.get("secrets", [])}
        for unknown in given - setup.compose["secrets"].keys():
            yield f"{name}: there is no secret {unknown}"
        for variable, value in service.get("environment", {}).items():
            if str(value).startswith(RUN_SECRETS):
                if value.removeprefix(RUN_SECRETS) not in given:
                    yield f"{name}: {variable} is a secret that it is not given"
            elif re.search("PASSWORD|SECRET|TOKEN|KEY", variable):
                yield f"{name}: {variable} is no reference to a secret"
    postgres = setup.compose["services"]["postgres"]["environment"]
    password = setup.secrets["postgres_password"].strip()
    uri = f"postgresql+psycopg2://{postgres['POSTGRES_USER']}:{password}@postgres:5432/{postgres['POSTGRES_DB']}\n"
    stores = setup.secrets["mlflow_stores"]
    if f"MLFLOW_BACKEND_STORE_URI={uri}" not in stores:
        yield "MLflow looks for another database"
    keys = dict(line.split() for line in setup.secrets["s3_keys"].splitlines())
    if f"AWS_ACCESS_KEY_ID={keys['access']} AWS_SECRET_ACCESS_KEY={keys['secret']}\n" not in stores:
        yield "MLflow has other keys of S3"
    if f"AWS_ENDPOINT_URL=http://object-store:{port_of('object-store')} " not in stores:
        yield "MLflow looks for another object store"


def of_grafana(setup: Setup) -> Iterator[str]:
    if setup.datasource["url"] != f"http://prometheus:{port_of('prometheus')}":
        yield "Grafana looks for another Prometheus"
    mounts = [str(volume).split(":") for volume in setup.compose["services"]["grafana"]["volumes"]]
    if [Path(source).name for source, target, *_ in mounts if Path(target).parent == folder(setup)] != ["distseg.json"]:
        yield "Grafana looks for its dashboards elsewhere"
    for name, service in setup.compose["services"].items():
        for volume in service["volumes"]:
            source = str(volume).split(":")[0]
            if source.startswith(str(REPOSITORY)) and not Path(source).exists():
                yield f"{name}: there is no {source}"


def folder(setup: Setup) -> Path:
    return Path(setup.dashboards["options"]["path"])


@functools.cache  # takes most of the time here
def invalid(document: str) -> str:
    try:
        import kubernetes_validate
    except ImportError:
        not_installed("kubernetes-validate")
    try:
        kubernetes_validate.validate(json.loads(document), VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


def of_manifests(setup: Setup) -> Iterator[str]:
    for (kind, name), document in setup.kubernetes.items():
        if complaint := invalid(json.dumps(document)):
            yield f"{kind} {name}: {complaint}"
    for generated in setup.kustomization["configMapGenerator"]:
        for file in generated["files"]:
            if not (INFRA / file.rpartition("=")[2]).exists():
                yield f"{generated['name']}: there is no {file}"


def of_pods(setup: Setup) -> Iterator[str]:
    config_maps = {generated["name"] for generated in setup.kustomization["configMapGenerator"]}
    for name, service in setup.compose["services"].items():
        pod = setup.kubernetes["StatefulSet", name]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        if pod.get("enableServiceLinks") is not False:
            yield f"{name}: gets MLFLOW_PORT=tcp://… of Kubernetes"
        if not pod["securityContext"]["runAsNonRoot"] or pod["automountServiceAccountToken"]:
            yield f"{name}: may do more than it needs"
        if name in OURS and f"\nUSER {pod['securityContext']['runAsUser']}\n" not in dockerfile_of(service):
            yield f"{name}: another user than the image's"
        if container["ports"][0]["containerPort"] != setup.kubernetes["Service", name]["spec"]["ports"][0]["port"]:
            yield f"{name}: its service has another port"
        given = {each["name"]: each["value"].replace("/run/secrets/distseg/", RUN_SECRETS) for each in env(container)}
        only_here = {"S3_GIB", "PGDATA", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"}  # these and the hosts differ
        for variable in sorted((given.keys() ^ service.get("environment", {}).keys()) - only_here):
            yield f"{name}: {variable} is not in both, compose and Kubernetes"
        for variable, value in given.items():
            if (
                variable not in only_here | {"MLFLOW_SERVER_ALLOWED_HOSTS"}
                and service["environment"].get(variable) != value
            ):
                yield f"{name}: {variable} is {value}"
        sources = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in sources.values():
            for item in volume.get("secret", {}).get("items", []):
                if item["key"] not in setup.secrets:
                    yield f"{name}: infra/secrets.sh makes no {item['key']}"
            if "configMap" in volume and volume["configMap"]["name"] not in config_maps:
                yield f"{name}: there is no ConfigMap {volume['configMap']['name']}"
        claimed = {
            each["metadata"]["name"] for each in setup.kubernetes["StatefulSet", name]["spec"]["volumeClaimTemplates"]
        }
        for mount in container["volumeMounts"]:
            if mount["name"] not in sources.keys() | claimed:
                yield f"{name}: there is no volume {mount['name']}"


def env(container: dict[str, Any]) -> list[dict[str, str]]:
    return list(container.get("env", []))


def dockerfile_of(service: dict[str, Any]) -> str:
    return Path(REPOSITORY, service["build"]["dockerfile"]).read_text()


def of_the_network(setup: Setup) -> Iterator[str]:
    for name in setup.compose["services"]:
        policy = setup.kubernetes.get(("NetworkPolicy", name))
        if policy is None or policy["spec"]["podSelector"] != {"matchLabels": {"app": name}}:
            yield f"{name}: open to everybody"
            continue
        for rule in policy["spec"].get("ingress", []):
            if not rule.get("from"):
                yield f"{name}: open to everybody"
            if [each["port"] for each in rule["ports"]] != [
                setup.kubernetes["Service", name]["spec"]["ports"][0]["port"]
            ]:
                yield f"{name}: its network policy opens another port"
    config = yaml.safe_load((INFRA / "kubernetes/prometheus.yml").read_text())
    (asked,) = config["scrape_configs"][0]["dns_sd_configs"]
    metrics = setup.kubernetes["Service", asked["names"][0]]["spec"]
    if metrics["ports"][0]["port"] != asked["port"] or metrics.get("clusterIP") != "None":
        yield "Prometheus does not find Ray's pods"
    cluster = yaml.safe_load((REPOSITORY / "cluster/kubernetes/base/raycluster.yaml").read_text())
    if metrics["selector"] != {"ray.io/cluster": cluster["metadata"]["name"]}:
        yield "Prometheus asks another cluster"
