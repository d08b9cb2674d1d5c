import dataclasses
import gc
import io
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distseg.data.loading import Batch, eval_samples
from distseg.data.loading import source as source_module
from distseg.data.loading.plan import TrainPlan
from distseg.data.loading.sampling import streams_of
from distseg.data.shards import manifest as manifest_module
from distseg.data.shards import pack
from distseg.data.shards.formats import Shard
from distseg.data.shards.manifest import Index, Manifest, load_manifest, read_index
from tests.readers import train_reader
from tests.toy_data import LABELS, toy_samples
from tests.unit.data.loading.toy_reading import (
    AUGMENT,
    GROUPS,
    NUM_TRAIN,
    assert_equal,
    open_reader,
    originals,
    read,
)

# ---- training


def test_a_batch_holds_what_was_packed(pristine: Path) -> None:
    samples = originals("train", NUM_TRAIN)
    for batch in read(pristine, 7):
        assert batch.images_B3HW.dtype == batch.labels_BHW.dtype == torch.uint8
        assert batch.images_B3HW.shape == (4, 3, 20, 20)
        assert batch.images_B3HW.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels_BHW.is_contiguous()
        assert batch.num_bad == 0
        for image_3HW, label_HW, key in zip(batch.images_B3HW, batch.labels_BHW, batch.keys, strict=True):
            loaded = samples[key.rpartition("/")[2]].load()
            image = np.asarray(Image.open(io.BytesIO(loaded.image)))[2:22, 10:30]  # the centre of 24 x 40
            assert np.array_equal(image_3HW.permute(1, 2, 0).numpy(), image)
            assert np.array_equal(label_HW.numpy(), loaded.label_HW[2:22, 10:30])


def test_two_epochs_have_every_sample_twice(pristine: Path) -> None:
    keys = [key for batch in read(pristine, 2 * NUM_TRAIN // 4) for key in batch.keys]
    epochs = [keys[:NUM_TRAIN], keys[NUM_TRAIN:]]
    for epoch in epochs:
        assert len(epoch) == NUM_TRAIN
        assert {key.rpartition("/")[2] for key in epoch} == set(originals("train", NUM_TRAIN))
    assert epochs[0] != epochs[1]


def test_the_reader_follows_the_plan(pristine: Path) -> None:
    shards = load_manifest(str(pristine)).select("train")
    plan = TrainPlan(streams_of([shards], "each"), batch_size=4, seed=0, shuffle_window=6)
    for b, batch in enumerate(read(pristine, 5)):
        assert batch.positions == tuple(range(4 * b, 4 * b + 4))
        assert [key.rpartition("/")[0] for key in batch.keys] == [shards[ref.shard].name for ref in plan.batch(b)]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_read_what_one_reads(pristine: Path, world: int) -> None:
    alone = read(pristine, 9, augment=AUGMENT)
    ranks = [read(pristine, 9, augment=AUGMENT, rank=rank, world=world, num_threads=1) for rank in range(world)]
    together = [
        Batch(
            torch.cat([share.images_B3HW for share in shares]),
            torch.cat([share.labels_BHW for share in shares]),
            tuple(key for share in shares for key in share.keys),
            tuple(position for share in shares for position in share.positions),
            0,
        )
        for shares in zip(*ranks, strict=True)
    ]
    assert_equal(together, alone)


@pytest.mark.parametrize("start", [1, 6, 7, 40])
def test_resuming_continues_with_the_next_batch(pristine: Path, start: int) -> None:
    undisturbed = read(pristine, start + 3, augment=AUGMENT)
    assert_equal(read(pristine, 3, augment=AUGMENT, start_batch=start), undisturbed[start:])


def test_threads_and_prefetching_change_nothing(pristine: Path) -> None:
    expected = read(pristine, 8, augment=AUGMENT, num_threads=1, prefetch_batches=1)
    assert_equal(read(pristine, 8, augment=AUGMENT, num_threads=5, prefetch_batches=7), expected)


def test_a_sample_looks_different_in_the_next_epoch_and_with_another_seed(pristine: Path) -> None:
    def looks(**options: Any) -> list[bytes]:
        batches = read(pristine, 1, batch_size=2 * NUM_TRAIN, augment=AUGMENT, **options)
        return [image.numpy().tobytes() for image in batches[0].images_B3HW]

    both = looks() + looks(seed=1)
    assert len(set(both)) == len(both)


def test_a_batch_larger_than_the_data_set(pristine: Path) -> None:
    (batch,) = read(pristine, 1, batch_size=3 * NUM_TRAIN)
    assert len(batch.keys) == 3 * NUM_TRAIN
    assert set(map(batch.keys.count, batch.keys)) == {3}


def test_only_the_chosen_conditions_are_read(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    options: dict[str, Any] = {"batch_size": 4, "crop_px": (20, 20), "augment": None, "seed": 0}
    with train_reader(manifest, manifest.select("train", ["night"]), **options) as reader:
        keys = [key for batch in itertools.islice(reader, 10) for key in batch.keys]
    assert all(key.startswith("train/night-town-") for key in keys)


def test_prefetching_is_bounded(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_read
        num_read += 1
        return manifest_module.view_sample(*args, **kwargs)

    monkeypatch.setattr(source_module, "view_sample", counting)
    with open_reader(pristine, prefetch_batches=2, num_threads=1) as reader:
        for b in range(10):
            next(reader)
            assert num_read <= (b + 1 + 2) * 4
        assert reader.next_batch == 10
        assert reader.wait_s > 0


def test_memory_of_dropped_batches_is_used_again_and_that_of_kept_ones_is_not(pristine: Path) -> None:
    with open_reader(pristine, prefetch_batches=1) as reader:
        kept = next(reader).images_B3HW[0]  # a part of it keeps all of it
        pixels = kept.clone()
        places = {next(reader).images_B3HW.data_ptr() for _ in range(20)}
        assert len(places) <= 3
        assert kept.data_ptr() not in places
        assert torch.equal(kept, pixels)


def test_pinned_batches_hold_the_same(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory needs the driver of a GPU: here it is only seen that it is asked for."""
    pinned: list[torch.Tensor] = []
    new = torch.empty

    def empty(*args: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        pinned.extend([new(*args, **options)] if pin_memory else [])
        return pinned[-1] if pin_memory else new(*args, **options)

    expected = read(pristine, 3)
    monkeypatch.setattr(torch, "empty", empty)
    batches = read(pristine, 3, pin_memory=True)
    assert_equal(batches, expected)
    places = {tensor.data_ptr() for tensor in pinned}
    assert {tensor.data_ptr() for batch in batches for tensor in (batch.images_B3HW, batch.labels_BHW)} <= places


def test_indices_are_read_when_their_turn_comes(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_names: list[str] = []

    def counting(manifest: Manifest, shard: Shard, **kwargs: Any) -> Index:
        read_names.append(shard.name)
        return read_index(manifest, shard, **kwargs)

    monkeypatch.setattr(source_module, "read_index", counting)
    with open_reader(pristine, batch_size=2, prefetch_batches=1, num_threads=4, shuffle_window=1) as reader:
        next(reader)
        assert len(read_names) <= 4
        list(itertools.islice(reader, 10))  # 24 of 26 samples have been asked for: no second epoch yet
    assert len(read_names) == len(set(read_names))  # once each, however many threads ask


def test_the_cache_of_indices_is_bounded(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    cache = source_module.IndexCache(manifest, 2, deadline_s=1)
    for shard in manifest.shards * 2:
        assert len(cache.get(shard).entries) == shard.num_samples
        assert len(cache._indices) <= 2


# ---- shutting down


def test_closing_in_the_middle_leaves_no_thread(pristine: Path) -> None:
    reader = open_reader(pristine, prefetch_batches=50, num_threads=4)
    next(reader)
    reader.close()
    reader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(reader)


def test_a_dropped_reader_leaves_no_thread(pristine: Path) -> None:
    reader = open_reader(pristine)
    next(reader)
    del reader
    gc.collect()


def test_an_abandoned_reader_does_not_keep_the_program_alive(pristine: Path) -> None:
    program = f"""
import threading
from distseg.data.loading import reader, source
from distseg.data.shards import load_manifest
source.view_sample = lambda *args, **kwargs: threading.Event().wait()  # a network that never answers
from distseg.data.loading import threads
threads._JOIN_S = 0.2
manifest = load_manifest({str(pristine)!r})
options = reader.ReadOptions(batch_size=2, crop_px=(8, 8), augment=None, seed=0)
r = reader.TrainReader([reader.DatasetPart(manifest, manifest.shards)], options)
print("made")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("made\n", 0), done.stderr


def test_importing_the_reader_needs_neither_ray_nor_mlflow_nor_boto3_nor_webdataset() -> None:
    program = (
        "import sys, distseg.data.loading, distseg.data.shards; "
        "print([m for m in ('ray', 'mlflow', 'boto3', 'webdataset') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("dataset", "sequence", "expected"),
    [
        ("toy", "drive-7", "drive-7"),
        ("toy", "all", ""),  # folder's, where no sequence is named
        ("toy", "", ""),
        ("town", "town-highway-fog", ""),  # single scenes, whatever they say
    ],
)
def test_evaluation_tells_the_sequence_of_frames_and_of_nothing_else(
    dataset: str, sequence: str, expected: str, tmp_path: Path
) -> None:
    samples = [dataclasses.replace(sample, sequence=sequence) for sample in toy_samples(3, "val", GROUPS)]
    pack({"val": samples}, LABELS, str(tmp_path), dataset=dataset)
    manifest = load_manifest(str(tmp_path))
    assert [sample.sequence for sample in eval_samples(manifest, manifest.shards)] == [expected] * 3
