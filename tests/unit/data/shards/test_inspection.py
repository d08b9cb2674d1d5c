import shutil
from pathlib import Path

import numpy as np
import pytest

from distseg.data.shards import (
    ShardSummary,
    contact_sheet,
    inspect,
    load_manifest,
    read_index,
    verify,
)
from tests.toy_data import LABELS

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


def test_verify_leaves_splits_that_were_not_packed_alone(packed: Path) -> None:
    """`pack webdataset --splits train` uses the tars of train where they are, beside those of val."""
    shard = load_manifest(str(packed)).shards[0]
    (packed / "other").mkdir()
    shutil.copy(packed / shard.name, packed / "other" / "000000.tar")
    assert verify(str(packed)) == []


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
    pixels = np.asarray(sheet)
    height = rows * (18 + 2 * 24)
    assert sheet.width == 3 * 40 and (sheet.height - height) % 18 == 0
    legend = {tuple(colour) for colour in pixels[height:].reshape(-1, 3).tolist()}
    assert legend >= {*LABELS.palette, (0, 0, 0)}
    photograph, labels = pixels[18:42, :40], pixels[42:66, :40]
    assert np.array_equal(photograph, labels)  # toy photographs are painted in the label's colours


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        ([0.5, 0.3, 0.2], [0.4, 0.4, 0.2], []),
        ([0.5, 0.5, 0.0], [0.5, 0.5, 0.0], ["never labelled: pole;"]),
        ([0.5, 0.5, 0.0], [0.5, 0.4, 0.1], ["labelled, but never in train: pole;"]),
        ([0.5, 0.4, 0.1], [0.5, 0.5, 0.0], ["labelled, but never in val: pole;"]),
        ([0.99, 0.005, 0.005], [0.4, 0.4, 0.2], ["99.0 % of train is road;"]),
        ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], ["never labelled: sky, pole;", "100.0 % of train", "100.0 % of val"]),
    ],
)
def test_what_may_come_of_mixed_up_ids_is_said(train: list[float], val: list[float], said: list[str]) -> None:
    shares = {"train": dict(zip(("road", "sky", "pole"), train, strict=True))}
    shares["val"] = dict(zip(shares["train"], val, strict=True))
    summary = ShardSummary(uri="", dataset="", digest="", rows=(), class_shares=shares, image_sizes={})
    doubts = summary.doubts()
    assert len(doubts) == len(said)
    assert all(each in doubt for doubt, each in zip(doubts, said, strict=True))
