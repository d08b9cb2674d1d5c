"""A reader with a cache gives the batches of one without."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg import storage
from distseg.data.loading import Batch
from distseg.data.loading import cache as cache_module
from distseg.data.loading.cache import ShardCache
from distseg.data.shards.formats import Shard
from distseg.data.shards.manifest import Manifest
from distseg.errors import DataError
from tests.readers import train_reader
from tests.unit.data.loading.cache.caching import fetch, fill


def batches(manifest: Manifest, num_batches: int, **options: Any) -> list[Batch]:
    defaults: dict[str, Any] = {"crop_px": (20, 20), "augment": None, "seed": 0, "shuffle_window": 3}
    with train_reader(manifest, manifest.shards, batch_size=4, **defaults, **options) as reader:
        return list(itertools.islice(reader, num_batches))


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert [batch.keys for batch in left] == [batch.keys for batch in right]
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images_B3HW, b.images_B3HW) and torch.equal(a.labels_BHW, b.labels_BHW)


def test_the_same_batches_and_one_fetch_for_all_ranks_and_epochs(
    packed: Manifest, in_s3: Manifest, folder: Path, fetched: list[str]
) -> None:
    options: dict[str, Any] = {"cache_bytes": 1 << 30, "cache_dir": str(folder)}
    assert_equal(batches(in_s3, 12, **options), batches(packed, 12))
    fill(in_s3, folder)
    fetched.clear()
    for rank in range(2):
        share = {"rank": rank, "world": 2}
        assert_equal(batches(in_s3, 12, **options, **share), batches(packed, 12, **share))
    assert fetched == []


def test_a_reader_does_not_fetch_what_would_be_thrown_out_unread(
    packed: Manifest, in_s3: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "AHEAD_SHARE", 0.0)  # one batch is always ahead of what is read
    asked: list[int] = []

    def asking(cache: ShardCache, manifest: Manifest, shard: Shard) -> None:
        fetch_once(cache, manifest, shard)
        asked.append(len(cache._unread))

    fetch_once = ShardCache.fetch
    monkeypatch.setattr(ShardCache, "fetch", asking)
    options: dict[str, Any] = {"cache_bytes": 1 << 30, "cache_dir": str(folder), "prefetch_batches": 1}
    assert_equal(batches(in_s3, 12, **options), batches(packed, 12))
    assert 0 < max(asked) <= 2 * 4  # shards of a batch of four that is being made, and of one ahead


def test_a_damaged_file_is_dropped_and_the_sample_read_again(packed: Manifest, in_s3: Manifest, folder: Path) -> None:
    options: dict[str, Any] = {"cache_bytes": 1 << 30, "cache_dir": str(folder)}
    fill(in_s3, folder)
    for path in folder.glob("*.tar"):
        path.write_bytes(b"x" * path.stat().st_size)
    assert_equal(batches(in_s3, 12, **options), batches(packed, 12))


def test_another_shard_of_the_same_length_is_not_trusted(packed: Manifest, in_s3: Manifest, folder: Path) -> None:
    options: dict[str, Any] = {"cache_bytes": 1 << 30, "cache_dir": str(folder)}
    uris = [storage.join(in_s3.uri, shard.name) for shard in in_s3.shards]
    sound = [storage.read_bytes(uri) for uri in uris]
    for uri, data in zip(uris, sound, strict=True):
        storage.write_bytes(uri, b"x" * len(data))
    cache = ShardCache(str(folder), 1 << 30)
    for shard in in_s3.shards:
        fetch(cache, in_s3, shard, folder)
    cache.close()
    with pytest.raises(DataError, match=r"train/.*\.tar: .* is not as packed \(its CRC differs\)"):
        batches(in_s3, 1, **options)
    for uri, data in zip(uris, sound, strict=True):
        storage.write_bytes(uri, data)
    assert_equal(batches(in_s3, 12, **options), batches(packed, 12))


def test_local_shards_are_not_copied(packed: Manifest, folder: Path) -> None:
    batches(packed, 4, cache_bytes=1 << 30, cache_dir=str(folder))
    assert not folder.exists()
