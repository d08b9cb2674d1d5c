"""examples/to_cvat.py on a folder as `predict` writes it."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.data import LabelSpace
from distseg.deployment import label_image
from examples import to_cvat

IDS_HW = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
BLACK_AND_TWICE = ((0, 0, 0), (9, 9, 9), (9, 9, 9))  # a palette that masks could not be told by


def predicted(folder: Path, classes: tuple[str, ...]) -> Path:
    labels = LabelSpace(name="streets", classes=classes, palette=BLACK_AND_TWICE)
    for name in ("night/0001.png", "a day.png"):
        (folder / "label" / name).parent.mkdir(parents=True, exist_ok=True)
        label_image(IDS_HW, labels).save(folder / "label" / name)
    header = ",".join(("image", "confidence", *classes))
    (folder / "images.csv").write_text(f"{header}\nnight/0001.jpg,0.9,0,0,1\na day.png,0.8,0,0,1\n")
    return folder


def test_a_zip_has_each_class_in_a_colour_of_its_own(tmp_path: Path) -> None:
    folder = predicted(tmp_path, ("road", "sky", "traffic light"))
    assert to_cvat.write_zip(folder, tmp_path / "masks.zip") == (
        ["night/0001", "a day"],
        ["road", "sky", "traffic light"],
    )
    with zipfile.ZipFile(tmp_path / "masks.zip") as file:
        assert sorted(file.namelist()) == [
            "ImageSets/Segmentation/default.txt",
            "SegmentationClass/a day.png",
            "SegmentationClass/night/0001.png",
            "labelmap.txt",
        ]
        assert file.read("labelmap.txt").decode().splitlines()[1:] == [
            "background:0,0,0::",
            "road:128,0,0::",
            "sky:0,128,0::",
            "traffic light:128,128,0::",
        ]
        assert file.read("ImageSets/Segmentation/default.txt").decode() == "night/0001\na day\n"
        mask = Image.open(io.BytesIO(file.read("SegmentationClass/night/0001.png")))
    road, sky, light = (128, 0, 0), (0, 128, 0), (128, 128, 0)
    assert mask.mode == "RGB"
    assert np.array_equal(np.asarray(mask), [[road, sky, light], [light, sky, road]])


def test_no_two_of_all_classes_have_one_colour() -> None:
    colours = {tuple(colour) for colour in to_cvat.voc_colours(255).tolist()}
    assert len(colours) == 255 and (0, 0, 0) not in colours
    assert to_cvat.voc_colours(255)[254].tolist() == [224, 224, 192]  # as VOC's own table has it


@pytest.mark.parametrize("name", ["a:b", "#road", "background"])
def test_a_class_that_the_format_cannot_have_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit, match=f"class '{name}' cannot be"):
        to_cvat.write_zip(predicted(tmp_path, ("sky", name, "car")), tmp_path / "masks.zip")
    assert not (tmp_path / "masks.zip").exists()
