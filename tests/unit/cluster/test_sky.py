"""cluster/sky.yaml: field names of SkyPilot, commands that bash and distseg.train accept; a planted error is found.

SkyPilot itself is not installed here: its fields are the names in the schema of version 0.14.
"""

import copy
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from distseg import storage, train
from tests.conftest import REPOSITORY

FIELDS = {
    "task": {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "setup", "run", "file_mounts"},
    "resources": {"accelerators", "use_spot", "disk_size", "autostop", "infra", "cpus", "memory", "any_of"},
}

Task = dict[str, Any]


def load() -> Task:
    return dict(yaml.safe_load((REPOSITORY / "cluster/sky.yaml").read_text()))


def problems(task: Task) -> list[str]:
    return [text for check in (of_fields, of_money, of_secrets, of_commands) for text in check(task)]


def of_fields(task: Task) -> Iterator[str]:
    for name, part in (("task", task), ("resources", task["resources"])):
        for field in part.keys() - FIELDS[name]:
            yield f"{name}: SkyPilot has no field {field}"


def of_money(task: Task) -> Iterator[str]:
    resources = task["resources"]
    if not resources["use_spot"]:
        yield "machines have their full price"
    if not resources["autostop"]["down"] or resources["autostop"]["idle_minutes"] > 30:
        yield "idle machines stay"
    if resources["disk_size"] < 50:
        yield "the disk does not hold packages and shards"


def of_secrets(task: Task) -> Iterator[str]:
    for name, value in task["secrets"].items():
        if value is not None:
            yield f"{name} is written in the file"
    for name in task["envs"]:
        if re.search("KEY|SECRET|TOKEN|PASSWORD", name):
            yield f"{name} is no secret of SkyPilot"


def of_commands(task: Task) -> Iterator[str]:
    for part in ("setup", "run"):
        said = subprocess.run(["bash", "-n"], input=task[part], capture_output=True, text=True).stderr
        if said:
            yield f"{part}: {said.splitlines()[0]}"
    for variable in ("RAY_AUTH_MODE=token", "RAY_health_check_period_ms", "RAY_LOGGER_LEVEL=warning", "CHECKPOINTS"):
        if variable not in task["run"]:
            yield f"run: lacks {variable}"
    if "ray start --head --block" not in task["run"] or "trap 'kill" not in task["run"]:
        yield "run: the head's Ray outlives the training, so the others never end"
    words = shlex.split(task["envs"]["TRAINING"])
    if task["num_nodes"] > 1 and "MLFLOW_TRACKING_URI" not in task["envs"] and "--tracking.uri" not in words:
        yield "a training on several machines is refused without a tracking server"
    more = ["--checkpoint.uri", task["envs"]["CHECKPOINTS"], "--scaling.gpu", "True", "--scaling.num_workers", "2"]
    try:
        train.main([*words, *more, "--print-config"])
    except (Exception, SystemExit) as error:
        yield f"distseg.train refuses the arguments: {error}"
    for uri in (task["envs"]["CHECKPOINTS"], words[words.index("--data.uri") + 1] if "--data.uri" in words else ""):
        if not storage.is_s3(uri):
            yield f"{uri!r} is no place that all machines reach"


def test_nothing_is_wrong() -> None:
    assert problems(load()) == []


PLANTED: dict[str, Callable[[Task], Any]] = {
    "no field acelerators": lambda t: t["resources"].update(acelerators="A10G:1"),
    "no field node_count": lambda t: t.update(node_count=2),
    "full price": lambda t: t["resources"].update(use_spot=False),
    "idle machines stay": lambda t: t["resources"]["autostop"].update(down=False),
    "the disk": lambda t: t["resources"].update(disk_size=20),
    "is written in the file": lambda t: t["secrets"].update(RAY_AUTH_TOKEN="x"),
    "is no secret": lambda t: t["envs"].update(AWS_SECRET_ACCESS_KEY="x"),
    "run: bash": lambda t: t.update(run=t["run"].replace("\nfi\n", "\n")),
    "lacks RAY_AUTH_MODE": lambda t: t.update(run=t["run"].replace("RAY_AUTH_MODE=token", "")),
    "others never end": lambda t: t.update(run=t["run"].replace("--head --block", "--head")),
    "without a tracking server": lambda t: t["envs"].pop("MLFLOW_TRACKING_URI"),
    "refuses the arguments": lambda t: t["envs"].update(TRAINING="pspnet_camvid --data.uri s3://b/c --no.such 1"),
    "no place": lambda t: t["envs"].update(CHECKPOINTS="/runs"),
}


@pytest.mark.parametrize("expected", PLANTED)
def test_a_planted_error_is_found(expected: str) -> None:
    task = copy.deepcopy(load())
    PLANTED[expected](task)
    found = problems(task)
    assert any(expected in text for text in found), found
