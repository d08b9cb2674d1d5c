"""`pack webdataset`: shards that others wrote, used where they are, or copied."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from distseg import pack, storage
from distseg.data.datasets import webdataset
from distseg.data.loading import eval_samples
from distseg.data.shards import load_manifest, verify
from distseg.errors import ConfigError, DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format)
    return buffer.getvalue()


LABEL = encoded(np.array([[0, 1, 1, 255, 0, 1]] * 4, dtype=np.uint8))


def write(root: Path, name: str, *keys: str, image: bytes = b"", label: bytes = LABEL, **meta: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.json").write_text('{"name": "theirs", "classes": ["a", "b"]}')
    with TarWriter(str(root / name), encoder=False) as tar:
        for key in keys:
            sample = {"__key__": key, "jpg": image or encoded(PIXELS, "JPEG"), "seg.png": label}
            tar.write(sample | ({"json": json.dumps(meta).encode()} if meta else {}))


def packed(root: Path, *arguments: str) -> list[str]:
    """Packs in place; the files below the root."""
    assert pack.main(["webdataset", "--root", str(root), "--num_processes", "1", *arguments]) == 0
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_index_and_manifest_are_all_that_is_written(tmp_path: Path) -> None:
    write(tmp_path, "train/shard-000000.tar", "x0", "x1", condition="fog")
    write(tmp_path, "train/shard-000001.tar", "x2")
    write(tmp_path, "val/shard-000000.tar", "x0")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tar")}
    assert packed(tmp_path) == [
        "classes.json",
        "manifest.json",
        *(f"train/shard-00000{i}.{ending}" for i in (0, 1) for ending in ("index.json", "tar")),
        *(f"val/shard-000000.{ending}" for ending in ("index.json", "tar")),
    ]
    assert {path: path.read_bytes() for path in before} == before
    manifest = load_manifest(str(tmp_path))
    assert (manifest.dataset, manifest.splits, manifest.conditions("train")) == (
        "theirs",
        ("train", "val"),
        ("fog", "all"),
    )
    assert manifest.class_pixels["val"] == {"all": (8, 12)}
    assert verify(str(tmp_path)) == []
    (sample,) = eval_samples(manifest, manifest.select("val"))
    assert np.array_equal(sample.label_HW.numpy(), np.asarray(Image.open(io.BytesIO(LABEL))))
    assert sample.image_3HW.shape == (3, 4, 6)


def test_names_may_say_the_split(tmp_path: Path) -> None:
    write(tmp_path, "train-000000.tar", "a")
    write(tmp_path, "val-000000.tar", "a")
    packed(tmp_path)
    assert load_manifest(str(tmp_path)).splits == ("train", "val")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("city-train-000000.tar", "city-val-000000.tar"), ("train", "val")),
        (("shards/train-000000.tar", "shards/val_000000.tar"), ("train", "val")),
        (("train/city-val-0.tar", "city/0.tar"), ("train", "city")),
    ],
)
def test_any_word_may_say_the_split(tmp_path: Path, names: tuple[str, ...], splits: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path, name, "a")
    packed(tmp_path)
    assert load_manifest(str(tmp_path)).splits == splits


def test_a_split_that_is_not_clear_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "city-train-val-0.tar", "a")
    with pytest.raises(
        DataError, match=r"city-train-val-0\.tar: is it of train or of val\? Put the tars into a folder"
    ):
        packed(tmp_path)


def test_a_compressed_tar_is_not_left_out_in_silence(tmp_path: Path) -> None:
    write(tmp_path, "train/0.tar", "a")
    (tmp_path / "train/1.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/1\.tar\.gz: compressed, .*; decompress it"):
        packed(tmp_path)


@pytest.mark.parametrize("out", ["{root}/", "{root}/.", "{root}/../theirs", "{link}"])
def test_the_root_by_another_name_is_the_root(out: str, tmp_path: Path) -> None:
    root, link = tmp_path / "theirs", tmp_path / "link"
    write(root, "train/city-train-000000.tar", "a")
    link.symlink_to(root)
    before = (root / "train/city-train-000000.tar").read_bytes()
    packed(root, "--out", out.format(root=root, link=link))
    packed(root, "--out", out.format(root=root, link=link), "--overwrite")
    assert (root / "train/city-train-000000.tar").read_bytes() == before
    assert [sample.key for sample in eval_samples(load_manifest(str(root)), load_manifest(str(root)).shards)]


def test_what_a_packing_reads_it_does_not_remove(tmp_path: Path) -> None:
    write(tmp_path, "train/0.tar", "a")
    packed(tmp_path, "--out", str(tmp_path / "packed"))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    packed(tmp_path, "--out", str(tmp_path / "packed"), "--overwrite")  # of train/0.tar alone
    assert {path: path.read_bytes() for path in files} == files
    (tmp_path / "packed/manifest.json").unlink()
    del files[tmp_path / "packed/manifest.json"]
    with pytest.raises(DataError, match="the packing reads it, and would put its own shards there; choose another"):
        packed(tmp_path, "--out", str(tmp_path / "packed"), "--overwrite")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_packing_that_was_stopped_below_the_root_is_no_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "train/0.tar", "a")
    write(tmp_path, "packed/train/all-all-00000.tar", "a")  # of which no manifest tells yet
    (tmp_path / "packed/.packing").mkdir()
    (tmp_path / "packed/.packing/job.sha256").write_bytes(b"")
    packed(tmp_path, "--out", str(tmp_path / "other"))
    manifest = load_manifest(str(tmp_path / "other"))
    assert len(list(eval_samples(manifest, manifest.shards))) == 1
    assert "packed/ was packed by distseg, and is left out" in caplog.text


def test_a_manifest_of_something_else_hides_no_tars(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path, f"{split}/0.tar", "a")
    for content in ('{"my": "manifest"}', "[[", '["distseg-shards"]'):
        (tmp_path / "train/manifest.json").write_text(content)
        assert set(webdataset.tars(str(tmp_path))) == {"train", "val"}


def test_what_a_link_leads_to_is_not_removed(tmp_path: Path) -> None:
    """A tar that lies where the shards go, and is read by way of a link."""
    write(tmp_path / "out", "train/all-all-00000.tar", "a")
    write(tmp_path / "theirs", "val/0.tar", "b")
    (tmp_path / "theirs/train").mkdir()
    (tmp_path / "theirs/train/0.tar").symlink_to(tmp_path / "out/train/all-all-00000.tar")
    with pytest.raises(DataError, match="the packing reads it"):
        packed(tmp_path / "theirs", "--out", str(tmp_path / "out"), "--overwrite")
    assert (tmp_path / "out/train/all-all-00000.tar").is_file()


def test_keys_numbered_anew_in_each_folder_get_its_name(tmp_path: Path) -> None:
    write(tmp_path / "theirs", "train/x/0.tar", "a")
    write(tmp_path / "theirs", "train/y/0.tar", "a")
    packed(tmp_path / "theirs", "--out", str(tmp_path / "ours"))
    manifest = load_manifest(str(tmp_path / "ours"))
    keys = sorted(sample.key.rpartition("/")[2] for sample in eval_samples(manifest, manifest.shards))
    assert keys == ["x-0-a", "y-0-a"]


@pytest.mark.parametrize(
    ("image", "label", "key", "message"),
    [
        (encoded(PIXELS[..., 0]), LABEL, "a", "not JPEG or PNG of 8-bit RGB, or not upright"),
        (b"", encoded(np.full((4, 6, 3), 1, dtype=np.uint8)), "a", "this one is RGB; write ids"),
        (b"", encoded(np.full((4, 6), 2, dtype=np.uint8)), "a", r"label ids \[2\] are outside the label space theirs"),
        (encoded(PIXELS, "JPEG")[:-20] + b"\xff\xd9", LABEL, "a", "a damaged JPEG"),
        (b"", LABEL[:60], "a", "not a readable image"),
        (b"", LABEL, "a/b", "key 'a/b': use letters"),
    ],
    ids=["grey", "colours", "unknown id", "damaged photograph", "damaged label", "folders"],
)
def test_what_cannot_be_used_in_place_is_named_and_nothing_written(
    tmp_path: Path, image: bytes, label: bytes, key: str, message: str
) -> None:
    write(tmp_path, "train/0.tar", key, image=image, label=label)
    with pytest.raises(DataError, match=message):
        packed(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0.tar", "classes.json"]


def test_keys_numbered_anew_in_each_tar_must_be_copied(tmp_path: Path) -> None:
    for tar in ("0", "1"):
        write(tmp_path / "theirs", f"train/{tar}.tar", "000", image=encoded(PIXELS[..., 0]))
    with pytest.raises(DataError, match="give another --out"):
        packed(tmp_path / "theirs")
    packed(tmp_path / "theirs", "--out", str(tmp_path / "ours"))
    manifest = load_manifest(str(tmp_path / "ours"))
    assert sorted(sample.key for sample in eval_samples(manifest, manifest.shards)) == [
        "train/all-all-00000.tar/0-000",
        "train/all-all-00000.tar/1-000",
    ]


def test_a_packed_data_set_is_not_replaced_unasked(tmp_path: Path) -> None:
    write(tmp_path, "train/0.tar", "a")
    packed(tmp_path)
    with pytest.raises(DataError, match="already holds a packed data set; choose another place, or --overwrite"):
        packed(tmp_path)
    packed(tmp_path, "--overwrite")


def test_what_changes_samples_needs_a_place_for_copies(tmp_path: Path) -> None:
    write(tmp_path, "train/0.tar", "a")
    with pytest.raises(ConfigError, match="--relabel: changes the samples"):
        packed(tmp_path, "--relabel", "cityscapes")


def test_tars_in_s3_are_used_where_they_are(tmp_path: Path, moto_s3: str) -> None:
    write(tmp_path, "train/0.tar", "a", condition="fog")
    write(tmp_path, "val/0.tar", "a")
    for name in ("train/0.tar", "val/0.tar", "classes.json"):
        storage.upload(tmp_path / name, f"{moto_s3}/theirs/{name}")
    root = f"{moto_s3}/theirs"
    assert pack.main(["webdataset", "--root", root, "--num_processes", "1"]) == 0
    assert verify(root) == []
    assert load_manifest(root).conditions("train") == ("fog",)
