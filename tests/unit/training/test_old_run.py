"""A run made before the packages were laid out anew, killed after step 60 of 64, goes on as it would have then."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distseg import evaluate, tracking, train
from distseg.data.datasets import town
from distseg.data.shards import load_manifest, pack
from distseg.training import checkpoint
from tests.conftest import REPOSITORY

BEFORE = REPOSITORY / "tests" / "data" / "before" / "killed_run"
SAVED_STEP = 60
# of the same run when nothing had stopped it, by the code of that time
UNDISTURBED = {61: 3.025330066680908, 62: 3.0114240646362305, 63: 3.234325885772705, 64: 3.2208361625671387}


@pytest.fixture(scope="module")
def old_town(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`pack town --train 18 --val 18 --size 64 96`"""
    uri = str(tmp_path_factory.mktemp("old-town"))
    splits = {split: town.samples(split, num_frames=18, size=(64, 96)) for split in ("train", "val")}
    pack(splits, town.LABELS, uri, dataset="town")
    return uri


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    return str(shutil.copytree(BEFORE, tmp_path / "runs" / "old"))


def test_the_data_are_still_the_same(old_town: str, run_uri: str) -> None:
    point = checkpoint.resume_point(run_uri)
    assert point is not None and point.step == SAVED_STEP
    assert load_manifest(old_town).digest == point.manifest_digest


def test_an_old_run_goes_on_with_the_losses_of_the_undisturbed_one(
    old_town: str, run_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")  # as torchrun does: without Ray
    assert train.main(["--resume", run_uri, "--data.uri", old_town]) == 0
    records = tracking.read_journal(run_uri)
    losses = {r["step"]: r["metrics"]["train/loss"] for r in records if "train/loss" in r["metrics"]}
    assert sorted(losses) == list(range(1, 65))
    assert {step: losses[step] for step in UNDISTURBED} == pytest.approx(UNDISTURBED, rel=1e-3)
    ended = checkpoint.newest(run_uri)
    assert ended is not None and ended[1].step == 64


def test_evaluating_an_old_checkpoint_gives_its_own_table(old_town: str, run_uri: str, tmp_path: Path) -> None:
    (found,) = checkpoint.found_in(run_uri)
    options = ["--checkpoint", found.uri, "--data", old_town, "--precision", "fp32"]
    assert evaluate.main([*options, "--json", str(tmp_path / "table.json")]) == 0
    table, stored = json.loads((tmp_path / "table.json").read_text()), checkpoint.read(found.uri).tables
    assert stored["num_images"] == 18 and stored["mIoU"] > 0.05
    now, then = dict(_leaves(table)), {name: value for name, value in _leaves(stored) if name != "step"}
    numbers = {name for name, value in then.items() if isinstance(value, int | float)}
    assert {name: now[name] for name in numbers} == pytest.approx({name: then[name] for name in numbers}, abs=1e-3)
    assert all(now[name] is None for name in then.keys() - numbers if then[name] is None)


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
