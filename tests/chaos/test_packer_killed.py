"""The packer is killed again and again: what it ends with is what an undisturbed packing gives, byte for byte."""

import contextlib
import random
import time
from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from distseg.data.shards import verify
from tests import programs

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

NUM_KILLS = 10
TOWN = ("distseg.pack", "town", "--train", "216", "--val", "36", "--size", "64", "96", "--max_samples_per_shard", "4")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = programs.run(folder, programs.plain_environment(), *TOWN, "--out", str(folder / "town"))
    assert ended.code == 0, ended.err
    return files_of(folder / "town")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ten_kills_at_random(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "town"
    moments = random.Random(0)
    progress = []
    for turn in range(NUM_KILLS):
        folder = tmp_path / str(turn)
        with programs.start(folder, programs.plain_environment(), *TOWN, "--out", str(out)) as packer:
            before = num_shards(out)
            while packer.process.poll() is None and num_shards(out) < before + moments.randint(1, 4):
                time.sleep(0.01)
            time.sleep(moments.uniform(0.0, 0.1))
            assert packer.process.poll() is None, "it ended before it could be killed: pack more"
            packer.kill_all()
        progress.append(num_shards(out))
    assert progress == sorted(progress)  # each began where the last one was stopped
    assert not (out / "manifest.json").exists()
    ended = programs.run(tmp_path / "last", programs.plain_environment(), *TOWN, "--out", str(out))
    assert ended.code == 0, ended.err
    assert files_of(out) == undisturbed
    assert verify(str(out)) == []


def num_shards(out: Path) -> int:
    return len(list(out.rglob("*.tar")))


@pytest.mark.ray
def test_ray_workers_killed_while_they_pack(
    undisturbed: dict[str, bytes], ray_cluster: Mapping[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "town"
    with programs.start(tmp_path / "driver", ray_cluster, *TOWN, "--out", str(out), "--ray") as packer:
        for kill in range(3):
            while packer.process.poll() is None and num_shards(out) < 8 * (kill + 1):
                time.sleep(0.01)
            packing_worker(ray_cluster).kill()
        ended = packer.wait()
    assert ended.code == 0, ended.err
    assert files_of(out) == undisturbed


def packing_worker(environment: Mapping[str, str]) -> psutil.Process:
    """A process of this cluster that runs a task now: Ray gives it the function's name."""
    until_s = time.monotonic() + programs.PATIENCE_S
    while time.monotonic() < until_s:
        for process in psutil.process_iter(["cmdline"]):
            if " ".join(process.info["cmdline"] or ()).startswith("ray::_call") and is_of(process, environment):
                return process
    raise AssertionError("no worker packs")


def is_of(process: psutil.Process, environment: Mapping[str, str]) -> bool:
    """A worker's own environment is unreadable once it has renamed itself; the raylet that started it has not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(environment["RAY_TMPDIR"] in argument for argument in process.parent().cmdline())
    return False
