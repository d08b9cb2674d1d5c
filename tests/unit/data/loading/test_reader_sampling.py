"""What a training reads where conditions or classes are balanced, or data sets are mixed."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distseg.config import AugmentConfig
from distseg.data.loading import Batch, DatasetPart
from distseg.data.sample import LabelledImage
from distseg.data.shards import pack
from distseg.data.shards.manifest import load_manifest
from distseg.errors import DataError
from tests.readers import train_reader
from tests.toy_data import LABELS, toy_samples
from tests.unit.data.loading.toy_reading import (
    AUGMENT,
    NUM_TRAIN,
    assert_equal,
    damage_image,
    damaged,
    png,
    read,
)

# ---- conditions, classes, mixtures


@pytest.fixture(scope="session")
def another(tmp_path_factory: pytest.TempPathFactory) -> DatasetPart:
    """7 samples of the same classes, in fog."""
    out = tmp_path_factory.mktemp("another")
    pack({"train": toy_samples(7, "train", [("fog", "town")])}, LABELS, str(out), dataset="foggy")
    manifest = load_manifest(str(out))
    return DatasetPart(manifest, manifest.select("train"))


def conditions_of(batch: Batch) -> list[str]:
    return [key.split("/")[-2].split("-")[0] for key in batch.keys]


@pytest.fixture(scope="session")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 samples by day, 4 by night; a car, 3 pixels high and wide, in one of five."""
    out = tmp_path_factory.mktemp("unequal")
    samples = toy_samples(20, "train", [("day", "town")]) + toy_samples(4, "night", [("night", "town")])
    samples = [
        dataclasses.replace(s, split="train", load=functools.partial(load_rare, i)) for i, s in enumerate(samples)
    ]
    pack({"train": samples}, LABELS, str(out), dataset="unequal", max_samples_per_shard=6)
    return out


def load_rare(i: int) -> LabelledImage:
    label_HW = np.zeros((60, 80), dtype=np.uint8)
    if i % 5 == 0:
        y, x = np.random.default_rng(i).integers(0, (57, 77))
        label_HW[y : y + 3, x : x + 3] = 2
    return LabelledImage(png(np.zeros((60, 80, 3), np.uint8)), "png", label_HW)


def test_conditions_are_balanced_in_each_batch(unequal: Path) -> None:
    for batch in read(unequal, 12, sampling="condition"):
        assert sorted(conditions_of(batch)) == ["day", "day", "night", "night"]


def test_what_is_drawn_for_a_rare_class_shows_it_and_so_do_its_crops(unequal: Path) -> None:
    """No sky is to be seen: of four slots two are the car's. A crop of 20 x 20 would find it in one of 18."""
    augment = AugmentConfig(scale=(0.7, 2.0), rotate_deg=30)
    for batch in read(unequal, 60, sampling="class", augment=augment):
        assert sum(int(key.rpartition("_")[2]) % 5 == 0 for key in batch.keys) >= 2
        assert sum(bool((label_HW == 2).any()) for label_HW in batch.labels_BHW) >= 2


def test_in_a_mixture_keys_and_errors_say_which_data_set(packed: Path, another: DatasetPart) -> None:
    (batch,) = read(packed, 1, mix=[another], batch_size=16)
    uris = {key.rsplit("/", 3)[0] for key in batch.keys}
    assert uris == {str(packed), another.manifest.uri}
    shard, entry = damaged(packed, damage_image)
    with pytest.raises(DataError, match=rf"in {packed}/ {shard.name}: {entry.key}\.png is not as packed"):
        read(packed, NUM_TRAIN, mix=[another])
    skipped = read(packed, NUM_TRAIN, mix=[another], on_bad_sample="skip")
    assert any(f"{packed}/{shard.name}/{entry.key}" in batch.keys and batch.num_bad for batch in skipped)


@pytest.mark.parametrize("sampling", ["condition", "class"])
def test_any_sampling_is_the_same_for_any_world_and_resumes_at_any_batch(
    pristine: Path, another: DatasetPart, sampling: str
) -> None:
    options: dict[str, Any] = {"sampling": sampling, "mix": [another], "mix_weights": (1, 2), "augment": AUGMENT}
    alone = read(pristine, 9, **options)
    assert_equal(read(pristine, 3, start_batch=6, num_threads=4, **options), alone[6:])
    shares = [read(pristine, 9, rank=rank, world=2, **options) for rank in range(2)]
    for b, whole in enumerate(alone):
        assert torch.equal(torch.cat([share[b].images_B3HW for share in shares]), whole.images_B3HW)
        assert torch.equal(torch.cat([share[b].labels_BHW for share in shares]), whole.labels_BHW)


def test_a_mixture_has_its_weights_in_each_batch_and_every_sample_of_each_data_set(
    pristine: Path, another: DatasetPart
) -> None:
    batches = read(pristine, 60, mix=[another], mix_weights=(3, 1))
    assert all(conditions_of(batch).count("fog") == 1 for batch in batches)
    keys = [key for batch in batches for key in batch.keys]
    assert {keys.count(key) for key in keys if "/fog-" in key} <= {7, 8, 9, 10}  # 60 slots for 7 samples
    assert {keys.count(key) for key in keys if "/fog-" not in key} <= {6, 7, 8}  # 180 slots for 26
    assert len(set(keys)) == 7 + NUM_TRAIN


def test_a_manifest_that_promises_more_than_the_index_holds_is_named(unequal: Path) -> None:
    manifest = load_manifest(str(unequal))
    shards = [dataclasses.replace(s, class_samples=(0, 0, s.num_samples)) for s in manifest.select("train")]
    options: dict[str, Any] = {"batch_size": 4, "crop_px": (20, 20), "augment": None, "seed": 0, "sampling": "class"}
    with (
        pytest.raises(DataError, match="fewer samples that show class 2 in its index than in the manifest; pack"),
        train_reader(manifest, shards, **options) as reader,
    ):
        list(itertools.islice(reader, 20))
