import gc
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distseg.data.loading import eval_samples
from distseg.data.shards.manifest import load_manifest
from tests.unit.data.loading.toy_reading import (
    originals,
)


def test_an_evaluation_broken_off_leaves_no_thread(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    samples = eval_samples(manifest, manifest.select("val"))
    next(samples)
    del samples
    gc.collect()


# ---- evaluation


@pytest.mark.parametrize("world", [1, 2, 3, 64])
def test_evaluation_reads_every_sample_once(pristine: Path, world: int) -> None:
    manifest = load_manifest(str(pristine))
    samples = originals("val", 11)
    seen = []
    for rank in range(world):
        for item in eval_samples(manifest, manifest.select("val"), rank=rank, world=world, prefetch=3):
            sample = samples[item.key.rpartition("/")[2]]
            loaded = sample.load()
            assert (item.condition, item.site) == (sample.condition, sample.site)
            assert item.image_3HW.dtype == item.label_HW.dtype == torch.uint8
            image_HW3 = np.asarray(Image.open(io.BytesIO(loaded.image)))
            assert np.array_equal(item.image_3HW.permute(1, 2, 0).numpy(), image_HW3)
            assert np.array_equal(item.label_HW.numpy(), loaded.label_HW)
            seen.append(sample.key)
    assert sorted(seen) == sorted(samples)
