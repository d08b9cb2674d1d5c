"""infra's Dockerfiles: clean by hadolint, a planted error is found, and they agree with the project."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, not_installed

DOCKERFILE = REPOSITORY / "infra" / "Dockerfile"
ALL = [DOCKERFILE, *sorted(DOCKERFILE.parent.glob("*.Dockerfile"))]


def hadolint(text: str) -> list[str]:
    program = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        not_installed("hadolint")
    return subprocess.run([program, "-"], input=text, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("file", ALL, ids=[file.name for file in ALL])
def test_it_is_clean(file: Path) -> None:
    assert hadolint(file.read_text()) == []


@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [
        ("USER 1000\n", "USER root\n", "DL3002"),
        ("WORKDIR /build\n", "WORKDIR build\n", "DL3000"),
        ("FROM ${BASE_IMAGE}\n", "FROM python:latest\n", "DL3007"),
        ('["python", "-m", "distseg"]', "python -m distseg", "DL3025"),
    ],
)
def test_a_planted_error_is_found(good: str, bad: str, rule: str) -> None:
    text = DOCKERFILE.read_text()
    assert text.count(good) == 1
    assert any(rule in line for line in hadolint(text.replace(good, bad)))


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    text = "".join(file.read_text() for file in ALL)
    copied = [words for words in re.findall(r"^COPY (.*)$", text, re.MULTILINE) if "--from" not in words]
    names = {name for words in copied for name in words.split()[:-1]}
    assert {name for name in names if not (REPOSITORY / name).exists()} == set()
    sent = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert names == sent


def test_the_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    python = re.search(r"BASE_IMAGE=python:(\d+)\.(\d+)", DOCKERFILE.read_text())
    oldest = re.search(r"(\d+)\.(\d+)", project["requires-python"])
    assert python and oldest and tuple(map(int, python.groups())) >= tuple(map(int, oldest.groups()))
    extras = re.search(r'"\.\[(.*?)\]"', DOCKERFILE.read_text())
    assert extras and set(extras[1].split(",")) <= project["optional-dependencies"].keys()
    assert f"distseg:{project['version']} " in DOCKERFILE.read_text()


def test_the_user_is_the_one_of_the_manifests() -> None:
    cluster = yaml.safe_load((REPOSITORY / "cluster/kubernetes/base/raycluster.yaml").read_text())
    user = cluster["spec"]["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert re.findall(r"^USER (.*)$", DOCKERFILE.read_text(), re.MULTILINE) == [str(user)]
    image = yaml.safe_load((REPOSITORY / "cluster/kubernetes/base/kustomization.yaml").read_text())["images"][0]
    assert Path(f"{image['newName']}:{image['newTag']}").name in DOCKERFILE.read_text()
