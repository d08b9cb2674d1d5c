"""A small packed data set, and what a training reads of it."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from distseg.config import AugmentConfig
from distseg.data.loading import Batch, TrainReader
from distseg.data.sample import Sample
from distseg.data.shards.formats import IndexEntry, Shard
from distseg.data.shards.manifest import load_manifest, read_index
from tests.readers import train_reader
from tests.toy_data import toy_samples

GROUPS = [("day", "town"), ("night", "town")]


AUGMENT = AugmentConfig(jitter=0.2)


NUM_TRAIN = 26


def open_reader(out: Path, **options: Any) -> TrainReader:
    manifest = load_manifest(str(out))
    defaults: dict[str, Any] = {"batch_size": 4, "crop_px": (20, 20), "augment": None, "seed": 0, "shuffle_window": 6}
    return train_reader(manifest, manifest.select("train"), **{**defaults, **options})


def read(out: Path, num_batches: int, **options: Any) -> list[Batch]:
    with open_reader(out, **options) as reader:
        return list(itertools.islice(reader, num_batches))


def originals(split: str, num_samples: int) -> dict[str, Sample]:
    return {sample.key: sample for sample in toy_samples(num_samples, split, GROUPS)}


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.keys, a.positions, a.num_bad) == (b.keys, b.positions, b.num_bad)
        assert torch.equal(a.images_B3HW, b.images_B3HW)
        assert torch.equal(a.labels_BHW, b.labels_BHW)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def damage_image(out: Path, shard: Shard, entry: IndexEntry) -> None:
    flip(out / shard.name, entry.image.offset + entry.image.size // 2)


def damage_label(out: Path, shard: Shard, entry: IndexEntry) -> None:
    flip(out / shard.name, entry.label.offset + entry.label.size // 2)


def truncate(out: Path, shard: Shard, entry: IndexEntry) -> None:
    path = out / shard.name
    path.write_bytes(path.read_bytes()[: entry.label.offset + 5])


Damage = Callable[[Path, Shard, IndexEntry], None]


def damaged(out: Path, damage: Damage) -> tuple[Shard, IndexEntry]:
    """Damages the last sample of the second shard."""
    manifest = load_manifest(str(out))
    shard = manifest.select("train")[1]
    entry = read_index(manifest, shard).entries[-1]
    damage(out, shard, entry)
    return shard, entry


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
