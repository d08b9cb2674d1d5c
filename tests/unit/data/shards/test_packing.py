import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from distseg.data.loading import eval_samples
from distseg.data.processes import in_processes
from distseg.data.shards import (
    Manifest,
    load_manifest,
    pack,
    read_index,
    read_sample,
    verify,
)
from distseg.errors import DataError
from tests.toy_data import LABELS, toy_samples
from tests.unit.data.shards.toy_shards import GROUPS, files_of, pack_toy

# ---- packing


def test_layout_and_manifest(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    assert manifest.dataset == "toy"
    assert manifest.splits == ("train", "val")
    assert manifest.conditions("train") == ("day", "night")
    assert (manifest.label_space.classes, manifest.label_space.palette) == (LABELS.classes, LABELS.palette)
    names = [shard.name for shard in manifest.select("train", ["night"])]
    assert names == [f"train/night-town-{i:05d}.tar" for i in range(3)]
    assert [shard.num_samples for shard in manifest.select("train", ["night"])] == [4, 3, 3]  # balanced, not 4 4 2
    assert sum(shard.num_samples for shard in manifest.shards) == 37
    expected = {name for shard in manifest.shards for name in (shard.name, shard.index_name)} | {"manifest.json"}
    assert set(files_of(pristine)) == expected


def test_each_shard_has_one_condition_and_site(pristine: Path) -> None:
    for shard in load_manifest(str(pristine)).shards:
        with tarfile.open(pristine / shard.name) as tar:
            assert tar.pax_headers == {}
            for info in tar:
                assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o444)
                if info.name.endswith(".json"):
                    content = tar.extractfile(info)
                    assert content is not None
                    meta = json.load(content)
                    assert set(meta) == {"condition", "site", "sequence", "split", "source"}
                    assert (meta["condition"], meta["site"], meta["split"]) == (
                        shard.condition,
                        shard.site,
                        shard.split,
                    )
        assert (pristine / shard.name).read_bytes()[257:265] == b"ustar\x0000"  # POSIX, neither GNU nor pax


def test_same_input_same_bytes_for_any_number_of_processes(pristine: Path, tmp_path: Path) -> None:
    manifest = pack_toy(tmp_path / "again", run=in_processes(2))
    assert files_of(tmp_path / "again") == files_of(pristine)
    assert manifest.digest == load_manifest(str(pristine)).digest


def test_the_seed_decides_the_order(pristine: Path, tmp_path: Path) -> None:
    def order(manifest: Manifest) -> list[str]:
        return [key for shard in manifest.select("train") for key in read_index(manifest, shard).keys]

    first, other = load_manifest(str(pristine)), pack_toy(tmp_path / "other", seed=1)
    assert order(first) != sorted(order(first))
    assert order(first) != order(other)
    assert sorted(order(first)) == sorted(order(other))


def test_the_order_of_the_input_does_not_matter(pristine: Path, tmp_path: Path) -> None:
    samples = {"train": toy_samples(30, "train", GROUPS)[::-1], "val": iter(toy_samples(7, "val")[::-1])}
    manifest = pack(samples, LABELS, str(tmp_path), dataset="toy", max_samples_per_shard=4)
    assert manifest.digest == load_manifest(str(pristine)).digest


def test_fewer_samples_than_processes(tmp_path: Path) -> None:
    manifest = pack({"train": toy_samples(1)}, LABELS, str(tmp_path), dataset="toy", run=in_processes(4))
    assert [shard.name for shard in manifest.shards] == ["train/day-town-00000.tar"]
    assert verify(str(tmp_path)) == []


def test_the_limit_of_bytes_cuts_shards(tmp_path: Path) -> None:
    manifest = pack({"train": toy_samples(20)}, LABELS, str(tmp_path), dataset="toy", max_bytes_per_shard=20_480)
    assert len(manifest.shards) > 2
    assert all(shard.num_bytes <= 20_480 for shard in manifest.shards)
    assert all(shard.num_samples > 1 for shard in manifest.shards[:-1])  # and not more than it must
    assert [shard.name[-9:] for shard in manifest.shards] == [f"{i:05d}.tar" for i in range(len(manifest.shards))]
    assert sum(shard.num_samples for shard in manifest.shards) == 20


def test_shards_cut_by_bytes_have_names_that_follow_from_their_task(tmp_path: Path) -> None:
    samples = {"train": toy_samples(20)}
    manifest = pack(samples, LABELS, str(tmp_path), dataset="toy", max_samples_per_shard=10, max_bytes_per_shard=20_480)
    first, *_ = (shard.num_samples for shard in manifest.shards)
    assert first < 10  # the two tasks were cut: into shards 0, 2, 4 … and 1, 3, 5 …
    numbers = [int(shard.name[-9:-4]) for shard in manifest.shards]
    assert numbers == sorted(set(numbers))
    assert verify(str(tmp_path)) == []


def test_a_sample_beyond_the_limit_has_its_own_shard(tmp_path: Path) -> None:
    manifest = pack({"train": toy_samples(3)}, LABELS, str(tmp_path), dataset="toy", max_bytes_per_shard=1)
    assert [shard.num_samples for shard in manifest.shards] == [1, 1, 1]


def test_class_pixels_and_sizes_are_counted(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    expected = {condition: np.zeros(3, dtype=np.int64) for condition in ("day", "night")}
    for sample in toy_samples(30, "train", GROUPS):
        label_HW = sample.load().label_HW
        expected[sample.condition] += [(label_HW == train_id).sum() for train_id in range(3)]
    assert manifest.class_pixels["train"] == {name: tuple(pixels.tolist()) for name, pixels in expected.items()}
    assert manifest.image_sizes["train"] == ((24, 40), (24, 40))


def test_the_classes_of_each_sample_are_known(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    originals = {sample.key: sample for sample in toy_samples(30, "train", GROUPS)}
    for shard in manifest.select("train"):
        entries = read_index(manifest, shard).entries
        for entry in entries:
            label_HW = originals[entry.key].load().label_HW
            assert entry.class_pixels == tuple(int((label_HW == train_id).sum()) for train_id in range(3))
        assert shard.class_samples == tuple(sum(e.class_pixels[c] > 0 for e in entries) for c in range(3))


def test_size_ranges_are_by_side(tmp_path: Path) -> None:
    tall, wide = toy_samples(1, size_hw=(30, 8)), toy_samples(2, size_hw=(6, 50))[1:]
    manifest = pack({"train": tall + wide}, LABELS, str(tmp_path), dataset="toy")
    assert manifest.image_sizes["train"] == ((6, 8), (30, 50))


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pack_toy(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (37, 37)


# ---- standard shards, readable without us


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves closing to the collector
def test_webdataset_reads_every_sample(pristine: Path) -> None:
    urls = [str(path) for path in sorted((pristine / "train").glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    originals = {sample.key: sample.load() for sample in toy_samples(30, "train", GROUPS)}
    seen = []
    for sample in dataset:
        original = originals[sample["__key__"]]
        assert sample["png"] == original.image
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample["label.png"]))), original.label_HW)
        seen.append(sample["__key__"])
    assert sorted(seen) == sorted(originals)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_jpeg_stays_jpeg(tmp_path: Path) -> None:
    samples = toy_samples(2, image_format="jpg")
    manifest = pack({"train": samples}, LABELS, str(tmp_path), dataset="toy")
    (shard,) = manifest.shards
    (raw, *_) = webdataset.WebDataset(str(tmp_path / shard.name), shardshuffle=False, empty_check=False)
    assert raw["jpg"] == next(s for s in samples if s.key == raw["__key__"]).load().image


def test_png_becomes_jpeg_on_request(tmp_path: Path) -> None:
    manifest = pack({"train": toy_samples(4)}, LABELS, str(tmp_path), dataset="toy", jpeg_quality=95)
    (shard,) = manifest.shards
    for entry in read_index(manifest, shard).entries:
        original = next(s for s in toy_samples(4) if s.key == entry.key).load()
        files = read_sample(manifest, shard, entry)
        assert entry.image.extension == "jpg"
        expected = io.BytesIO()
        Image.open(io.BytesIO(original.image)).save(expected, format="JPEG", quality=95)
        assert files.image == expected.getvalue()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(files.label))), original.label_HW)


def test_the_index_finds_every_member(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    originals = {sample.key: sample for sample in toy_samples(7, "val")}
    for shard in manifest.select("val"):
        for entry in read_index(manifest, shard).entries:
            files = read_sample(manifest, shard, entry)
            loaded = originals.pop(entry.key).load()
            assert files.image == loaded.image
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(files.label))), loaded.label_HW)
            assert json.loads(files.meta)["condition"] == "day"
    assert originals == {}


# ---- S3


@pytest.fixture
def bucket_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="shards")
    yield "s3://shards/toy"
    server.stop()


def test_a_pack_in_s3_is_the_same_as_a_local_one(pristine: Path, bucket_uri: str) -> None:
    manifest = pack_toy(bucket_uri)
    assert manifest.digest == load_manifest(bucket_uri).digest == load_manifest(str(pristine)).digest
    assert verify(bucket_uri) == []
    local = load_manifest(str(pristine))
    for ours, reference in zip(eval_samples(manifest, manifest.shards), eval_samples(local, local.shards), strict=True):
        assert ours.key == reference.key
        assert torch.equal(ours.image_3HW, reference.image_3HW)
    with pytest.raises(DataError, match="already holds a packed data set"):
        pack_toy(bucket_uri)
    pack_toy(bucket_uri, overwrite=True, max_samples_per_shard=64)
    assert verify(bucket_uri) == []
    assert len(load_manifest(bucket_uri).shards) == 4
