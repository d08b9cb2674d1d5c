"""The wheel holds all that the programs need: they run from it, in a directory that has nothing of the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the import path with what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from copies of the packages, so that nothing is left in the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("distseg", "tune_spaces"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True, timeout=200)
    (built,) = out.glob("*.whl")
    return built


def test_every_module_template_and_marker_of_the_tree_is_in_it(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    tree = [path for name in ("distseg", "tune_spaces") for path in (REPOSITORY / name).rglob("*")]
    files = {str(path.relative_to(REPOSITORY)) for path in tree if path.suffix in (".py", ".j2", ".typed")}
    assert not files - packed


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    command = [sys.executable, "-m", "distseg", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_recipes_and_spaces_are_listed_from_it(installed: Path, tmp_path: Path) -> None:
    for arguments, first in ((("train", "--list"), "town "), (("tune", "--list"), "adapt ")):
        ended = run(installed, tmp_path, *arguments)
        assert (ended.returncode, ended.stderr) == (0, ""), arguments
        assert ended.stdout.startswith(first), arguments


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    program = "import distseg; print(distseg.__file__)"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.stdout.startswith(str(installed))
