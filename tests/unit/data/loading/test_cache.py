import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg import storage
from distseg.data.loading import Batch
from distseg.data.loading import cache as cache_module
from distseg.data.loading.cache import ShardCache
from distseg.data.shards import pack
from distseg.data.shards.formats import Shard
from distseg.data.shards.manifest import Manifest, load_manifest
from distseg.errors import DataError, StorageError
from tests.readers import train_reader
from tests.toy_data import LABELS, toy_samples

NUM_SAMPLES = 24


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    uri = str(tmp_path_factory.mktemp("packed"))
    return pack({"train": toy_samples(NUM_SAMPLES)}, LABELS, uri, dataset="toy", max_samples_per_shard=4)


@pytest.fixture
def in_s3(packed: Manifest, moto_s3: str) -> Manifest:
    for entry in storage.list_files(packed.uri):
        storage.upload(entry.uri, storage.join(moto_s3, str(Path(entry.uri).relative_to(packed.uri))))
    return load_manifest(moto_s3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read from the store by caches: names of shards, once per piece or range."""
    names: list[str] = []

    class CountingStorage:
        join = staticmethod(storage.join)
        OpenFiles = storage.OpenFiles

        @staticmethod
        def read_bytes(uri: str, *range_: Any, **options: Any) -> bytes:
            names.append(uri)
            return storage.read_bytes(uri, *range_, **options)

        @staticmethod
        def read_into(view: memoryview, uri: str, *start: int, **options: Any) -> int:
            names.append(uri)
            return storage.read_into(view, uri, *start, **options)

    monkeypatch.setattr(cache_module, "storage", CountingStorage)
    return names


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    wait_for(lambda: not any(thread.name.startswith("distseg-") for thread in threading.enumerate()))


def wait_for(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until_s, "never came true"
        time.sleep(0.01)


def read(cache: ShardCache, manifest: Manifest, shard: Shard, start: int = 0, length: int = 1 << 30) -> bytes:
    return cache.read_bytes(manifest, shard, storage.join(manifest.uri, shard.name), start, length, deadline_s=5)


def original(manifest: Manifest, shard: Shard) -> bytes:
    return (Path(manifest.uri) / shard.name).read_bytes()


def cached(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.tar")}


def fetch(cache: ShardCache, manifest: Manifest, shard: Shard, folder: Path) -> None:
    cache.fetch(manifest, shard)
    wait_for(lambda: shard.sha256 in cached(folder))


def fill(manifest: Manifest, folder: Path) -> None:
    cache = ShardCache(str(folder), 1 << 30)
    for shard in manifest.shards:
        fetch(cache, manifest, shard, folder)
    cache.close()


def test_read_from_the_store_first_and_from_the_file_then(packed: Manifest, folder: Path, fetched: list[str]) -> None:
    shard = packed.shards[0]
    with_cache = ShardCache(str(folder), 1 << 30)
    assert read(with_cache, packed, shard, 100, 2000) == original(packed, shard)[100:2100]
    wait_for(lambda: shard.sha256 in cached(folder))
    assert len(fetched) == 2
    for start, length in ((0, 1 << 30), (512, 700), (shard.num_bytes - 5, 100)):
        assert read(with_cache, packed, shard, start, length) == original(packed, shard)[start : start + length]
    assert len(fetched) == 2
    with_cache.close()
    assert not list(folder.glob("*.part"))


def test_a_file_of_many_pieces(packed: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "PIECE_BYTES", 1000)
    shard = packed.shards[0]
    cache = ShardCache(str(folder), 1 << 30)
    fetch(cache, packed, shard, folder)
    assert (folder / f"{shard.sha256}.tar").read_bytes() == original(packed, shard)
    cache.close()


def test_each_shard_is_fetched_once_for_all(packed: Manifest, folder: Path, fetched: list[str]) -> None:
    """A lock belongs to an open file, so caches of one process stand for those of many."""
    caches = [ShardCache(str(folder), 1 << 30) for _ in range(4)]
    for cache, shard in itertools.product(caches, packed.shards):
        cache.fetch(packed, shard)
    wait_for(lambda: len(cached(folder)) == len(packed.shards))
    for cache in caches:
        cache.close()
    assert sorted(fetched) == sorted(storage.join(packed.uri, shard.name) for shard in packed.shards)


def test_the_limit_of_bytes_holds_and_the_oldest_goes(
    packed: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "KEPT_S", 0.0)
    first, second, third = packed.shards[:3]
    limit = 2 * max(shard.num_bytes for shard in packed.shards) + 1
    cache = ShardCache(str(folder), limit)
    for age, shard in ((200, first), (100, second)):
        fetch(cache, packed, shard, folder)
        then = time.time() - age
        os.utime(folder / f"{shard.sha256}.tar", (then, then))
    read(cache, packed, first, 0, 10)  # now it is the newest
    fetch(cache, packed, third, folder)
    assert cached(folder) == {first.sha256, third.sha256}
    assert sum(path.stat().st_size for path in folder.glob("*.tar")) <= limit
    cache.close()


def test_for_a_shard_that_never_fits_nothing_is_removed(
    packed: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "KEPT_S", 0.0)
    first, second = packed.shards[:2]
    with contextlib.closing(ShardCache(str(folder), first.num_bytes)) as cache:
        fetch(cache, packed, first, folder)
        cache.fetch(packed, dataclasses.replace(second, num_bytes=first.num_bytes + 1))
        wait_for(lambda: cache._not_before_s[second.sha256] < time.monotonic() + 60)  # it has been tried
        assert cached(folder) == {first.sha256}


@pytest.mark.parametrize("noted", ["", "no number", "1000000000000"])
def test_what_is_taken_is_counted_again_when_there_seems_to_be_no_room(
    packed: Manifest, folder: Path, noted: str
) -> None:
    """As after files were removed by hand, or by what a killed process had noted and not done."""
    folder.mkdir()
    (folder / "lock").write_text(noted)
    with contextlib.closing(ShardCache(str(folder), 1 << 30)) as cache:
        for num_fetched, shard in enumerate(packed.shards[:2], 1):
            fetch(cache, packed, shard, folder)
            taken = sum(shard.num_bytes for shard in packed.shards[:num_fetched])
            assert int((folder / "lock").read_text()) == taken


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc, which Linux has")
def test_no_file_stays_open_for_longer_than_it_is_kept(
    packed: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process removes frees its place only then."""

    def num_open() -> int:
        return sum(os.path.realpath(link).endswith(".tar") for link in Path("/proc/self/fd").iterdir())

    with contextlib.closing(ShardCache(str(folder), 1 << 30)) as cache:
        for shard in packed.shards[:2]:
            fetch(cache, packed, shard, folder)
            read(cache, packed, shard)
        assert num_open() == 2
        monkeypatch.setattr(cache_module, "KEPT_S", 0.0)
        read(cache, packed, packed.shards[0])
        assert num_open() == 0


def test_what_is_in_use_stays_and_the_rest_is_read_from_the_store(packed: Manifest, folder: Path) -> None:
    first, second = packed.shards[:2]
    cache = ShardCache(str(folder), first.num_bytes + 100)
    fetch(cache, packed, first, folder)
    assert read(cache, packed, second) == original(packed, second)
    wait_for(lambda: cache._not_before_s[second.sha256] < time.monotonic() + 60)  # it has been tried
    assert cached(folder) == {first.sha256}
    assert not list(folder.glob("*.part"))
    cache.close()


@pytest.mark.parametrize("hours", [-5.0, 5.0])
def test_after_the_clock_is_set_room_is_made_and_what_is_read_now_stays(
    packed: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    first, second, third = packed.shards[:3]
    with contextlib.closing(ShardCache(str(folder), 2 * max(shard.num_bytes for shard in packed.shards) + 1)) as cache:
        for shard in (first, second):
            fetch(cache, packed, shard, folder)
            before = time.time() - hours * 3600
            os.utime(folder / f"{shard.sha256}.tar", (before, before))
        read(cache, packed, first, 0, 10)
        fetch(cache, packed, third, folder)
        assert cached(folder) == {first.sha256, third.sha256}


def test_a_hanging_fetch_stops_nobody(packed: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(ShardCache, "_fill", lambda *_: released.wait(20))
    cache = ShardCache(str(folder), 1 << 30)
    for shard in packed.shards:
        assert read(cache, packed, shard) == original(packed, shard)
    released.set()
    cache.close()


def test_nothing_is_fetched_before_what_is_needed_at_once(packed: Manifest, folder: Path, fetched: list[str]) -> None:
    first: list[Future[None]] = [Future(), Future()]
    with contextlib.closing(ShardCache(str(folder), 1 << 30)) as cache:
        cache.hold()
        cache.fetch(packed, packed.shards[0])
        cache.go_on_after(first)
        first[1].set_result(None)
        time.sleep(0.1)
        assert fetched == []
        first[0].set_exception(OSError())
        wait_for(lambda: cached(folder) == {packed.shards[0].sha256})
        cache.hold()
        cache.fetch(packed, packed.shards[1])
    assert len(cached(folder)) == 1


def test_it_is_far_ahead_until_what_was_fetched_is_read(
    packed: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = packed.shards[:3]
    monkeypatch.setattr(cache_module, "AHEAD_SHARE", 0.5)
    with contextlib.closing(ShardCache(str(folder), 2 * (first.num_bytes + second.num_bytes))) as cache:
        for shard in (first, second):
            assert not cache.is_far_ahead()
            fetch(cache, packed, shard, folder)
        assert not cache.is_far_ahead()
        cache.fetch(packed, third)
        assert cache.is_far_ahead()
        cache.fetch(packed, third)  # counts once
        read(cache, packed, first, 0, 1)
        assert not cache.is_far_ahead()
        for shard in (second, third):
            read(cache, packed, shard, 0, 1)
        assert not cache._unread


def test_a_killed_process_leaves_nothing_that_is_trusted(packed: Manifest, folder: Path) -> None:
    """Its half-written file is there, with the right size, and nobody's lock."""
    shard = packed.shards[0]
    program = f"""
import time
from distseg.data.loading import cache
from distseg.data.shards import load_manifest
cache.PIECE_BYTES = 1000
class SlowStorage(type(cache.storage)):
    join = staticmethod(cache.storage.join)
    OpenFiles = cache.storage.OpenFiles
    @staticmethod
    def read_into(view, uri, start, **_):
        if start:
            print("half", flush=True)
            time.sleep(60)
        view[:] = b"x" * len(view)
        return len(view)
cache.storage = SlowStorage
manifest = load_manifest({packed.uri!r})
cache.ShardCache({str(folder)!r}, 1 << 30).fetch(manifest, manifest.shards[0])
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == "half\n"
        cache = ShardCache(str(folder), 1 << 30)
        assert read(cache, packed, shard) == original(packed, shard)  # while the other one has the lock
        cache.close()
        killed.send_signal(signal.SIGKILL)
    assert not cached(folder)
    assert (folder / f"{shard.sha256}.part").stat().st_size == shard.num_bytes
    cache = ShardCache(str(folder), 1 << 30)
    fetch(cache, packed, shard, folder)
    assert read(cache, packed, shard) == original(packed, shard)
    cache.close()


def test_what_is_not_the_packed_shard_is_not_kept(
    packed: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage, "read_into", lambda *_, **__: 10)
    cache = ShardCache(str(folder), 1 << 30)
    cache.fetch(packed, packed.shards[0])
    wait_for(lambda: "shorter than when it was packed" in caplog.text)
    cache.close()
    assert not cached(folder)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"^data\.cache_dir .*file/x: Not a directory; give another, or data\.cache"):
        ShardCache(str(tmp_path / "file" / "x"), 1 << 30)


# ---- under a reader


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
