"""Damaged shards and indices are named, or passed over as `data.on_bad_sample` says."""

import dataclasses
import hashlib
import io
import itertools
import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distseg import storage
from distseg.data.loading import eval_samples
from distseg.data.shards import manifest as manifest_module
from distseg.data.shards.formats import Shard
from distseg.data.shards.manifest import Manifest, index_json, load_manifest, read_index
from distseg.errors import DataError, StorageError
from tests.readers import train_reader
from tests.unit.data.loading.toy_reading import (
    AUGMENT,
    NUM_TRAIN,
    Damage,
    assert_equal,
    damage_image,
    damage_label,
    damaged,
    flip,
    png,
    read,
    truncate,
)

DAMAGES = [
    (damage_image, r"{key}\.png is not as packed \(its CRC differs\)"),
    (damage_label, r"{key}\.label\.png is not as packed \(its CRC differs\)"),
    (truncate, "truncated before the end of sample {key}"),
]


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
