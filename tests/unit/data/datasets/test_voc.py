from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from distseg.data.datasets import ade20k, voc
from distseg.errors import DataError
from tests.raw_files import write_grey, write_mat, write_palette, write_photograph

IDS = np.zeros((2, 3), dtype=np.uint16)


def write_voc(root: Path, lists: dict[str, list[str]]) -> None:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in lists.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            write_photograph(root / f"JPEGImages/{name}.jpg", (2, 3))
            write_palette(root / f"SegmentationClass/{name}.png", IDS)


def write_sbd(root: Path, voc_root: Path, lists: dict[str, list[str]]) -> None:
    for part, names in lists.items():
        for name in names:
            write_mat(root / f"dataset/cls/{name}.mat", IDS + 5)
            write_photograph(voc_root / f"JPEGImages/{name}.jpg", (2, 3))
        (root / f"dataset/{part}.txt").write_text("\n".join(names))


def test_train_aug_is_sbd_and_train_without_val(tmp_path: Path) -> None:
    """VOC's own annotation wins where there are two."""
    write_voc(tmp_path / "VOC2012", {"train": ["2007_1", "2007_2"], "val": ["2007_3", "2007_4"]})
    write_sbd(tmp_path / "sbd", tmp_path / "VOC2012", {"train": ["2007_1", "2008_5"], "val": ["2007_3", "2008_6"]})
    samples = list(voc.samples(str(tmp_path), "train_aug", voc.Options(sbd=str(tmp_path / "sbd"))))
    assert [s.key for s in samples] == ["2007_1", "2007_2", "2008_5", "2008_6"]
    assert [int(s.load().label_HW[0, 0]) for s in samples] == [0, 0, 5, 5]


def test_train_aug_needs_sbd(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["2007_1"]})
    with pytest.raises(DataError, match=r"no SegmentationClassAug/ for split 'train_aug'; name SBD's folder \(--sbd\)"):
        next(voc.samples(str(tmp_path), "train_aug"))
    with pytest.raises(DataError, match=r"no cls/ here or in dataset, .*; SBD's root has cls/"):
        next(voc.samples(str(tmp_path), "train_aug", voc.Options(sbd=str(tmp_path))))


def test_an_unknown_list_is_named(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["2007_1"]})
    with pytest.raises(DataError, match=r"ImageSets/Segmentation/test\.txt: no such list of images"):
        next(voc.samples(str(tmp_path), "test"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"GTinst": {"Segmentation": np.zeros((2, 3))}}, r"no readable GTcls\.Segmentation"),
        ({"GTcls": {"Boundaries": np.zeros((2, 3))}}, r"no readable GTcls\.Segmentation"),
        ({"GTcls": {"Segmentation": np.full((2, 3), 0.5)}}, r"GTcls\.Segmentation is float64 \(2, 3\), must be ids"),
        ({"GTcls": {"Segmentation": np.full((2, 3), np.nan)}}, r"GTcls\.Segmentation is float64 \(2, 3\), must be"),
        ({"GTcls": {"Segmentation": np.full((2, 3), np.inf)}}, r"GTcls\.Segmentation is float64 \(2, 3\), must be"),
    ],
)
def test_another_mat_file_is_refused(tmp_path: Path, content: dict[str, object], message: str) -> None:
    savemat(tmp_path / "x.mat", content)
    with pytest.raises(DataError, match=rf"x\.mat: {message}"):
        voc.read_mat(str(tmp_path / "x.mat"))


def test_whole_numbers_are_ids_whatever_their_type(tmp_path: Path) -> None:
    savemat(tmp_path / "x.mat", {"GTcls": {"Segmentation": np.array([[0.0, 5.0], [255.0, 20.0]])}})
    ids_HW = voc.read_mat(str(tmp_path / "x.mat"))
    assert ids_HW.tolist() == [[0, 5], [255, 20]]
    assert np.issubdtype(ids_HW.dtype, np.integer)


def test_a_mat_file_of_version_7_3_is_refused(tmp_path: Path) -> None:
    """It is HDF5 behind a header of 128 bytes."""
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "x.mat").write_bytes(header.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DataError, match=r"x\.mat: not readable, of MATLAB's version 7\.3; save it as version 7"):
        voc.read_mat(str(tmp_path / "x.mat"))


@pytest.mark.filterwarnings("ignore")  # scipy warns of what it guesses
def test_a_damaged_mat_file_is_named_or_read_as_it_was(tmp_path: Path) -> None:
    """Any byte of one that is compressed, as MATLAB and SBD have them; some that are not make scipy crash."""
    path = tmp_path / "x.mat"
    savemat(path, {"GTcls": {"Segmentation": (IDS + 5).astype(np.uint8)}}, do_compression=True)
    sound = path.read_bytes()
    num_refused = 0
    for i in range(len(sound)):
        path.write_bytes(sound[:i] + bytes([sound[i] ^ 0xFF]) + sound[i + 1 :])
        try:
            assert voc.read_mat(str(path)).tolist() == (IDS + 5).tolist()  # the header is text, mostly
        except DataError as error:
            num_refused += 1
            assert str(error).startswith(f"{path}: no") and "\n" not in str(error)
    assert num_refused > len(sound) - 128


def test_photographs_that_voc_lacks_are_found_in_sbd(tmp_path: Path) -> None:
    """VOC's own photograph wins where there are two; the source does not say where SBD is."""
    write_voc(tmp_path / "VOC2012", {"train": ["2007_1"], "val": ["2007_3"]})
    write_sbd(tmp_path / "sbd", tmp_path / "VOC2012", {"train": ["2007_1", "2008_5"], "val": ["2008_6"]})
    for name in ("2007_1", "2008_5", "2008_6"):
        write_photograph(tmp_path / f"sbd/dataset/img/{name}.jpg", (2, 3))
    (tmp_path / "VOC2012/JPEGImages/2008_5.jpg").unlink()
    samples = list(voc.samples(str(tmp_path), "train_aug", voc.Options(sbd=str(tmp_path / "sbd"))))
    assert [s.source for s in samples] == ["JPEGImages/2007_1.jpg", "img/2008_5.jpg", "JPEGImages/2008_6.jpg"]
    assert int(samples[1].load().label_HW[0, 0]) == 5


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (["train", "val", "test"], ("train", "val")),
        (["train"], ("train",)),
        (["test", "trainval"], ("test", "trainval")),
    ],
)
def test_the_lists_that_are_there_are_packed(tmp_path: Path, lists: list[str], expected: tuple[str, ...]) -> None:
    write_voc(tmp_path / "VOC2012", {name: ["2007_1"] for name in lists})
    assert voc.splits(str(tmp_path)) == expected


def test_names_in_lists_match_in_composed_and_decomposed_form(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["cafe\u0301_1"]})
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("caf\u00e9_1\n")
    (sample,) = voc.samples(str(tmp_path), "train")
    assert sample.load().label_HW.size


def test_names_may_have_spaces_and_lists_endings(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["street", "street 2", "street 3", "x"]})
    lines = ("street", "street 2", " street 3.JPG ", "JPEGImages\\x.jpg")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("\n".join(lines))
    sources = [sample.source for sample in voc.samples(str(tmp_path), "train")]
    assert sources == [f"JPEGImages/{name}.jpg" for name in ("street", "street 2", "street 3", "x")]


def test_a_line_of_a_list_may_have_more_than_the_name(tmp_path: Path) -> None:
    names = ("2007_1", "2007_2", "my photo", "my photo 1", "other photo")
    write_voc(tmp_path, {"train": list(names)})
    lines = (
        "2007_1.jpg 2007_1.png",
        "2007_2 1",
        "/JPEGImages/my photo.jpg /SegmentationClassAug/my photo.png",
        "my photo 1",
        "JPEGImages/other photo",
    )
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("\n".join(lines))
    assert [sample.source for sample in voc.samples(str(tmp_path), "train")] == [f"JPEGImages/{n}.jpg" for n in names]


def test_annotations_in_the_palettes_colours_are_read(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["2007_1"]})
    (before,) = voc.samples(str(tmp_path), "train")
    label_HW = before.load().label_HW
    colours = np.array([*voc.LABELS.palette, *[(224, 224, 192)] * 235], dtype=np.uint8)
    Image.fromarray(colours[label_HW]).save(tmp_path / "SegmentationClass/2007_1.png")
    (sample,) = voc.samples(str(tmp_path), "train")
    assert np.array_equal(sample.load().label_HW, label_HW)


def test_names_and_colours_of_voc() -> None:
    assert voc.LABELS.num_classes == 21
    assert (voc.LABELS.classes[15], voc.LABELS.palette[15]) == ("person", (192, 128, 128))
    assert (voc.LABELS.classes[20], voc.LABELS.palette[20]) == ("tvmonitor", (0, 64, 128))


def test_ade20k_shifts_ids_by_one() -> None:
    """Positions of objectInfo150, which counts from 1."""
    by_raw_id = {raw_id: ade20k.LABELS.classes[i] for raw_id, i in ade20k.LABELS.id_map.items() if i != 255}
    assert ade20k.LABELS.id_map[0] == 255
    assert len(by_raw_id) == 150
    expected = {1: "wall", 2: "building", 3: "sky", 7: "road", 13: "person", 21: "car", 81: "bus", 128: "bicycle"}
    assert expected.items() <= by_raw_id.items()
    assert (by_raw_id[137], by_raw_id[150]) == ("traffic-light", "flag")


@pytest.mark.parametrize("split", ["train", "training"])
def test_ade20k_goes_by_either_name_of_a_split(tmp_path: Path, split: str) -> None:
    write_photograph(tmp_path / "images/training/ADE_train_00000001.jpg", (2, 3))
    write_grey(tmp_path / "annotations/training/ADE_train_00000001.png", IDS)
    assert [(s.key, s.split) for s in ade20k.samples(str(tmp_path), split)] == [("ADE_train_00000001", split)]


@pytest.mark.parametrize("place", [".", "ADE20K_2016_07_26"])
def test_the_full_ade20k_is_refused_as_that(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place / "images/training/a/abbey"
    for name in ("ADE_train_00000970.jpg", "ADE_train_00000970_seg.png"):
        write_photograph(folder / name, (2, 3))
    with pytest.raises(
        DataError, match="this is the full ADE20K; the challenge release ADEChallengeData2016 is needed"
    ):
        next(ade20k.samples(str(tmp_path), "train"))
