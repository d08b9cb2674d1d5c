"""What cannot be packed is named; a pack that stopped is continued, and nothing half done looks whole."""

import dataclasses
import functools
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from distseg.data.processes import in_processes
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import (
    load_manifest,
    pack,
    verify,
)
from distseg.errors import DataError, ResourceError
from tests.toy_data import LABELS, toy_samples
from tests.unit.data.shards.toy_shards import files_of, pack_toy

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
    with pytest.raises(ResourceError, match="a process was killed, perhaps for memory"):
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


def test_shards_of_files_that_were_changed_since_are_made_again(tmp_path: Path) -> None:
    """Who is told of one wrong label map mends them all, and packs again."""
    label, unchanged, out = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out"
    for file in (label, unchanged):
        Image.new("L", (40, 24), 0).save(file)
    samples = [
        dataclasses.replace(sample, load=functools.partial(load_file, str(file)), files=(str(file),))
        for sample, file in zip(toy_samples(2), (label, unchanged), strict=True)
    ]
    bad = dataclasses.replace(toy_samples(1)[0], key="zzz", load=functools.partial(load_file, str(tmp_path / "z.png")))
    Image.new("L", (40, 24), 9).save(tmp_path / "z.png")
    everything = {"train": samples, "val": [dataclasses.replace(bad, split="val")]}
    with pytest.raises(DataError, match="outside the label space"):
        pack(everything, LABELS, str(out), dataset="toy", max_samples_per_shard=1)
    before = {path.name: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    Image.new("L", (40, 24), 1).save(label)
    Image.new("L", (40, 24), 2).save(tmp_path / "z.png")
    manifest = pack(everything, LABELS, str(out), dataset="toy", max_samples_per_shard=1)
    assert manifest.class_pixels["train"] == {"day": (960, 960, 0)}
    after = {path.name: path.stat().st_mtime_ns for path in (out / "train").glob("*.tar")}
    assert len([name for name in after if after[name] == before[name]]) == 1


def test_shards_that_an_earlier_version_finished_are_kept(tmp_path: Path) -> None:
    """Its receipts do not say of which files they were made."""
    Image.new("L", (40, 24), 0).save(tmp_path / "a.png")
    load = functools.partial(load_file, str(tmp_path / "a.png"))
    good = [dataclasses.replace(each, load=load, files=(str(tmp_path / "a.png"),)) for each in toy_samples(2)]
    later = functools.partial(load_file, str(tmp_path / "z.png"))
    everything = {"train": good, "val": [dataclasses.replace(toy_samples(1)[0], key="zzz", split="val", load=later)]}
    with pytest.raises(FileNotFoundError):
        pack(everything, LABELS, str(tmp_path / "out"), dataset="toy", max_samples_per_shard=1)
    receipts = [path for path in (tmp_path / "out").rglob("*.json") if '"sources"' in path.read_text()]
    assert len(receipts) == 2
    for path in receipts:
        rows = json.loads(path.read_text())
        path.write_text(json.dumps(without(rows, "sources")))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.tar")}
    Image.new("L", (40, 24), 0).save(tmp_path / "z.png")
    pack(everything, LABELS, str(tmp_path / "out"), dataset="toy", max_samples_per_shard=1)
    assert len(before) == 2 and all(path.stat().st_mtime_ns == time for path, time in before.items())


def without(value: Any, name: str) -> Any:
    """JSON without the fields of that name."""
    if isinstance(value, dict):
        return {key: without(each, name) for key, each in value.items() if key != name}
    return [without(each, name) for each in value] if isinstance(value, list) else value


def load_file(label: str) -> LabelledImage:
    return loads(label_HW=np.asarray(Image.open(label)))


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
