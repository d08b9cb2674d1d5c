"""Checkpoints hold everything, come back exactly, and are refused by name when damaged."""

import dataclasses
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from distseg import storage
from distseg.config import (
    AdaptConfig,
    CheckpointConfig,
    DataConfig,
    RunConfig,
    TrackingConfig,
    model_config,
    to_dict,
)
from distseg.data.sample import LabelSpace
from distseg.errors import CheckpointError, StorageError
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint


def example(step: int = 3, **fields: Any) -> Checkpoint:
    weight = torch.nn.Parameter(torch.arange(6.0))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones(6)
    optimizer.step()
    made = Checkpoint(
        step=step,
        config=RunConfig(name="example"),
        label_space=LabelSpace(name="two", classes=("road", "sky"), palette=((1, 2, 3), (4, 5, 6))),
        model={"weight": weight.detach().clone()},
        optimizer=optimizer.state_dict(),
        manifest_digest="abc",
        run_id="r1",
        tables={"mIoU": 0.5, "classes": {"road": None}},
        records=[{"step": 1, "time_ms": 2, "metrics": {"train/loss": 0.5}}],
        code_version="v",
    )
    return dataclasses.replace(made, **fields)


def saved(folder: Path, step: int, **fields: Any) -> Path:
    target = folder / checkpoint.new_name(step)
    target.mkdir(parents=True)
    checkpoint.write(target, example(step, **fields))
    return target


def test_everything_comes_back(tmp_path: Path) -> None:
    before = example(metrics={"val/mIoU": 0.25})
    checkpoint.write(tmp_path, before)
    after = checkpoint.read(str(tmp_path))
    assert torch.equal(after.model["weight"], before.model["weight"])
    assert torch.equal(after.optimizer["state"][0]["exp_avg"], before.optimizer["state"][0]["exp_avg"])
    for name in ("step", "config", "label_space", "manifest_digest", "run_id", "metrics"):
        assert getattr(after, name) == getattr(before, name)
    for name in ("tables", "records", "code_version"):
        assert getattr(after, name) == getattr(before, name)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_weights_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    target = saved(tmp_path, 1)
    path = target / checkpoint.WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": bytes(data), "truncate": bytes(data[:100]), "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=rf"{target}: checkpoint.pt is damaged"):
        checkpoint.read(str(target))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 1, "step": "x", "metrics": {}, "sha256": ""}'])
def test_damaged_meta_is_refused_by_name(tmp_path: Path, content: str) -> None:
    target = saved(tmp_path, 1)
    (target / checkpoint.META_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{target}: checkpoint.json is damaged"):
        checkpoint.read(str(target))
    assert checkpoint.best(str(tmp_path)) is None


def test_a_future_format_is_refused(tmp_path: Path) -> None:
    target = saved(tmp_path, 1)
    meta = json.loads((target / checkpoint.META_FILE).read_text())
    (target / checkpoint.META_FILE).write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this distseg reads 1"):
        checkpoint.read(str(target))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/tmp/distseg-was-here").touch, ())


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    import hashlib

    data = pickle.dumps(Malicious(), protocol=2)
    (tmp_path / checkpoint.WEIGHTS_FILE).write_bytes(data)
    meta = {"format": 1, "step": 1, "metrics": {}, "sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    (tmp_path / checkpoint.META_FILE).write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="cannot be loaded as a checkpoint"):
        checkpoint.read(str(tmp_path))
    assert not Path("/tmp/distseg-was-here").exists()


def test_newest_best_and_what_pruning_keeps(tmp_path: Path) -> None:
    for step, miou in [(1, 0.1), (2, 0.4), (3, 0.3), (4, 0.2)]:
        saved(tmp_path, step, metrics={"val/mIoU": miou})
    saved(tmp_path, 5)
    newest, best = checkpoint.newest(str(tmp_path)), checkpoint.best(str(tmp_path))
    assert newest is not None and newest[1].step == 5
    assert best is not None and best[1].step == 2
    checkpoint.prune(str(tmp_path))
    assert [f.step for f in checkpoint.found_in(str(tmp_path))] == [5, 3, 2]
    assert checkpoint.resolve(str(tmp_path))[1].step == 2


@pytest.mark.parametrize("best_by", ["target/certainty", "val/mIoU/fog"])
def test_the_best_is_the_one_by_what_the_run_asks_for(best_by: str, tmp_path: Path) -> None:
    for step, score in [(1, 0.1), (2, 0.6), (3, 0.3)]:
        found = saved(tmp_path, step, metrics={"val/mIoU": step / 10, best_by: score})
        meta = json.loads((found / checkpoint.META_FILE).read_text())
        meta["config"]["checkpoint"]["best_by"] = best_by
        (found / checkpoint.META_FILE).write_text(json.dumps(meta))
    best = checkpoint.best(str(tmp_path))
    assert best is not None and best[1].step == 2


def test_a_directory_half_written_is_not_a_checkpoint(tmp_path: Path) -> None:
    target = saved(tmp_path, 1)
    (target / checkpoint.META_FILE).unlink()
    assert checkpoint.found_in(str(tmp_path)) == []
    with pytest.raises(CheckpointError, match="give a checkpoint or run URI"):
        checkpoint.resolve(str(tmp_path))


def test_one_that_lacks_its_weights_is_passed_over_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ray Train's own upload was in no order, so a killed worker could leave a META_FILE alone."""
    saved(tmp_path, 1)
    later = saved(tmp_path, 2, metrics={"val/mIoU": 0.9})
    (later / checkpoint.WEIGHTS_FILE).unlink()
    newest, best = checkpoint.newest(str(tmp_path)), checkpoint.best(str(tmp_path))
    assert newest is not None and best is not None
    assert (newest[1].step, best[1].step) == (1, 1)
    assert f"{later}: has no {checkpoint.WEIGHTS_FILE}" in caplog.text


@pytest.mark.parametrize("broken_at", [checkpoint.WEIGHTS_FILE, checkpoint.META_FILE])
def test_of_one_whose_sending_broke_off_nothing_counts(
    broken_at: str, moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(moto_s3, example(1))
    really_upload = storage.upload

    def upload(path: Path, uri: str) -> None:
        if uri.endswith(broken_at):
            raise StorageError(f"{uri}: gone")
        really_upload(path, uri)

    monkeypatch.setattr("distseg.storage.upload", upload)
    with pytest.raises(StorageError, match="gone"):
        checkpoint.save(moto_s3, example(2))
    newest, resume_point = checkpoint.newest(moto_s3), checkpoint.resume_point(moto_s3)
    assert newest is not None and newest[1].step == 1
    assert resume_point is not None and resume_point.step == 1


def test_a_run_may_be_named_with_a_slash_at_its_end(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    assert checkpoint.resolve(f"{tmp_path}/")[1].step == 3


def test_of_several_runs_none_is_chosen(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1)
    target = saved(tmp_path / "b", 2)
    assert checkpoint.resolve(str(tmp_path / "b"))[0] == str(target)
    with pytest.raises(
        CheckpointError, match=rf"the checkpoints of 2 runs; give one of them: {tmp_path}/a, {tmp_path}/b"
    ):
        checkpoint.resolve(str(tmp_path))
    for nothing in ("", "/"):
        with pytest.raises(CheckpointError, match="'' names no checkpoint; give a checkpoint or run URI"):
            checkpoint.resolve(nothing)


def test_what_was_passed_over_takes_no_good_ones_place(tmp_path: Path) -> None:
    good, flipped, lost = (saved(tmp_path, step, metrics={"val/mIoU": 0.1 * step}) for step in (1, 2, 3))
    content = bytearray((flipped / checkpoint.WEIGHTS_FILE).read_bytes())
    content[100] ^= 1
    (flipped / checkpoint.WEIGHTS_FILE).write_bytes(content)
    (lost / checkpoint.WEIGHTS_FILE).unlink()
    checkpoint.quarantine(str(tmp_path), after_step=1)
    assert [found.uri for found in checkpoint.found_in(str(tmp_path))] == [str(good)]
    assert {path.name for path in flipped.iterdir()} == {checkpoint.WEIGHTS_FILE, checkpoint.DAMAGED_FILE}
    later = [saved(tmp_path, step) for step in (4, 5)]
    checkpoint.prune(str(tmp_path))
    assert {found.uri for found in checkpoint.found_in(str(tmp_path))} >= {str(good), str(later[-1])}


def test_only_damaged_checkpoints_are_not_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoint.newest(str(tmp_path)) is None
    (saved(tmp_path, 1) / checkpoint.META_FILE).write_text("{")
    (saved(tmp_path, 2) / checkpoint.WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints can be read"):
        checkpoint.newest(str(tmp_path))


def test_a_damaged_one_is_named_once_however_often_a_program_looks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = saved(tmp_path, 1)
    (saved(tmp_path, 2) / checkpoint.WEIGHTS_FILE).write_bytes(b"")
    for _ in range(2):
        found = checkpoint.newest(str(tmp_path))
        assert found is not None and found[0] == str(good)
    assert caplog.text.count("passed over") == 1


def test_one_file_is_what_others_need_and_no_more(tmp_path: Path) -> None:
    config = RunConfig(
        name="example",
        model=model_config(pretrained="/home/me/first.pt"),
        data=DataConfig(
            uri="/home/me/a", mix=("/home/me/b",), mix_weights=(0.5, 0.5), cache_dir="/home/me/cache", train_split="x"
        ),
        adapt=AdaptConfig(uri="/home/me/c", conditions=("fog",), fourier=0.01),
        checkpoint=CheckpointConfig(uri="/home/me/runs"),
        tracking=TrackingConfig(uri="http://127.0.0.1:5000"),
    )
    before = dataclasses.replace(example(metrics={"val/mIoU": 0.25}), config=config, averaged={"weight": torch.ones(6)})
    file = tmp_path / "network.pt"
    file.write_bytes(checkpoint.as_one_file(before))
    assert not any(place in file.read_bytes() for place in (b"/home/me", b"127.0.0.1"))
    uri, after = checkpoint.resolve(str(file))
    assert uri == str(file)
    assert torch.equal(after.evaluated["weight"], torch.ones(6))
    assert (after.metrics, after.tables, after.label_space) == (before.metrics, before.tables, before.label_space)
    assert (after.config.data.train_split, after.config.adapt.conditions) == ("x", ("fog",))
    assert (after.averaged, after.optimizer, after.records, after.run_id) == ({}, {}, [], "")


def test_safetensors_hold_the_same_and_any_program_reads_them(tmp_path: Path) -> None:
    before = example(metrics={"val/mIoU": 0.25}, averaged={"weight": torch.ones(6)})
    file = tmp_path / "network.safetensors"
    file.write_bytes(checkpoint.as_safetensors(before, {"classes": '["road", "sky"]'}))
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.keys() == ["weight"]
        assert torch.equal(opened.get_tensor("weight"), torch.ones(6))
        assert json.loads(opened.metadata()["classes"]) == ["road", "sky"]
    uri, after = checkpoint.resolve(str(file))
    assert uri == str(file)
    assert torch.equal(after.evaluated["weight"], torch.ones(6))
    for name in ("step", "metrics", "tables", "label_space", "manifest_digest", "code_version"):
        assert getattr(after, name) == getattr(before, name), name
    assert to_dict(after.config) == to_dict(before.config)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (lambda data: data[:-4], "no file of safetensors: .*incomplete"),
        (lambda data: data.replace(b"checkpoint", b"chickpoint"), "no file of export --format safetensors: KeyError"),
        (lambda data: data.replace(b'\\"format\\"', b'\\"farmot\\"'), "it says no format"),
        (lambda data: data.replace(b'\\"step\\": 3', b'\\"step\\":-3'), "step"),
    ],
)
def test_a_damaged_file_of_safetensors_is_refused(damaged: Callable[[bytes], bytes], said: str, tmp_path: Path) -> None:
    whole = checkpoint.as_safetensors(example(), {})
    assert damaged(whole) != whole
    (tmp_path / "x").write_bytes(damaged(whole))
    with pytest.raises(CheckpointError, match=said):
        checkpoint.resolve(str(tmp_path / "x"))


def test_what_a_resume_must_know_is_known_without_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)
    later = saved(tmp_path, 2)
    monkeypatch.setattr("distseg.training.checkpoint.store.from_bytes", None)  # it would be called to load one
    point = checkpoint.resume_point(str(tmp_path))
    expected = example(2)
    assert point == (str(later), 2, expected.config, expected.manifest_digest)
    (later / checkpoint.WEIGHTS_FILE).write_bytes(b"damaged")
    point = checkpoint.resume_point(str(tmp_path))
    assert point is not None and point.step == 1


def test_a_checkpoint_file_that_does_not_tell_is_loaded_for_it(tmp_path: Path) -> None:
    target = saved(tmp_path, 3)
    meta = json.loads((target / checkpoint.META_FILE).read_text())
    for name in ("config", "manifest_digest"):  # as early versions wrote it
        del meta[name]
    (target / checkpoint.META_FILE).write_text(json.dumps(meta))
    expected = example(3)
    assert checkpoint.resume_point(str(tmp_path)) == (str(target), 3, expected.config, expected.manifest_digest)


def test_fields_that_nothing_reads_any_more_do_no_harm() -> None:
    content = torch.load(io.BytesIO(checkpoint.to_bytes(example())), weights_only=True)
    buffer = io.BytesIO()
    torch.save(content | {"next_micro_batch": 6, "rng": {"seed": 0, "step": 3}}, buffer)
    assert checkpoint.from_bytes(buffer.getvalue(), "old").step == 3
    buffer = io.BytesIO()
    torch.save(content | {"unheard_of": 1}, buffer)
    with pytest.raises(CheckpointError, match="new: not a distseg checkpoint"):
        checkpoint.from_bytes(buffer.getvalue(), "new")


def test_a_file_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(6)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: not a distseg checkpoint"):
        checkpoint.resolve(str(tmp_path / "other.pt"))


@pytest.mark.parametrize("content", [b"this is text", b"step: 3\n", b"M\x00", b""])
def test_any_bytes_that_are_no_checkpoint_are_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"log\.txt: cannot be loaded as a checkpoint \([^\n]*\)$"):
        checkpoint.resolve(str(tmp_path / "log.txt"))


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_full_directory_for_temporary_files_costs_no_checkpoint(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_uri = str(tmp_path / "run") if place == "local" else f"{request.getfixturevalue('moto_s3')}/run"

    def full() -> Path:
        raise StorageError("/tmp: the disk is full; free some space or choose another directory")

    monkeypatch.setattr("distseg.storage.scratch.new_scratch_folder", full)
    checkpoint.save(run_uri, example())
    found = checkpoint.newest(run_uri)
    assert found is not None and found[1].step == example().step
