"""The directory of a run is gone, or takes nothing more, while it trains: one error, and what can go on does."""

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distseg import storage
from distseg.config import CheckpointConfig, RunConfig, TrackingConfig
from distseg.errors import StorageError
from distseg.runs import read_config, read_run_json, train_without_ray
from distseg.training import checkpoint
from tests.recorded import only_run

NUM_STEPS, SAVED_EVERY, FAULT_AT = 8, 2, 5


@pytest.fixture
def config(small_config: RunConfig, data_uri: str, tmp_path: Path) -> RunConfig:
    return replace(
        small_config,
        optim=replace(small_config.optim, max_steps=NUM_STEPS),
        data=replace(small_config.data, uri=data_uri, batch_size=2, crop_px=(32, 32)),
        checkpoint=CheckpointConfig(uri=str(tmp_path / "runs"), every_steps=SAVED_EVERY),
        tracking=TrackingConfig(uri="off", log_every_steps=1, log_model=False),
    )


def in_mid_run(fault: Callable[[], object]) -> Callable[[int, Mapping[str, float], str], None]:
    """A `show` that does it once."""
    done: list[int] = []

    def show(step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
        if step == FAULT_AT and not done:
            done.append(step)
            fault()

    return show


def only_run_of(config: RunConfig) -> str:
    (folder,) = storage.list_folders(config.checkpoint.uri)
    return storage.join(config.checkpoint.uri, folder)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full; free some space or choose another directory"),
        (errno.EROFS, "the file system is read-only; choose another directory"),
        (errno.EFBIG, r"the file would be larger than is allowed; raise the limit \(ulimit -f\)"),
    ],
    ids=["full", "read-only", "limit of size"],
)
def test_a_place_that_takes_nothing_more_ends_the_training_and_keeps_what_it_has(
    config: RunConfig, store: str, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    is_tracked = number == errno.ENOSPC  # that costs seconds
    if is_tracked:
        config = replace(config, tracking=replace(config.tracking, uri=store))

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError, match=rf"checkpoint_00000006_\w+/checkpoint\.pt: {said}$"):
        train_without_ray(config, show=in_mid_run(lambda: monkeypatch.setattr(os, "fsync", refuse)))
    monkeypatch.undo()
    run_uri = only_run_of(config)
    assert [found.step for found in checkpoint.found_in(run_uri)] == [4, 2]
    if is_tracked:
        assert only_run(config.tracking.uri, config.tracking.experiment).run.info.status == "FAILED"

        train_without_ray(config, resume=run_uri)
        assert checkpoint.found_in(run_uri)[0].step == NUM_STEPS
        recorded = only_run(config.tracking.uri, config.tracking.experiment)
        assert recorded.run.info.status == read_run_json(run_uri)["status"] == "FINISHED"
        assert recorded.steps("train/loss") == list(range(1, NUM_STEPS + 1))


def test_a_directory_that_is_removed_is_a_run_again_by_the_next_checkpoint(
    config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    train_without_ray(config, show=in_mid_run(lambda: shutil.rmtree(only_run_of(config))))
    run_uri = only_run_of(config)
    assert f"{run_uri} was removed while it was training" in caplog.text
    assert read_run_json(run_uri)["status"] == "FINISHED"
    scaling = replace(config.scaling, cpus_per_worker=torch.get_num_threads())  # what there was, not what was asked for
    assert read_config(run_uri) == replace(config, scaling=scaling)
    assert checkpoint.resolve(run_uri)[1].step == NUM_STEPS


def test_a_bucket_that_is_deleted_ends_the_training_by_its_name(config: RunConfig, moto_s3: str) -> None:
    import boto3

    def delete() -> None:
        bucket = boto3.Session().resource("s3").Bucket(moto_s3.removeprefix("s3://"))
        bucket.objects.all().delete()
        bucket.delete()

    config = replace(config, checkpoint=replace(config.checkpoint, uri=f"{moto_s3}/runs"))
    with pytest.raises(StorageError, match=rf"^{moto_s3}/runs/.*: no such bucket at .*; create it, or check the name"):
        train_without_ray(config, show=in_mid_run(delete))
