"""A reader of one packed data set, and of others mixed with it, in one call."""

from collections.abc import Sequence
from typing import Any

from distseg.data.loading import DatasetPart, ReadOptions, TrainReader
from distseg.data.shards import Manifest, Shard


def train_reader(
    manifest: Manifest,
    shards: Sequence[Shard],
    *,
    mix: Sequence[DatasetPart] = (),
    rank: int = 0,
    world: int = 1,
    start_batch: int = 0,
    **options: Any,
) -> TrainReader:
    datasets = [DatasetPart(manifest, shards), *mix]
    return TrainReader(datasets, ReadOptions(**options), rank=rank, world=world, start_batch=start_batch)
