"""What tests do with a cache: shards fetched into it, and read of it."""

import time
from collections.abc import Callable
from pathlib import Path

from distseg import storage
from distseg.data.loading.cache import ShardCache
from distseg.data.shards.formats import Shard
from distseg.data.shards.manifest import Manifest


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
