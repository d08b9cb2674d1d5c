"""The manifests of cluster/kubernetes: valid for Kubernetes, in agreement with the code, and a planted error is found.

Pods are validated by kubernetes-validate, by Kubernetes' own schemas. KubeRay's schemas cannot be had from a package
registry: of its fields only the names are checked, against those in its reference (KubeRay 1.6). Patches are applied by
this file, not by kustomize.
"""

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import submit
from distseg import storage, train
from distseg.storage import s3_client
from tests.conftest import REPOSITORY, not_installed

FOLDER = REPOSITORY / "cluster" / "kubernetes"
VERSION = "1.34"
KUBERAY = {
    "RayCluster": {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "RayJob": {"clusterSelector", "submissionMode", "entrypoint", "runtimeEnvYAML", "backoffLimit"},
    "head": {"serviceType", "rayStartParams", "template"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
METRICS = 8080  # of Ray, set by KubeRay
UNITS = {"Gi": 1 << 30, "Mi": 1 << 20}

Manifests = dict[str, dict[str, Any]]  # by kind


# ---- what kubectl would apply


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def built(folder: Path) -> Manifests:
    """As `kubectl kustomize` builds it: resources, then patches of RFC 6902."""
    kustomization = load(folder / "kustomization.yaml")
    found: Manifests = {}
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        found |= built(path) if path.is_dir() else {(document := load(path))["kind"]: document}
    for patch in kustomization.get("patches", []):
        for operation in load(folder / patch["path"]):
            apply(operation, found[patch["target"]["kind"]])
    return found


def apply(operation: dict[str, Any], document: Any) -> None:
    *parents, last = [part.replace("~1", "/") for part in operation["path"].split("/")[1:]]
    for part in parents:
        document = document[int(part) if isinstance(document, list) else part]
    if isinstance(document, list):
        assert (operation["op"], last) == ("add", "-")
        document.append(operation["value"])
    else:
        assert operation["op"] == "add" or last in document, f"{operation['path']} is not there"
        document[last] = operation["value"]


def everything(overlay: str) -> Manifests:
    return copy.deepcopy(built(FOLDER / overlay) | {"RayJob": load(FOLDER / "rayjob.yaml")})


# ---- what may be wrong


def problems(manifests: Manifests) -> list[str]:
    return [text for check in (invalid, of_ray, of_pods, of_the_job, of_the_network) for text in check(manifests)]


def groups(manifests: Manifests) -> list[dict[str, Any]]:
    spec = manifests["RayCluster"]["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def invalid(manifests: Manifests) -> Iterator[str]:
    try:
        import kubernetes_validate
    except ImportError:
        not_installed("kubernetes-validate")
    named = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    pods = [named | {"spec": group["template"]["spec"]} for group in groups(manifests)]
    for document in [*pods, manifests["ConfigMap"], manifests["NetworkPolicy"]]:
        try:
            kubernetes_validate.validate(document, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{document['kind']}: {error}"


def of_ray(manifests: Manifests) -> Iterator[str]:
    cluster, job = manifests["RayCluster"]["spec"], manifests["RayJob"]["spec"]
    parts = [("RayCluster", cluster), ("RayJob", job), ("head", cluster["headGroupSpec"])]
    for name, part in [*parts, *(("worker", each) for each in cluster["workerGroupSpecs"])]:
        for field in part.keys() - KUBERAY[name]:
            yield f"{name}: KubeRay has no field {field}"
    pinned = re.search(r"^ray==(.*)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    if pinned is None or str(cluster["rayVersion"]) != pinned[1]:
        yield f"rayVersion {cluster['rayVersion']}: constraints.txt has another"
    if cluster["authOptions"] != {"mode": "token"}:
        yield "Ray answers without a token"
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{group['groupName']}: replicas are out of bounds"
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        if group["rayStartParams"].get("num-gpus") != limits.get("nvidia.com/gpu"):
            yield f"{group['groupName']}: Ray counts other GPUs than the pod gets"
    if job["clusterSelector"] != {"ray.io/cluster": manifests["RayCluster"]["metadata"]["name"]}:
        yield "the job selects another cluster"


def of_pods(manifests: Manifests) -> Iterator[str]:
    finding = re.findall(
        r"RAY_(?:health_check_\w+|LOGGER_LEVEL)(?==\")", (REPOSITORY / "cluster/local_hosts.sh").read_text()
    )
    for group in groups(manifests):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        name, resources = container["name"], container["resources"]
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        if mounted.get("/dev/shm", {}).get("medium") != "Memory":
            yield f"{name}: /dev/shm is the 64 MiB of a container"
        elif num_bytes(mounted["/dev/shm"]["sizeLimit"]) < 0.3 * num_bytes(resources["limits"]["memory"]):
            yield f"{name}: /dev/shm does not hold Ray's object store, 30% of the memory"
        if resources["limits"]["memory"] != resources["requests"]["memory"]:
            yield f"{name}: memory is promised that it does not have"
        if not pod["securityContext"]["runAsNonRoot"]:
            yield f"{name}: runs as root"
        for probe in ("readinessProbe", "livenessProbe"):
            if container[probe]["httpGet"] != {"path": "/api/local_raylet_healthz", "port": 52365}:
                yield f"{name}: {probe} asks where Ray's agent does not answer"
        given = {each["name"]: each["value"] for each in container["env"]}
        for variable in set(finding) - given.keys():
            yield f"{name}: lacks {variable}"
        for variable in given:
            if re.search("KEY|SECRET|TOKEN|PASSWORD", variable):
                yield f"{name}: {variable} is no reference to a Secret"
        sources = [(kind, source["name"]) for each in container["envFrom"] for kind, source in each.items()]
        if sorted(sources) != [("configMapRef", "distseg-settings"), ("secretRef", "distseg-s3")]:
            yield f"{name}: settings and credentials come from {sources}"
    for variable in manifests["ConfigMap"]["data"].keys() - {*s3_client._SETTINGS, "MLFLOW_TRACKING_URI"}:
        yield f"ConfigMap: distseg does not know {variable}"


def num_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def of_the_job(manifests: Manifests) -> Iterator[str]:
    spec = manifests["RayJob"]["spec"]
    words = shlex.split(spec["entrypoint"])
    if words[:3] != ["python", "-m", "distseg.train"]:
        yield f"the job runs {words[:3]}"
        return
    try:
        train.main([*words[3:], "--print-config"])
    except (Exception, SystemExit) as error:
        yield f"distseg.train refuses the arguments: {error}"
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    wanted = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(submit.STOP_WAIT_S)}
    if variables != wanted:
        yield f"the job is stopped otherwise than by cluster.submit: {variables}"


def of_the_network(manifests: Manifests) -> Iterator[str]:
    spec, name = manifests["NetworkPolicy"]["spec"], manifests["RayCluster"]["metadata"]["name"]
    if spec["podSelector"]["matchLabels"] != {"ray.io/cluster": name}:
        yield "NetworkPolicy: guards other pods"
    opened = {port["port"] for rule in spec["ingress"] for port in rule.get("ports", [])} - {METRICS}
    head = manifests["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    dashboard = {port["name"]: port["containerPort"] for port in head["ports"]}["dashboard"]
    if opened != {dashboard} or not submit.default_address().endswith(f":{dashboard}"):
        yield f"NetworkPolicy: opens {opened}, jobs are sent to {dashboard}"
    if any(not rule.get("from") for rule in spec["ingress"]):
        yield "NetworkPolicy: open to everybody"


# ---- tests


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("overlay", ["base", "overlays/gpu", "overlays/spot"])
def test_nothing_is_wrong(overlay: str) -> None:
    assert problems(everything(overlay)) == []


def worker(manifests: Manifests) -> dict[str, Any]:
    return dict(manifests["RayCluster"]["spec"]["workerGroupSpecs"][0])


def container(manifests: Manifests) -> dict[str, Any]:
    return dict(worker(manifests)["template"]["spec"]["containers"][0])


PLANTED: dict[str, Callable[[Manifests], Any]] = {
    "'nmae' was unexpected": lambda m: container(m)["env"].append({"nmae": "x", "name": "y", "value": "z"}),
    "is not of type": lambda m: container(m)["livenessProbe"].update(periodSeconds="often"),
    "no field minReplica": lambda m: m["RayCluster"]["spec"]["workerGroupSpecs"][0].update(minReplica=1),
    "no field entryPoint": lambda m: m["RayJob"]["spec"].update(entryPoint="x"),
    "constraints.txt has another": lambda m: m["RayCluster"]["spec"].update(rayVersion="2.9.0"),
    "without a token": lambda m: m["RayCluster"]["spec"].update(authOptions={"mode": "disabled"}),
    "out of bounds": lambda m: m["RayCluster"]["spec"]["workerGroupSpecs"][0].update(maxReplicas=1),
    "other GPUs": lambda m: container(m)["resources"]["limits"].update({"nvidia.com/gpu": "4"}),
    "another cluster": lambda m: m["RayJob"]["spec"].update(clusterSelector={"ray.io/cluster": "x"}),
    "64 MiB": lambda m: container(m)["volumeMounts"].pop(0),
    "30% of the memory": lambda m: worker(m)["template"]["spec"]["volumes"][0]["emptyDir"].update(sizeLimit="1Gi"),
    "it does not have": lambda m: container(m)["resources"]["limits"].update(memory="64Gi"),
    "runs as root": lambda m: worker(m)["template"]["spec"]["securityContext"].update(runAsNonRoot=False),
    "does not answer": lambda m: container(m)["readinessProbe"]["httpGet"].update(port=8265),
    "lacks RAY_health_check_period_ms": lambda m: container(m)["env"].pop(0),
    "no reference to a Secret": lambda m: container(m)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
    "credentials come from": lambda m: container(m)["envFrom"].pop(),
    "does not know AWS_ENDPOINT": lambda m: m["ConfigMap"]["data"].update(AWS_ENDPOINT="x"),
    "refuses the arguments": lambda m: m["RayJob"]["spec"].update(entrypoint="python -m distseg.train --no.such 1"),
    "the job runs": lambda m: m["RayJob"]["spec"].update(entrypoint="python train.py"),
    "stopped otherwise": lambda m: m["RayJob"]["spec"].update(runtimeEnvYAML="env_vars: {}"),
    "guards other pods": lambda m: m["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].update(app="x"),
    "jobs are sent to": lambda m: m["NetworkPolicy"]["spec"]["ingress"][1]["ports"][0].update(port=9999),
    "open to everybody": lambda m: m["NetworkPolicy"]["spec"]["ingress"][0].pop("from"),
}


@pytest.mark.parametrize("expected", PLANTED)
def test_a_planted_error_is_found(expected: str) -> None:
    manifests = everything("overlays/spot")
    PLANTED[expected](manifests)
    found = problems(manifests)
    assert any(expected in text for text in found), found


def test_a_patch_of_what_is_not_there_is_found() -> None:
    with pytest.raises(AssertionError, match="is not there"):
        apply({"op": "replace", "path": "/spec/workers", "value": 1}, {"spec": {}})


def test_the_places_in_the_job_are_ones_that_every_node_reaches() -> None:
    words = shlex.split(load(FOLDER / "rayjob.yaml")["spec"]["entrypoint"])
    assert all(storage.is_s3(words[words.index(field) + 1]) for field in ("--data.uri", "--checkpoint.uri"))
