import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distseg.data.shards import pack
from tests.toy_data import LABELS, toy_samples
from tests.unit.data.loading.toy_reading import GROUPS, NUM_TRAIN


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    samples = {"train": toy_samples(NUM_TRAIN, "train", GROUPS), "val": toy_samples(11, "val", GROUPS)}
    pack(samples, LABELS, str(out), dataset="toy", max_samples_per_shard=5)
    return out


@pytest.fixture
def packed(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 5
    while not set(threading.enumerate()) <= before and time.monotonic() < until:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before
