"""infra/image.sh with a program in the place of buildah: what it is told."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

BUILDAH = """#!/bin/sh
echo "TMPDIR=$TMPDIR $*" >>"$CALLS"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("buildah", BUILDAH), ("id", "#!/bin/sh\necho 0\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("IMAGE_STATE", str(tmp_path / "state"))
    for name in ("IMAGE", "BASE_IMAGE", "DOCKERFILE", "TORCH_INDEX", "PIP_CONFIG_FILE", "IMAGE_MOUNTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "calls"


def image_sh(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(REPOSITORY / "infra/image.sh"), *arguments], capture_output=True, text=True)


def test_what_is_copied_while_it_builds_lies_beside_the_layers(calls: Path, tmp_path: Path) -> None:
    assert image_sh("build").returncode == 0
    [*_, build] = calls.read_text().splitlines()
    assert build.startswith(f"TMPDIR={tmp_path}/state/tmp --root {tmp_path}/state/layers ")
    assert " build --layers " in build
    assert f"--file {REPOSITORY}/infra/Dockerfile --tag distseg:0.1.0" in build


def test_pips_configuration_is_at_one_place_of_the_build_alone(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("IMAGE_MOUNTS", "/wheels /more")
    monkeypatch.setenv("DOCKERFILE", "infra/mlflow.Dockerfile")
    assert image_sh("build").returncode == 0
    [*_, build] = calls.read_text().splitlines()
    words = build.split()
    volumes = [words[at + 1] for at, word in enumerate(words) if word == "--volume"]
    assert volumes == ["/wheels:/wheels:ro", "/more:/more:ro", f"{tmp_path}/pip.conf:/etc/pip.conf:ro"]
    assert "--file infra/mlflow.Dockerfile " in build


def test_nothing_is_left_where_nothing_was_built(calls: Path, tmp_path: Path) -> None:
    for arguments in (["run", "true"], ["export", str(tmp_path / "image.tar")]):
        refused = image_sh(*arguments)
        assert refused.returncode == 1
        assert f"nothing is built in {tmp_path}/state" in refused.stderr
    assert not (tmp_path / "state").exists() and not calls.exists()
