"""A run resumed in another way than it began: with another batch size, precision, place or packing of its data."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg import train
from distseg.config import CheckpointConfig, Precision, RunConfig
from distseg.data.datasets import town
from distseg.data.shards import load_manifest, pack
from distseg.errors import ConfigError, DataError
from distseg.evaluation import World
from distseg.runs import train_without_ray
from distseg.training import checkpoint
from distseg.training.checkpoint import check_same_run
from distseg.training.trainer import train_run
from tests import ranks
from tests.small_network import Small


def pack_tiny_town(uri: str, **options: Any) -> str:
    """The frames of the fixture `tiny_town`."""
    splits = {
        "train": town.samples("train", num_frames=36, size=(64, 96)),
        "val": town.samples("val", num_frames=18, size=(64, 96)),
    }
    pack(splits, town.LABELS, uri, dataset="town", **options)
    return uri


@pytest.fixture(scope="module")
def ended(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a run of two steps."""
    place = CheckpointConfig(uri=str(tmp_path_factory.mktemp("runs")))
    config = replace(small_config, optim=replace(small_config.optim, max_steps=2), checkpoint=place)
    outcome = train_without_ray(config)
    assert outcome is not None
    return outcome.run_uri


@pytest.fixture
def run_uri(ended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RANK", "0")  # as torchrun does: without Ray
    return str(shutil.copytree(ended, tmp_path / "runs" / "run"))


def files(run_uri: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(run_uri).rglob("*") if path.is_file()}


def resume(run_uri: str, *options: str) -> int:
    return train.main(["--resume", run_uri, "--optim.max_steps", "3", *options])


@pytest.mark.parametrize(
    ("field", "value", "before"), [("data.batch_size", "4", "8"), ("optim.accumulate_steps", "2", "1")]
)
def test_another_batch_is_another_run(run_uri: str, field: str, value: str, before: str) -> None:
    untouched = files(run_uri)
    said = f"{field} = {value}: the run being resumed has {before}; start a new run to change it"
    with pytest.raises(ConfigError, match=f"^{said}$"):
        resume(run_uri, f"--{field}", value)
    assert files(run_uri) == untouched


def test_data_packed_otherwise_are_other_data(run_uri: str, tmp_path: Path) -> None:
    """The same frames in smaller shards come in another order."""
    untouched, uri = files(run_uri), pack_tiny_town(str(tmp_path / "smaller"), max_samples_per_shard=1)
    said = (
        f"{uri}: the manifest changed since the checkpoint of step 2 was made [^\n]*; bring the old data back or start"
    )
    with pytest.raises(DataError, match=f"^{said} anew$"):
        resume(run_uri, "--data.uri", uri)
    assert files(run_uri) == untouched


def test_data_that_are_gone_are_said_to_be_gone(run_uri: str, tmp_path: Path) -> None:
    untouched = files(run_uri)
    with pytest.raises(DataError, match=f"^no manifest.json under {tmp_path}/nowhere: [^\n]*$"):
        resume(run_uri, "--data.uri", str(tmp_path / "nowhere"))
    assert files(run_uri) == untouched


def test_data_packed_again_alike_are_the_same_wherever_they_lie(run_uri: str, tiny_town: str, tmp_path: Path) -> None:
    uri = pack_tiny_town(str(tmp_path / "again"))
    assert load_manifest(uri).digest == load_manifest(tiny_town).digest
    assert resume(run_uri, "--data.uri", uri) == 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(("before", "after"), [("fp64", "fp32"), ("fp32", "fp64"), ("fp32", "bf16"), ("bf16", "fp32")])
def test_a_run_goes_on_in_another_precision(
    small_config: RunConfig, run_folder: Path, name: str, before: Precision, after: Precision
) -> None:
    """With momentum and moving average: the losses are those of an undisturbed run, to the coarser precision."""
    optim = replace(small_config.optim, name=name, lr=1e-2, ema_decay=0.9)  # type: ignore[arg-type]
    config = replace(small_config, model=Small(has_norm=True), optim=optim, checkpoint=CheckpointConfig(every_steps=2))
    undisturbed = ranks.Recorder()
    train_run(replace(config, precision=before), World(), undisturbed)
    with pytest.raises(ranks.StoppedError):
        train_run(replace(config, precision=before), World(), ranks.Recorder(run_folder, stop_at=2))
    saved = checkpoint.newest(str(run_folder))
    assert saved is not None and saved[1].step == 2
    rest = ranks.Recorder(run_folder)
    train_run(replace(config, precision=after), World(), rest, resume=saved[1])
    assert rest.losses() == pytest.approx(undisturbed.losses()[2:], rel=2e-2 if "bf16" in (before, after) else 1e-4)
    ended = checkpoint.newest(str(run_folder))
    assert ended is not None and ended[1].step == 4
    dtype = torch.float64 if after == "fp64" else torch.float32
    kept = [*ended[1].model.values(), *ended[1].averaged.values()]
    kept += [value for state in ended[1].optimizer["state"].values() for value in state.values() if value.ndim]
    assert {tensor.dtype for tensor in kept if tensor.is_floating_point()} == {dtype}


def test_how_data_are_read_may_change(small_config: RunConfig, run_folder: Path) -> None:
    config = replace(small_config, optim=replace(small_config.optim, max_steps=1))
    train_run(config, World(), ranks.Recorder(run_folder))
    saved = checkpoint.newest(str(run_folder))
    assert saved is not None
    data = replace(config.data, num_threads=2, max_megapixels=200.0, cache_bytes=0)
    check_same_run(replace(config, data=data), saved[1])
    for field, value in (("crop_px", (40, 40)), ("shuffle_window", 8), ("augment", False)):
        with pytest.raises(ConfigError, match=rf"data\.{field} = .*: the run being resumed has"):
            check_same_run(replace(config, data=replace(config.data, **{field: value})), saved[1])  # type: ignore[arg-type]
