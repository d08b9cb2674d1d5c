"""Trainings at the same time that share a checkpoint.uri and a cache of shards: each is what it would be alone."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from distseg import tracking
from distseg.config import CheckpointConfig, RunConfig, TrackingConfig, from_dict, to_dict
from distseg.data.shards import load_manifest, pack
from distseg.runs import read_run_json, train_without_ray
from distseg.training import checkpoint
from tests import ranks
from tests.toy_data import LABELS, toy_samples

NUM_STEPS, TOGETHER = 4, 2


def test_they_train_what_each_would_alone_and_keep_no_password_of_the_store(
    small_config: RunConfig, moto_s3: str, tmp_path: Path
) -> None:
    pack({split: toy_samples(8, split, size_hw=(40, 56)) for split in ("train", "val")}, LABELS, moto_s3, dataset="toy")
    config = replace(
        small_config,
        optim=replace(small_config.optim, max_steps=NUM_STEPS),
        data=replace(
            small_config.data,
            uri=moto_s3,
            batch_size=2,
            crop_px=(32, 32),
            cache_dir=str(tmp_path / "cache"),
            cache_bytes=1 << 30,
        ),
        checkpoint=CheckpointConfig(uri=str(tmp_path / "runs"), every_steps=2),
        tracking=TrackingConfig(uri="off", log_every_steps=1),
    )
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    store["AWS_ENDPOINT_URL"] = store["AWS_ENDPOINT_URL"].replace("://", "://me:canary@")
    ranks.start_ranks(_train, (to_dict(config), store), TOGETHER)

    runs = [str(folder) for folder in Path(config.checkpoint.uri).iterdir()]
    assert len(runs) == TOGETHER
    losses = [[record["metrics"]["train/loss"] for record in tracking.read_journal(run)[:NUM_STEPS]] for run in runs]
    assert losses[0] == losses[1]
    for run in runs:
        assert read_run_json(run)["status"] == "FINISHED"
        assert [found.step for found in checkpoint.found_in(run)] == [4, 2]
        assert not (Path(run) / "lock.json").exists()
    (_, one), (_, other) = (found for run in runs if (found := checkpoint.newest(run)))
    assert all(tensor.equal(other.model[name]) for name, tensor in one.model.items())

    packed = {shard.sha256 for shard in load_manifest(moto_s3).shards}
    cached = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "cache").glob("*.tar")}
    assert cached and cached.keys() <= packed
    assert all(name == digest for name, digest in cached.items())

    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


def _train(rank: int, config: Mapping[str, object], store: Mapping[str, str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(store)
    train_without_ray(from_dict(dict(config)))
