import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distseg import storage
from distseg.data.loading import cache as cache_module
from distseg.data.shards import pack
from distseg.data.shards.manifest import Manifest, load_manifest
from tests.toy_data import LABELS, toy_samples
from tests.unit.data.loading.cache.caching import wait_for

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
