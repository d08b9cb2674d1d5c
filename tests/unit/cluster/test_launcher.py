"""Files for Ray's cluster launcher: valid by Ray's schema, in agreement with the code, and a planted error is found."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import ray
import yaml

from cluster import submit
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "cluster"
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
FINDING = set(re.findall(r"RAY_(?:health_check_\w+|LOGGER_LEVEL)(?==\")", (FOLDER / "local_hosts.sh").read_text()))
NODE_CONFIG = {"InstanceType", "ImageId", "IamInstanceProfile", "BlockDeviceMappings", "InstanceMarketOptions"}

Settings = dict[str, Any]


def load(name: str) -> Settings:
    return dict(yaml.safe_load((FOLDER / name).read_text()))


# ---- what may be wrong


def problems(name: str, settings: Settings) -> list[str]:
    checks = (invalid, of_files, of_commands, of_machines if name == "aws.yaml" else of_hosts)
    return [text for check in checks for text in check(settings)]


def invalid(settings: Settings) -> Iterator[str]:
    for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(settings):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


def of_files(settings: Settings) -> Iterator[str]:
    if settings["file_mounts"] != {"~/distseg/files": "build/ssh"}:
        yield "not what ssh.sh prepares is sent to where ssh.sh looks for it"
    if not any(command.endswith("~/distseg/files/ssh.sh install") for command in settings["setup_commands"]):
        yield "distseg is not installed"


def of_commands(settings: Settings) -> Iterator[str]:
    for kind in ("head", "worker"):
        command = settings[f"{kind}_start_ray_commands"][-1]
        starter = (FOLDER / "ssh.sh").read_text() if "ssh.sh ray start" in command else command
        for variable in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=", *FINDING):
            if variable not in starter:
                yield f"{kind}: lacks {variable}"
        if kind == "worker" and "--address=$RAY_HEAD_IP:6379" not in command:
            yield "worker: joins no head"
        if kind == "head":
            yield from of_head(command, starter)


def of_head(command: str, starter: str) -> Iterator[str]:
    if "--autoscaling-config=~/ray_bootstrap_config.yaml" not in command:
        yield "head: starts no workers"
    if "--num-cpus=0" not in command:
        yield "head: runs ranks"
    port = submit.default_address().rpartition(":")[2]
    if f"--dashboard-port={port}" not in starter:
        yield f"head: jobs are sent to {port}"


def of_hosts(settings: Settings) -> Iterator[str]:
    if settings["provider"]["head_ip"] in settings["provider"]["worker_ips"]:
        yield "the head is a worker too"


def of_machines(settings: Settings) -> Iterator[str]:
    types = settings["available_node_types"]
    head, workers = types[settings["head_node_type"]], [t for n, t in types.items() if n != settings["head_node_type"]]
    for machine in types.values():
        for field in machine["node_config"].keys() - NODE_CONFIG:
            yield f"EC2 has no {field}"
        if sum(disk["Ebs"]["VolumeSize"] for disk in machine["node_config"]["BlockDeviceMappings"]) < 50:
            yield "the disk does not hold packages and shards"
    if head["resources"].get("GPU") or "InstanceMarketOptions" in head["node_config"]:
        yield "the head has a GPU or may be taken away"
    for worker in workers:
        if not worker["resources"].get("GPU") or worker["node_config"].get("InstanceMarketOptions") is None:
            yield "a worker has no GPU or its full price"
        if worker["min_workers"] > 0:
            yield "idle workers stay"
    if settings["idle_timeout_minutes"] > 30:
        yield "idle workers stay"


# ---- tests


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["ssh.yaml", "aws.yaml"])
def test_nothing_is_wrong(name: str) -> None:
    assert problems(name, load(name)) == []


def worker(settings: Settings) -> Any:
    return settings["available_node_types"]["worker"]


def edit(field: str, old: str, new: str) -> Callable[[Settings], Any]:
    """Changes the last command of a list."""

    def change(settings: Settings) -> None:
        assert old in settings[field][-1]
        settings[field][-1] = settings[field][-1].replace(old, new)

    return change


HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
PLANTED: list[tuple[str, str, Callable[[Settings], Any]]] = [
    ("ssh.yaml", "'file_mount' was unexpected", lambda s: s.update(file_mount={})),
    ("ssh.yaml", "'user' was unexpected", lambda s: s["auth"].update(user="x")),
    ("ssh.yaml", "is not of type 'array'", lambda s: s["provider"].update(worker_ips="10.0.0.11")),
    ("ssh.yaml", "'provider' is a required property", lambda s: s.update(provider_=s.pop("provider"))),
    ("ssh.yaml", "to where ssh.sh looks", lambda s: s["file_mounts"].update({"~/x": "build"})),
    ("ssh.yaml", "not installed", lambda s: s["setup_commands"].clear()),
    ("ssh.yaml", "starts no workers", edit(HEAD, "--autoscaling-config", "--autoscaling")),
    ("ssh.yaml", "joins no head", edit(WORKER, "6379", "6380")),
    ("ssh.yaml", "a worker too", lambda s: s["provider"]["worker_ips"].append(s["provider"]["head_ip"])),
    ("aws.yaml", "'min_worker' was unexpected", lambda s: worker(s).update(min_worker=1)),
    ("aws.yaml", "lacks RAY_AUTH_MODE=token", edit(WORKER, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")),
    ("aws.yaml", "lacks RAY_health_check_period_ms", edit(HEAD, "RAY_health_check_period_ms=1000", "")),
    ("aws.yaml", "runs ranks", edit(HEAD, "--num-cpus=0", "")),
    ("aws.yaml", "jobs are sent to 8265", edit(HEAD, "8265", "8266")),
    ("aws.yaml", "no InstanceTyp", lambda s: worker(s)["node_config"].update(InstanceTyp="g5.2xlarge")),
    ("aws.yaml", "the disk", lambda s: worker(s)["node_config"]["BlockDeviceMappings"][0]["Ebs"].update(VolumeSize=8)),
    ("aws.yaml", "the head has a GPU", lambda s: s["available_node_types"]["head"]["resources"].update(GPU=1)),
    ("aws.yaml", "full price", lambda s: worker(s)["node_config"].pop("InstanceMarketOptions")),
    ("aws.yaml", "idle workers stay", lambda s: s.update(idle_timeout_minutes=600)),
]


@pytest.mark.parametrize(("name", "expected", "plant"), PLANTED, ids=[expected for _, expected, _ in PLANTED])
def test_a_planted_error_is_found(name: str, expected: str, plant: Callable[[Settings], Any]) -> None:
    settings = copy.deepcopy(load(name))
    plant(settings)
    found = problems(name, settings) if "provider" in settings else list(invalid(settings))
    assert any(expected in text for text in found), found


def ssh_sh(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], **env}
    command = [str(FOLDER / "ssh.sh"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


@pytest.mark.long
def test_what_is_prepared_installs_itself_once(tmp_path: Path) -> None:
    """The dependencies are left out: they are gigabytes."""
    files = tmp_path / "distseg/files"
    pip = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"}
    prepared = ssh_sh(tmp_path, "prepare", PYTHON=sys.executable, SSH_FILES=str(files), **pip)
    assert prepared.returncode == 0, prepared.stderr
    assert (files / "token").stat().st_mode & 0o777 == 0o600
    assert f"RAY_AUTH_TOKEN_PATH={files}/token" in (files / "env").read_text()
    token = (files / "token").read_text()
    for announced in (True, False):
        installed = ssh_sh(tmp_path, "install", PYTHON=sys.executable, **pip)
        assert installed.returncode == 0, installed.stderr
        assert ("this takes minutes" in installed.stdout) == announced
    python = tmp_path / "distseg/venv/bin/python"
    where = subprocess.run(
        [python, "-P", "-c", "import distseg; print(distseg.__file__)"], capture_output=True, text=True, cwd="/", env={}
    )
    assert where.stdout.startswith(str(tmp_path / "distseg/venv"))
    stamp = tmp_path / "distseg/installed"
    before = stamp.stat().st_mtime_ns
    assert ssh_sh(tmp_path, "install", PYTHON="/no/python", **pip).returncode == 0  # nothing is left to do
    assert stamp.stat().st_mtime_ns == before
    assert len(token) == 64


def test_bad_arguments_of_the_script_are_usage(tmp_path: Path) -> None:
    for arguments in (["ray", "stop"], ["ray", "start"], ["up"], []):
        done = ssh_sh(tmp_path, *arguments)
        assert done.returncode == 2
        assert "ssh.sh prepare" in done.stderr


def test_the_unit_is_valid_and_a_planted_error_is_found(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("this machine lacks systemd-analyze")
    script = tmp_path / "distseg/files/ssh.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(FOLDER / "ssh.sh", script)
    text = (FOLDER / "distseg-ray.service").read_text()
    for changed, is_right in ((text, True), (text.replace("Restart=always", "Restart=allways"), False)):
        unit = tmp_path / "distseg-ray.service"
        unit.write_text(changed.replace("%h", str(tmp_path)))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
        assert ("distseg-ray.service" in done.stderr) != is_right, done.stderr
