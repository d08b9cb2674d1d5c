"""Cityscapes and the data sets that share its classes: the tables, worked by hand, and the splits."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from distseg.data.datasets import acdc, cityscapes
from distseg.errors import DataError
from tests.raw_files import write_deep_grey, write_grey, write_photograph

TRAIN_ID_OF_RAW = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
TRAIN_ID_OF_RAW |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}


def test_nineteen_of_the_raw_ids_are_classes_and_all_others_void() -> None:
    labels = cityscapes.LABELS
    assert labels.id_map == {**dict.fromkeys((*range(34), 255), 255), **TRAIN_ID_OF_RAW}
    assert (labels.classes[0], labels.palette[0]) == ("road", (128, 64, 128))
    assert (labels.classes[18], labels.palette[18]) == ("bicycle", (119, 11, 32))


def test_the_smaller_spaces_keep_order_and_colours() -> None:
    assert cityscapes.LABELS_16.num_classes == 16
    assert cityscapes.LABELS_13.num_classes == 13
    assert cityscapes.LABELS_16.id_map[22] == cityscapes.LABELS_16.id_map[27] == 255
    assert cityscapes.LABELS_16.id_map[33] == 15
    colours = dict(zip(cityscapes.LABELS.classes, cityscapes.LABELS.palette, strict=True))
    for labels in (cityscapes.LABELS_16, cityscapes.LABELS_13):
        assert labels.classes == tuple(c for c in colours if c in labels.classes)
        assert labels.palette == tuple(colours[c] for c in labels.classes)


@pytest.mark.parametrize(
    ("split", "annotations", "message"),
    [
        ("test", "fine", "fine annotations are of train, val, not of 'test'"),
        ("test", "coarse", "coarse annotations are of train, val, train_extra, not of 'test'"),
        ("train_extra", "fine", "not of 'train_extra'; those of train_extra are coarse"),
    ],
)
def test_splits_without_annotations(split: str, annotations: Literal["fine", "coarse"], message: str) -> None:
    with pytest.raises(DataError, match=message):
        next(cityscapes.samples("anywhere", split, cityscapes.Options(annotations=annotations)))


def test_train_ids_are_read_where_there_are_no_raw_ids(tmp_path: Path) -> None:
    """Where there are both, raw ids are."""
    frame = "train/aachen/aachen_000000_000019"
    write_photograph(tmp_path / f"leftImg8bit/{frame}_leftImg8bit.png", (1, 3))
    write_grey(tmp_path / f"gtFine/{frame}_gtFine_labelTrainIds.png", np.array([[0, 18, 255]], dtype=np.uint16))
    (sample,) = cityscapes.samples(str(tmp_path), "train")
    assert sample.load().label_HW.tolist() == [[0, 18, 255]]
    write_grey(tmp_path / f"gtFine/{frame}_gtFine_labelIds.png", np.array([[8, 7, 0]], dtype=np.uint16))
    (sample,) = cityscapes.samples(str(tmp_path), "train")
    assert sample.load().label_HW.tolist() == [[1, 0, 255]]


def test_instances_are_read_where_there_is_nothing_else(tmp_path: Path) -> None:
    frame = "train/aachen/aachen_000000_000019"
    write_photograph(tmp_path / f"leftImg8bit/{frame}_leftImg8bit.png", (1, 4))
    ids = np.array([[7, 26, 26003, 0]], dtype=np.uint16)
    write_deep_grey(tmp_path / f"gtFine/{frame}_gtFine_instanceIds.png", ids)
    (tmp_path / f"gtFine/{frame}_gtFine_labelIds.png").with_name("._x_gtFine_labelIds.png").write_bytes(b"left behind")
    (sample,) = cityscapes.samples(str(tmp_path), "train")
    assert sample.load().label_HW.tolist() == [[0, 13, 13, 255]]


def test_acdc_holds_train_ids_of_cityscapes() -> None:
    assert acdc.LABELS.classes == cityscapes.LABELS.classes
    assert acdc.LABELS.name == "cityscapes"
    assert acdc.LABELS.id_map == {}


def write_acdc(root: Path, condition: str, split: str, name: str) -> None:
    write_photograph(root / f"rgb_anon/{condition}/{split}/GOPR0001/{name}_rgb_anon.png", (2, 3))
    label = root / f"gt/{condition}/{split}/GOPR0001/{name}_gt_labelTrainIds.png"
    label.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 2), 3).save(label)


def test_acdc_is_read_from_raw_ids_where_there_is_nothing_else(tmp_path: Path) -> None:
    write_photograph(tmp_path / "rgb_anon/fog/val/GOPR0001/GOPR0001_frame_000001_rgb_anon.png", (1, 3))
    label = tmp_path / "gt/fog/val/GOPR0001/GOPR0001_frame_000001_gt_labelIds.png"
    write_grey(label, np.array([[7, 33, 0]], dtype=np.uint16))
    (sample,) = acdc.samples(str(tmp_path), "val")
    assert sample.load().label_HW.tolist() == [[0, 18, 255]]
    label.with_name(f"._{label.name.replace('labelIds', 'labelTrainIds')}").write_bytes(b"left behind")
    label.rename(label.with_suffix(".PNG"))
    (sample,) = acdc.samples(str(tmp_path), "val")
    assert sample.load().label_HW.tolist() == [[0, 18, 255]]


def test_frames_of_one_name_in_two_conditions_stay_apart(tmp_path: Path) -> None:
    for condition in ("night", "snow"):
        write_acdc(tmp_path, condition, "val", "GOPR0001_frame_000001")
    found = [(s.key, s.condition) for s in acdc.samples(str(tmp_path), "val")]
    assert found == [("night-GOPR0001_frame_000001", "night"), ("snow-GOPR0001_frame_000001", "snow")]


def test_reference_frames_need_a_release_that_annotates_them(tmp_path: Path) -> None:
    write_photograph(tmp_path / "rgb_anon/fog/train_ref/GOPR0001/GOPR0001_frame_000001_rgb_ref_anon.png", (2, 3))
    with pytest.raises(
        DataError, match=r"gt/fog/train_ref/.* is missing, .*does not annotate train_ref; choose train or val"
    ):
        next(acdc.samples(str(tmp_path), "train_ref"))


def test_conditions_without_the_split_are_left_out(tmp_path: Path) -> None:
    write_acdc(tmp_path, "fog", "train", "GOPR0001_frame_000001")
    write_acdc(tmp_path, "snow", "val", "GOPR0001_frame_000001")
    (tmp_path / "gt/rain").mkdir()
    (tmp_path / "rgb_anon/rain").mkdir()
    (tmp_path / "rgb_anon/__MACOSX").mkdir()
    for split, condition in (("train", "fog"), ("val", "snow")):
        assert [s.condition for s in acdc.samples(str(tmp_path), split)] == [condition]
    with pytest.raises(DataError, match=r"rgb_anon: none of fog, night, rain, snow with train_ref/ is here"):
        next(acdc.samples(str(tmp_path), "train_ref"))


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("rgb_anon/Night", r"rgb_anon/Night: not a condition of ACDC; rename it to one of fog, night, rain, snow"),
        ("gt/Night", r"gt/Night: not a condition of ACDC"),
        ("gt/rain", r"gt/rain: its photographs .*/rgb_anon/rain are missing"),
        ("gt/fog/val", r"gt/fog/val: its photographs .*/rgb_anon/fog/val are missing"),
    ],
)
def test_folders_that_are_no_condition_are_named(tmp_path: Path, folder: str, message: str) -> None:
    """A condition misspelt, or annotated without photographs, would be missing without a word."""
    write_acdc(tmp_path, "fog", "train", "GOPR0001_frame_000001")
    write_acdc(tmp_path, "snow", "val", "GOPR0001_frame_000001")
    (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=message):
        next(acdc.samples(str(tmp_path), "val"))


def test_acdc_test_has_no_annotations() -> None:
    with pytest.raises(DataError, match="ACDC has no public annotations of 'test'"):
        next(acdc.samples("anywhere", "test"))
