"""A rank's memory does not grow with what it has read."""

import gc
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from distseg.data.shards import pack
from distseg.data.shards.manifest import load_manifest
from tests.readers import train_reader
from tests.toy_data import LABELS, toy_samples

NUM_READ = 50_000
NUM_INTERVALS = 10
BATCH = 50
MAX_GROWTH_BYTES = 4 << 20  # over the second half: 170 bytes for each sample read


@pytest.mark.long
def test_memory_is_flat_over_50000_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 250 shards, far more than the indices that are held, over 25 epochs; in a process that does nothing else."""
    pack({"train": toy_samples(2000, size_hw=(4, 4))}, LABELS, str(tmp_path), dataset="toy", max_samples_per_shard=8)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        rss = process.submit(rss_while_reading, str(tmp_path)).result()
    with capsys.disabled():
        print(f"\nRSS in MiB every {NUM_READ // NUM_INTERVALS} samples: {' '.join(f'{b / 2**20:.1f}' for b in rss)}")
    assert max(rss[NUM_INTERVALS // 2 :]) - rss[NUM_INTERVALS // 2 - 1] < MAX_GROWTH_BYTES


def rss_while_reading(uri: str) -> list[int]:
    """Bytes of this process after each interval."""
    manifest = load_manifest(uri)
    process = psutil.Process()
    rss: list[int] = []
    with train_reader(
        manifest, manifest.shards, batch_size=BATCH, crop_px=(32, 32), augment=None, seed=0, shuffle_window=8
    ) as reader:
        for _ in range(NUM_INTERVALS):
            for _ in itertools.islice(reader, NUM_READ // BATCH // NUM_INTERVALS):
                pass
            gc.collect()
            rss.append(process.memory_info().rss)
    return rss
