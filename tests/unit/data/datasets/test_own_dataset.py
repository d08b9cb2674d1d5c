"""The example that docs/extending.md shows: a user's own data set, by `module:name` from the working directory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distseg import pack
from distseg.data.shards import load_manifest, verify
from distseg.errors import ConfigError, DataError
from tests.raw_files import write_grey, write_photograph

REPOSITORY = Path(pack.__file__).parents[1]
IDS_HW = np.tile(np.array([0, 1, 2, 3], dtype=np.uint16), (6, 2))


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(REPOSITORY / "examples" / "own_dataset.py", tmp_path / "my_data.py")
    for name in ("train/fog_1", "train/clear_1", "val/night_1"):
        write_photograph(tmp_path / f"raw/photos/{name}.png", (6, 8))
        write_grey(tmp_path / f"raw/masks/{name}.png", IDS_HW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    return tmp_path


WHERE = ("my_data:DATASET", "--root", "raw", "--out", "packed")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_it_is_packed_by_the_program(working_directory: Path, num_processes: int) -> None:
    """Also by processes of their own, which import the user's module again."""
    command = [sys.executable, "-m", "distseg.pack", *WHERE, "--num_processes", str(num_processes)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train: 2 samples in 2 shards: clear, fog" in done.stdout
    manifest = load_manifest("packed")
    assert manifest.dataset == manifest.label_space.name == "my-city"
    assert manifest.class_pixels == {"train": {"clear": (12, 12, 12), "fog": (12, 12, 12)}, "val": {"night": (12,) * 3}}
    assert verify("packed") == []


def test_its_options_are_flags(working_directory: Path) -> None:
    assert pack.main([*WHERE, "--splits", "train", "--only_weather", "fog", "--num_processes", "1"]) == 0
    assert load_manifest("packed").conditions("train") == ("fog",)


def test_it_is_relabelled_by_what_it_says_of_itself(working_directory: Path) -> None:
    assert pack.main([*WHERE, "--splits", "val", "--relabel", "cityscapes", "--num_processes", "1"]) == 0
    manifest = load_manifest("packed")
    assert manifest.label_space.name == "cityscapes"
    assert sum(manifest.class_pixels["val"]["night"]) == 24  # road and sky; "other" is void


def test_help_shows_its_layout_and_options(working_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pack.main(["my_data:DATASET", "--help"])
    shown = capsys.readouterr().out
    assert "My city" in shown
    assert "--only_weather" in shown
    assert "Pack the photographs of this weather alone." in shown


def test_its_errors_are_the_users(working_directory: Path) -> None:
    (working_directory / "raw/photos/val/rain_2.png").write_bytes(b"")
    (working_directory / "raw/masks/val/rain_2.png").write_bytes(b"")
    with pytest.raises(DataError, match="'rain' is no weather"):
        pack.main([*WHERE, "--num_processes", "1"])
    with pytest.raises(ConfigError, match=r"my_data has no .* DATASETS.*'DATASET'"):
        pack.main(["my_data:DATASETS", *WHERE[1:]])
