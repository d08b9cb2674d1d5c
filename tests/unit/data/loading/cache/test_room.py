"""The room on the disk: its limit holds, what is in use stays, and nothing is fetched too far ahead."""

import contextlib
import dataclasses
import os
import time
from pathlib import Path

import pytest

from distseg.data.loading import cache as cache_module
from distseg.data.loading.cache import ShardCache
from distseg.data.shards.manifest import Manifest
from tests.unit.data.loading.cache.caching import cached, fetch, original, read, wait_for


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
        opened = (Path(os.path.realpath(link)) for link in Path("/proc/self/fd").iterdir())
        return sum(path.parent == folder and path.suffix == ".tar" for path in opened)

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
