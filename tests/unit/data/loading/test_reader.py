import dataclasses
import functools
import gc
import hashlib
import io
import itertools
import logging
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from distseg import storage
from distseg.config import AugmentConfig
from distseg.data.loading import Batch, DatasetPart, TrainReader, eval_samples
from distseg.data.loading import source as source_module
from distseg.data.loading.plan import TrainPlan
from distseg.data.loading.sampling import streams_of
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import manifest as manifest_module
from distseg.data.shards import pack
from distseg.data.shards.formats import IndexEntry, Shard
from distseg.data.shards.manifest import Index, Manifest, index_json, load_manifest, read_index
from distseg.errors import DataError, StorageError
from tests.readers import train_reader
from tests.toy_data import LABELS, toy_samples

GROUPS = [("day", "town"), ("night", "town")]
AUGMENT = AugmentConfig(jitter=0.2)
NUM_TRAIN = 26


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


def open_reader(out: Path, **options: Any) -> TrainReader:
    manifest = load_manifest(str(out))
    defaults: dict[str, Any] = {"batch_size": 4, "crop_px": (20, 20), "augment": None, "seed": 0, "shuffle_window": 6}
    return train_reader(manifest, manifest.select("train"), **{**defaults, **options})


def read(out: Path, num_batches: int, **options: Any) -> list[Batch]:
    with open_reader(out, **options) as reader:
        return list(itertools.islice(reader, num_batches))


def originals(split: str, num_samples: int) -> dict[str, Sample]:
    return {sample.key: sample for sample in toy_samples(num_samples, split, GROUPS)}


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.keys, a.positions, a.num_bad) == (b.keys, b.positions, b.num_bad)
        assert torch.equal(a.images_B3HW, b.images_B3HW)
        assert torch.equal(a.labels_BHW, b.labels_BHW)


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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("made\n", 0), done.stderr


def test_an_evaluation_broken_off_leaves_no_thread(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    samples = eval_samples(manifest, manifest.select("val"))
    next(samples)
    del samples
    gc.collect()


# ---- broken data


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def damage_image(out: Path, shard: Shard, entry: IndexEntry) -> None:
    flip(out / shard.name, entry.image.offset + entry.image.size // 2)


def damage_label(out: Path, shard: Shard, entry: IndexEntry) -> None:
    flip(out / shard.name, entry.label.offset + entry.label.size // 2)


def truncate(out: Path, shard: Shard, entry: IndexEntry) -> None:
    path = out / shard.name
    path.write_bytes(path.read_bytes()[: entry.label.offset + 5])


Damage = Callable[[Path, Shard, IndexEntry], None]
DAMAGES = [
    (damage_image, r"{key}\.png is not as packed \(its CRC differs\)"),
    (damage_label, r"{key}\.label\.png is not as packed \(its CRC differs\)"),
    (truncate, "truncated before the end of sample {key}"),
]


def damaged(out: Path, damage: Damage) -> tuple[Shard, IndexEntry]:
    """Damages the last sample of the second shard."""
    manifest = load_manifest(str(out))
    shard = manifest.select("train")[1]
    entry = read_index(manifest, shard).entries[-1]
    damage(out, shard, entry)
    return shard, entry


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_named(packed: Path, damage: Damage, message: str) -> None:
    shard, entry = damaged(packed, damage)
    with pytest.raises(DataError, match=rf"{shard.name}: {message.format(key=entry.key)}"):
        read(packed, NUM_TRAIN)
    manifest = load_manifest(str(packed))
    with pytest.raises(DataError, match=rf"{shard.name}: {message.format(key=entry.key)}"):
        list(eval_samples(manifest, manifest.select("train")))


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_skipping_fills_the_slot_with_void(
    packed: Path, pristine: Path, damage: Damage, message: str, world: int, caplog: pytest.LogCaptureFixture
) -> None:
    shard, entry = damaged(packed, damage)
    key = f"{shard.name}/{entry.key}"
    sound = [share for rank in range(world) for share in read(pristine, 7, augment=AUGMENT, rank=rank, world=world)]
    with caplog.at_level(logging.WARNING):
        options: dict[str, Any] = {"augment": AUGMENT, "on_bad_sample": "skip", "world": world}
        skipped = [share for rank in range(world) for share in read(packed, 7, rank=rank, **options)]
    assert [batch.keys for batch in skipped] == [batch.keys for batch in sound]
    num_bad = 0
    for ours, reference in zip(skipped, sound, strict=True):
        assert ours.num_bad == ours.keys.count(key)
        for i, name in enumerate(ours.keys):
            if name == key:
                num_bad += 1
                assert (ours.labels_BHW[i] == 255).all()
                assert ours.images_B3HW[i].float().std() > 0  # somebody's photograph
            else:
                assert torch.equal(ours.images_B3HW[i], reference.images_B3HW[i])
                assert torch.equal(ours.labels_BHW[i], reference.labels_BHW[i])
    assert num_bad >= 1
    assert any("skipped bad sample 1 of at most 100" in r.message and shard.name in r.message for r in caplog.records)


def test_skipping_stops_above_its_limit(packed: Path) -> None:
    shard, _ = damaged(packed, damage_image)
    with pytest.raises(DataError, match=rf"more than data\.max_bad_samples = 1 bad samples; the last: {shard.name}"):
        read(packed, NUM_TRAIN, on_bad_sample="skip", max_bad_samples=1)


def test_the_replacement_is_the_same_for_any_number_of_ranks(packed: Path) -> None:
    damaged(packed, damage_image)
    alone = read(packed, 7, on_bad_sample="skip")
    ranks = [read(packed, 7, on_bad_sample="skip", rank=rank, world=4) for rank in range(4)]
    for b, batch in enumerate(alone):
        assert torch.equal(torch.cat([rank[b].images_B3HW for rank in ranks]), batch.images_B3HW)


def test_a_shard_without_a_usable_index_is_skipped_whole(packed: Path) -> None:
    shard = load_manifest(str(packed)).select("train")[1]
    flip(packed / shard.index_name, 30)
    with pytest.raises(DataError, match=r"\.index\.json: the index is not the one packed for " + shard.name):
        read(packed, 7)
    batches = read(packed, 7, on_bad_sample="skip")
    bad = {key for batch in batches for key in batch.keys if "#" in key}
    assert bad == {f"{shard.name}/#{index}" for index in range(shard.num_samples)}


def test_nothing_left_to_skip_to(packed: Path) -> None:
    for shard in load_manifest(str(packed)).select("train"):
        flip(packed / shard.index_name, 30)
    with pytest.raises(DataError, match="nor can the 8 samples after it be read"):
        read(packed, 1, on_bad_sample="skip")


def test_a_missing_shard_is_not_a_bad_sample(packed: Path) -> None:
    shard = load_manifest(str(packed)).select("train")[1]
    (packed / shard.name).unlink()
    with pytest.raises(StorageError, match=f"{shard.name}: no such file"):
        read(packed, NUM_TRAIN, on_bad_sample="skip")


def test_what_is_damaged_on_its_way_is_read_again(
    pristine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: set[tuple[str, int]] = set()

    def flaky(uri: str, start: int = 0, length: int | None = None, **options: Any) -> bytes:
        data = storage.read_bytes(uri, start, length, **options)
        first_time = (uri, start) not in seen
        seen.add((uri, start))
        return data[:-7] if first_time else data

    expected = read(pristine, 7)
    manifest = load_manifest(str(pristine))

    class FlakyStorage:
        join = staticmethod(storage.join)
        read_bytes = staticmethod(flaky)

    monkeypatch.setattr(manifest_module, "storage", FlakyStorage)
    monkeypatch.setattr(storage.OpenFiles, "read_bytes", lambda _, *args, **options: flaky(*args, **options))
    with train_reader(
        manifest, manifest.select("train"), batch_size=4, crop_px=(20, 20), augment=None, seed=0, shuffle_window=6
    ) as reader:
        assert_equal(list(itertools.islice(reader, 7)), expected)
    assert sum("reading again" in record.message for record in caplog.records) >= NUM_TRAIN


def forged(out: Path, member: str, content: bytes) -> tuple[Manifest, Shard]:
    """A data set whose checksums are right but whose content is not: somebody else's packer at work."""
    manifest = load_manifest(str(out))
    shard = manifest.select("val")[0]
    first, *others = read_index(manifest, shard).entries
    path = out / shard.name
    changed = getattr(first, member)._replace(offset=path.stat().st_size, size=len(content), crc32=zlib.crc32(content))
    with path.open("ab") as file:
        file.write(content)
    data = index_json(shard.name, [first._replace(**{member: changed}), *others])
    (out / shard.index_name).write_bytes(data)
    num_bytes = path.stat().st_size
    return manifest, dataclasses.replace(shard, index_sha256=hashlib.sha256(data).hexdigest(), num_bytes=num_bytes)


def damaged_jpeg() -> bytes:
    """Cut in the middle, and ended; Pillow makes grey rows of what is lost."""
    buffer = io.BytesIO()
    Image.effect_noise((40, 24), 60).convert("RGB").save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()[:1200] + b"\xff\xd9"


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("image", b"no image", "not a readable image"),
        ("image", damaged_jpeg(), "a damaged JPEG"),
        ("image", png(np.zeros((10_001, 10_000), np.uint8)), r"10000x10001 pixels are 100\.01 megapixels"),
        ("label", png(np.zeros((24, 40), np.uint8))[:45], "not a readable image"),
        ("label", png(np.full((24, 40), 3, np.uint8)), r"label ids \[3\] are outside the label space's 0 to 2"),
        ("label", png(np.zeros((24, 40, 3), np.uint8)), "an image of mode RGB where L was packed"),
        ("label", png(np.zeros((24, 41), np.uint8)), "the image is 40x24 pixels, its label 41x24"),
    ],
    ids=["image", "damaged JPEG", "bomb", "truncated label", "unknown id", "colour label", "wide label"],
)
def test_content_that_cannot_be_is_named(packed: Path, member: str, content: bytes, message: str) -> None:
    manifest, shard = forged(packed, member, content)
    key = read_index(manifest, shard).entries[0].key
    with pytest.raises(DataError, match=f"{shard.name}/{key}: {message}"):
        list(eval_samples(manifest, [shard]))


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
