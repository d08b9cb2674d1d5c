import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
import webdataset
from PIL import Image

from distseg.data.loading import eval_samples
from distseg.data.processes import in_processes
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import (
    Manifest,
    contact_sheet,
    inspect,
    load_manifest,
    pack,
    read_index,
    read_sample,
    verify,
)
from distseg.errors import DataError, ResourceError
from tests.toy_data import LABELS, toy_samples

GROUPS = [("day", "town"), ("night", "town"), ("day", "coast")]


def pack_toy(out: Path | str, **options: Any) -> Manifest:
    samples = {"train": toy_samples(30, "train", GROUPS), "val": toy_samples(7, "val")}
    return pack(samples, LABELS, str(out), dataset="toy", **{"max_samples_per_shard": 4, **options})


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    pack_toy(out)
    return out


@pytest.fixture
def packed(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the packed data set, to be damaged."""
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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


# ---- bad input


def loads(
    image: bytes | None = None,
    image_format: Literal["jpg", "png"] = "png",
    label_HW: npt.NDArray[np.uint8] | None = None,
) -> LabelledImage:
    good = toy_samples(1)[0].load()
    return LabelledImage(image or good.image, image_format, good.label_HW if label_HW is None else label_HW)


def grey_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (40, 24)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (functools.partial(loads, label_HW=np.full((24, 40), 3, np.uint8)), r"label ids \[3\] are outside .* toy"),
        (
            functools.partial(loads, label_HW=np.zeros((24, 41), np.uint8)),
            r"label map is uint8 \(24, 41\), .* \(24, 40\)",
        ),
        (functools.partial(loads, label_HW=np.zeros((24, 40), np.int64)), r"label map is int64"),
        (functools.partial(loads, image=b"no image"), "not a readable image"),
        (functools.partial(loads, image_format="jpg"), "the image is PNG RGB, a shard needs JPEG RGB"),
        (functools.partial(loads, image=grey_png()), "the image is PNG L, a shard needs PNG RGB"),
    ],
)
def test_a_bad_sample_is_named_and_nothing_looks_finished(
    tmp_path: Path, load: Callable[[], LabelledImage], message: str
) -> None:
    samples = toy_samples(3)
    samples[1] = dataclasses.replace(samples[1], load=load)
    with pytest.raises(DataError, match=rf"train/0001\.png: .*{message}"):
        pack({"train": samples}, LABELS, str(tmp_path), dataset="toy")
    with pytest.raises(DataError, match=r"no manifest\.json under .*: pack it first with python -m distseg\.pack"):
        load_manifest(str(tmp_path))


def test_a_bad_sample_is_named_by_a_packing_process_too(tmp_path: Path) -> None:
    samples = toy_samples(3)
    samples[1] = dataclasses.replace(samples[1], load=functools.partial(loads, image=b"no image"))
    with pytest.raises(DataError, match=r"train/0001\.png: not a readable image"):
        pack({"train": samples}, LABELS, str(tmp_path), dataset="toy", run=in_processes(2), max_samples_per_shard=1)


def test_a_packing_process_that_is_killed_is_reported(tmp_path: Path) -> None:
    samples = [dataclasses.replace(sample, load=functools.partial(os._exit, 9)) for sample in toy_samples(2)]
    with pytest.raises(ResourceError, match="a packing process was killed, perhaps for memory"):
        pack({"train": samples}, LABELS, str(tmp_path), dataset="toy", run=in_processes(2), max_samples_per_shard=1)


def renamed(**changes: str) -> list[Sample]:
    samples = toy_samples(3)
    samples[1] = dataclasses.replace(samples[1], **changes)  # type: ignore[arg-type]
    return samples


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "split 'train' has no samples"),
        (renamed(key="a.b"), r"train/0001\.png: key 'a\.b' cannot name a member"),
        (renamed(key="a/b"), r"key 'a/b' cannot name a member"),
        (renamed(key=""), "key '' cannot name a member"),
        (renamed(key="x" * 91), "90 at most"),
        (renamed(key="train_0000"), r"key 'train_0000' occurs twice in split 'train': .*0000\.png and .*0001\.png"),
        (renamed(condition="a b"), "'a b' names files"),
        (renamed(site="../up"), r"'\.\./up' names files"),
        (
            toy_samples(2, groups=[("winter", "night-town"), ("winter-night", "town")]),
            "2 pairs of condition and site are called winter-night-town",
        ),
    ],
)
def test_samples_that_cannot_be_packed(tmp_path: Path, samples: list[Sample], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack({"train": samples}, LABELS, str(tmp_path), dataset="toy")
    assert files_of(tmp_path) == {}


def test_the_longest_key_fits(tmp_path: Path) -> None:
    pack({"train": renamed(key="x" * 90)}, LABELS, str(tmp_path), dataset="toy")
    assert verify(str(tmp_path)) == []


def test_an_earlier_pack_is_not_overwritten_by_accident(packed: Path) -> None:
    before = files_of(packed)
    with pytest.raises(DataError, match="already holds a packed data set; choose another place, or --overwrite"):
        pack_toy(packed)
    assert files_of(packed) == before


def test_an_unfinished_pack_is_not_mixed_with(packed: Path) -> None:
    (packed / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"day-coast-00000\.index\.json is of a pack of other data or options"):
        pack_toy(packed)


# ---- stopped and continued


def fail_to_pack(out: Path) -> None:
    samples = toy_samples(2)
    samples[0] = dataclasses.replace(samples[0], load=functools.partial(loads, image=b"no image"))
    with pytest.raises(DataError, match="not a readable image"):
        pack({"train": samples}, LABELS, str(out), dataset="toy")


def test_a_pack_that_failed_leaves_none_of_its_folders(tmp_path: Path) -> None:
    fail_to_pack(tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "out").exists()


def test_a_pack_that_failed_leaves_the_folders_that_were_there(tmp_path: Path) -> None:
    """Those of others, and the one to write to, even if they are empty."""
    folders = [tmp_path, tmp_path / "notes", tmp_path / "test" / "deep"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    fail_to_pack(tmp_path)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in folders] == [tmp_path / "test"]
    assert all(folder.is_dir() for folder in folders)


class StopError(Exception):
    pass


def stopped_pack(out: Path, at: int, **options: Any) -> dict[str, int]:
    """A pack that was stopped when `at` samples were done; returns what it left and when that was written."""

    def stop(num_done: int, _: int) -> None:
        if num_done >= at:
            raise StopError

    with pytest.raises(StopError):
        pack_toy(out, progress=stop, **options)
    return {str(path): path.stat().st_mtime_ns for path in out.rglob("*-*.*") if path.is_file()}


@pytest.mark.parametrize("at", [1, 13, 37])
def test_a_stopped_pack_is_continued_without_writing_its_shards_again(pristine: Path, tmp_path: Path, at: int) -> None:
    written = stopped_pack(tmp_path, at)
    assert written
    pack_toy(tmp_path)
    assert {name: Path(name).stat().st_mtime_ns for name in written} == written
    assert files_of(tmp_path) == files_of(pristine)


def test_files_that_a_killed_writer_left_are_removed(pristine: Path, tmp_path: Path) -> None:
    stopped_pack(tmp_path, 20)
    (tmp_path / "train" / ".1234.distseg-part").write_bytes(b"half a sh")
    pack_toy(tmp_path)
    assert files_of(tmp_path) == files_of(pristine)


def test_a_shard_that_vanished_is_written_again(pristine: Path, tmp_path: Path) -> None:
    written = stopped_pack(tmp_path, 20)
    Path(next(name for name in written if name.endswith(".tar"))).unlink()
    pack_toy(tmp_path)
    assert files_of(tmp_path) == files_of(pristine)


@pytest.mark.parametrize("options", [{"seed": 1}, {"max_samples_per_shard": 5}, {"jpeg_quality": 90}])
def test_a_stopped_pack_is_not_continued_with_other_options(tmp_path: Path, options: dict[str, int]) -> None:
    stopped_pack(tmp_path, 20)
    with pytest.raises(DataError, match="is of a pack of other data or options that did not finish; choose another"):
        pack_toy(tmp_path, **options)
    pack_toy(tmp_path, **options, overwrite=True)
    assert verify(str(tmp_path)) == []


def test_a_damaged_receipt_is_named(tmp_path: Path) -> None:
    stopped_pack(tmp_path, 20)
    (tmp_path / ".packing" / "000001.json").write_text("[{}]")
    with pytest.raises(DataError, match=r"\.packing/000001\.json is damaged .*remove it, and pack again"):
        pack_toy(tmp_path)


def test_overwriting_removes_old_shards_and_nothing_else(packed: Path) -> None:
    for name in ("train/notes.txt", "train/photos.tar", "other-place-00000.tar"):
        (packed / name).write_text("keep me")
    manifest = pack({"train": toy_samples(2)}, LABELS, str(packed), dataset="toy", overwrite=True)
    kept = {"train/notes.txt", "train/photos.tar", "other-place-00000.tar"}
    assert set(files_of(packed)) == kept | {"manifest.json", manifest.shards[0].name, manifest.shards[0].index_name}


def test_a_damaged_manifest_can_be_overwritten(packed: Path) -> None:
    (packed / "manifest.json").write_text("{")
    pack_toy(packed, overwrite=True)
    assert verify(str(packed)) == []


def test_limits_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        pack_toy(tmp_path, max_samples_per_shard=0)


# ---- the manifest


def test_select_names_what_exists(pristine: Path) -> None:
    manifest = load_manifest(str(pristine))
    assert len(manifest.select("train")) == 3 * 3
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        manifest.select("test")
    with pytest.raises(DataError, match="no condition 'fog' in split 'train'; it has day, night"):
        manifest.select("train", ["day", "fog"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: "{", "not JSON"),
        (lambda text: "[]", "not written by distseg.pack"),
        (lambda text: '{"format": "other"}', "not written by distseg.pack"),
        (lambda text: text.replace('"version": 2', '"version": 3'), "format version 3, this distseg reads 2"),
        (lambda text: text.replace('"night"', '"day"'), "edited or damaged"),
        (lambda text: re.sub(r'"num_samples": \d+', '"num_samples": 9', text, count=1), "edited or damaged"),
        (lambda text: text.replace('"digest"', '"digets"'), "edited or damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(packed: Path, edit: Callable[[str], str], message: str) -> None:
    path = packed / "manifest.json"
    path.write_text(edit(path.read_text()))
    with pytest.raises(DataError, match=rf"manifest\.json: .*{message}"):
        load_manifest(str(packed))
    assert len(verify(str(packed))) == 1


def test_a_sealed_manifest_without_its_fields_is_malformed(packed: Path) -> None:
    body = {"format": "distseg-shards", "version": 2, "shards": []}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    (packed / "manifest.json").write_text(json.dumps({**body, "digest": hashlib.sha256(canonical).hexdigest()}))
    with pytest.raises(DataError, match="malformed"):
        load_manifest(str(packed))


# ---- verify


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_verify_accepts_what_was_packed(pristine: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(str(pristine), progress=lambda done, total: seen.append((done, total))) == []
    num_shards = len(load_manifest(str(pristine)).shards)
    assert seen[-1] == (num_shards, num_shards)


def test_verify_names_shard_and_key_of_a_flipped_byte(packed: Path) -> None:
    manifest = load_manifest(str(packed))
    shard = manifest.shards[4]
    entry = read_index(manifest, shard).entries[1]
    flip(packed / shard.name, entry.image.offset + entry.image.size // 2)
    (problem,) = verify(str(packed))
    assert problem.startswith(f"{shard.name}: changed")
    assert problem.endswith(f"damaged: {entry.key}")


def test_verify_names_the_shard_of_a_flipped_header(packed: Path) -> None:
    name = load_manifest(str(packed)).shards[0].name
    flip(packed / name, 3)
    assert verify(str(packed)) == [f"{name}: changed since it was packed (SHA-256 differs)"]


def test_verify_names_a_truncated_tar_and_the_keys_lost(packed: Path) -> None:
    manifest = load_manifest(str(packed))
    shard = manifest.shards[0]
    *_, last = read_index(manifest, shard).entries
    path = packed / shard.name
    path.write_bytes(path.read_bytes()[: last.label.offset + 3])
    (problem,) = verify(str(packed))
    assert problem.startswith(f"{shard.name}: truncated, {last.label.offset + 3} of {shard.num_bytes} bytes")
    assert problem.endswith(f"damaged: {last.key}")


def test_verify_names_a_shard_that_grew(packed: Path) -> None:
    name = load_manifest(str(packed)).shards[0].name
    with (packed / name).open("ab") as file:
        file.write(b"more")
    (problem,) = verify(str(packed))
    assert problem.startswith(f"{name}: too long")


def test_verify_names_a_missing_shard(packed: Path) -> None:
    name = load_manifest(str(packed)).shards[2].name
    (packed / name).unlink()
    (problem,) = verify(str(packed))
    assert problem.startswith(f"{name}: cannot be read: ")


def test_verify_names_an_edited_and_a_missing_index(packed: Path) -> None:
    first, second = load_manifest(str(packed)).shards[:2]
    edited = packed / first.index_name
    edited.write_text(edited.read_text().replace("train_00", "train_99"))
    (packed / second.index_name).unlink()
    problems = verify(str(packed))
    assert [problem.partition(":")[0] for problem in problems] == [first.name, second.name]
    assert "the index is not the one packed" in problems[0]
    assert "no such file" in problems[1]


def test_verify_names_files_that_do_not_belong(packed: Path) -> None:
    shard = load_manifest(str(packed)).shards[0]
    shutil.copy(packed / shard.name, packed / "train" / "day-town-00099.tar")
    assert verify(str(packed)) == ["train/day-town-00099.tar: is not in the manifest; remove it, or pack again"]


def test_verify_finds_everything_at_once(packed: Path) -> None:
    shards = load_manifest(str(packed)).shards
    flip(packed / shards[0].name, 600)
    (packed / shards[1].name).unlink()
    flip(packed / shards[2].index_name, 5)
    assert [problem.partition(":")[0] for problem in verify(str(packed))] == [shard.name for shard in shards[:3]]


def test_verify_without_a_manifest_is_a_problem(tmp_path: Path) -> None:
    (problem,) = verify(str(tmp_path))
    assert "pack it first" in problem


# ---- inspect


def test_inspect_adds_up(pristine: Path) -> None:
    summary = inspect(str(pristine))
    assert [(row.split, row.condition, row.site, row.num_samples, row.num_shards) for row in summary.rows] == [
        ("train", "day", "coast", 10, 3),
        ("train", "day", "town", 10, 3),
        ("train", "night", "town", 10, 3),
        ("val", "day", "town", 7, 2),
    ]
    assert sum(row.num_bytes for row in summary.rows) == sum(path.stat().st_size for path in pristine.rglob("*.tar"))
    assert sum(summary.class_shares["val"].values()) == pytest.approx(1)
    assert set(summary.class_shares["val"]) == set(LABELS.classes)


def test_the_contact_sheet_shows_each_condition(pristine: Path) -> None:
    sheet = contact_sheet(str(pristine), columns=3, cell_width_px=40)
    rows = 3  # train/day, train/night, val/day
    assert sheet.size == (3 * 40, rows * (18 + 2 * 24))
    pixels = np.asarray(sheet)
    photograph, labels = pixels[18:42, :40], pixels[42:66, :40]
    assert np.array_equal(photograph, labels)  # toy photographs are painted in the label's colours


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
