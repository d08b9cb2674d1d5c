"""Shards are fetched once for all processes, and nothing that a process left behind is trusted."""

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from distseg import storage
from distseg.data.loading import cache as cache_module
from distseg.data.loading.cache import ShardCache
from distseg.data.shards.manifest import Manifest
from distseg.errors import StorageError
from tests.unit.data.loading.cache.caching import cached, fetch, original, read, wait_for


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
