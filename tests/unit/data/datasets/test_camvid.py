import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.data.datasets import camvid
from distseg.errors import DataError


def write_frame(root: Path, name: str, *, mode: str = "RGB", label_size: tuple[int, int] = (6, 4)) -> None:
    for folder in ("train", "trainannot"):
        (root / folder).mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(root / "train" / name)
    ids = np.arange(label_size[0] * label_size[1], dtype=np.uint8).reshape(label_size[1], label_size[0]) % 12
    Image.fromarray(ids).save(root / "trainannot" / name)


@pytest.mark.filterwarnings("ignore:.*mode.*parameter is deprecated:DeprecationWarning")
def test_frames_carry_sequence_condition_and_site(tmp_path: Path) -> None:
    for name in ("0016E5_00010.png", "0001TP_006690.png", "0006R0_f00930.png", "Seq05VD_f00000.png"):
        write_frame(tmp_path, name)
    samples = list(camvid.samples(str(tmp_path), "train"))
    assert [(s.key, s.sequence, s.condition, s.site) for s in samples] == [
        ("0001TP_006690", "0001TP", "dusk", "cambridge"),
        ("0006R0_f00930", "0006R0", "day", "cambridge"),
        ("0016E5_00010", "0016E5", "day", "cambridge"),
        ("Seq05VD_f00000", "Seq05VD", "day", "cambridge"),
    ]
    assert samples[0].source == "train/0001TP_006690.png"


def test_an_rgb_png_passes_unchanged_and_void_becomes_255(tmp_path: Path) -> None:
    write_frame(tmp_path, "0001TP_1.png")
    loaded = next(camvid.samples(str(tmp_path), "train")).load()
    assert loaded.image == (tmp_path / "train" / "0001TP_1.png").read_bytes()
    assert loaded.image_format == "png"
    assert loaded.label_HW[:2].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 255]]


def test_another_kind_of_png_becomes_rgb_without_loss(tmp_path: Path) -> None:
    write_frame(tmp_path, "0001TP_1.png", mode="RGBA")
    loaded = next(camvid.samples(str(tmp_path), "train")).load()
    image = Image.open(io.BytesIO(loaded.image))
    original = Image.open(tmp_path / "train" / "0001TP_1.png")
    assert (image.mode, image.format) == ("RGB", "PNG")
    assert np.array_equal(np.asarray(image), np.asarray(original)[..., :3])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train: no such folder, or an empty one; CamVid's root has"):
        next(camvid.samples(str(tmp_path), "train"))


COLOUR_ROWS = np.array([[[128, 128, 128], [64, 64, 0], [192, 128, 64]], [[0, 0, 0], [128, 0, 192], [64, 192, 0]]])
"""Sky, Pedestrian, Child; Void, LaneMkgsDriv, Wall."""


def write_released(root: Path, images: str, labels: str, *names: str) -> None:
    for name in names:
        for folder in (images, labels):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(root / images / f"{name}.png")
        Image.fromarray(COLOUR_ROWS.astype(np.uint8)).save(root / labels / f"{name}_L.png")


@pytest.mark.parametrize("home", [".", "CamVid"])
@pytest.mark.parametrize("folders", [("701_StillsRaw_full", "LabeledApproved_full"), ("images", "labels")])
def test_the_release_in_32_colours_is_read_as_segnets_11_classes(
    tmp_path: Path, home: str, folders: tuple[str, str]
) -> None:
    frames = ("0001TP_006690", "0016E5_07959", "0016E5_08640", "Seq05VD_f00000", "0001TP_008550")
    write_released(tmp_path / home, *folders, *frames)
    assert camvid.splits(str(tmp_path)) == ("train", "val", "test")
    found = {split: list(camvid.samples(str(tmp_path), split)) for split in ("train", "val", "test")}
    assert {split: [s.key for s in of_split] for split, of_split in found.items()} == {
        "train": ["0001TP_006690", "0016E5_08640"],
        "val": ["0016E5_07959"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }
    assert found["train"][0].load().label_HW.tolist() == [[0, 9, 9], [255, 3, 1]]


def test_the_release_sorted_into_splits(tmp_path: Path) -> None:
    write_released(tmp_path, "val", "val_labels", "0001TP_006690")
    label = tmp_path / "val_labels/0001TP_006690_L.png"
    label.rename(label.with_suffix(".PNG"))
    (sample,) = camvid.samples(str(tmp_path), "val")
    assert sample.load().label_HW.tolist() == [[0, 9, 9], [255, 3, 1]]


def test_files_left_behind_do_not_say_what_labels_end_in(tmp_path: Path) -> None:
    write_frame(tmp_path, "0001TP_1.png")
    (tmp_path / "trainannot/._0001TP_1_L.png").write_bytes(b"?")
    assert [sample.key for sample in camvid.samples(str(tmp_path), "train")] == ["0001TP_1"]


def test_splits_that_get_no_frame_are_not_packed(tmp_path: Path) -> None:
    write_released(tmp_path, "701_StillsRaw_full", "LabeledApproved_full", "0006R0_f00930")
    assert camvid.splits(str(tmp_path)) == ("train",)


def test_label_colors_txt_names_the_colours(tmp_path: Path) -> None:
    write_released(tmp_path, "701_StillsRaw_full", "LabeledApproved_full", "0006R0_f00930")
    names = ("Tree", "Pedestrian", "Child", "Void", "LaneMkgsDriv", "Wall")
    rows = zip(COLOUR_ROWS.reshape(-1, 3).tolist(), names, strict=True)
    text = "".join(f"{r} {g} {b}\t\t{name}\r\n" for (r, g, b), name in rows)
    (tmp_path / "label_colors.txt").write_text(text, encoding="utf-8-sig")
    (sample,) = camvid.samples(str(tmp_path), "train")
    assert sample.load().label_HW.tolist() == [[5, 9, 9], [255, 3, 1]]
    (tmp_path / "label_colors.txt").write_text("1 2 3 Cow\n")
    with pytest.raises(
        DataError, match=r"label_colors\.txt: line 1: '1 2 3 Cow': must be red, green, blue and a class"
    ):
        next(camvid.samples(str(tmp_path), "train"))


def test_every_colour_of_the_release_is_one_class() -> None:
    colours = camvid._colours("nowhere")
    assert len(colours) == len({colour for colour, _ in colours}) == 32
    assert {train_id for _, train_id in colours} == set(range(12))


def test_an_unknown_sequence_is_named(tmp_path: Path) -> None:
    write_frame(tmp_path, "0099XX_1.png")
    with pytest.raises(DataError, match=r"0099XX_1\.png: '0099XX' is not a sequence of CamVid"):
        next(camvid.samples(str(tmp_path), "train"))


def test_a_missing_annotation_is_named(tmp_path: Path) -> None:
    write_frame(tmp_path, "0001TP_1.png")
    (tmp_path / "trainannot" / "0001TP_1.png").unlink()
    with pytest.raises(DataError, match=r"trainannot/0001TP_1\.png is missing"):
        next(camvid.samples(str(tmp_path), "train"))


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    write_frame(tmp_path, "0001TP_1.png", label_size=(6, 5))
    with pytest.raises(DataError, match=r"trainannot/0001TP_1\.png: 6x5 pixels, but its image is 6x4 pixels"):
        next(camvid.samples(str(tmp_path), "train")).load()


@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_an_unreadable_png_is_named(tmp_path: Path, folder: str) -> None:
    write_frame(tmp_path, "0001TP_1.png")
    path = tmp_path / folder / "0001TP_1.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=rf"{folder}/0001TP_1\.png: not a readable image"):
        next(camvid.samples(str(tmp_path), "train")).load()


def test_a_colour_of_no_class_is_named(tmp_path: Path) -> None:
    write_frame(tmp_path, "0001TP_1.png")
    Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / "trainannot" / "0001TP_1.png")
    with pytest.raises(DataError, match=r"trainannot/0001TP_1\.png: colours that are of no class: \[1, 2, 3\]"):
        next(camvid.samples(str(tmp_path), "train")).load()


def test_a_label_id_outside_the_table_is_named(tmp_path: Path) -> None:
    write_frame(tmp_path, "0001TP_1.png")
    Image.fromarray(np.full((4, 6), 12, dtype=np.uint8)).save(tmp_path / "trainannot" / "0001TP_1.png")
    with pytest.raises(DataError, match=r"0001TP_1\.png: label ids \[12\] are outside"):
        next(camvid.samples(str(tmp_path), "train")).load()


def test_void_may_be_255_too(tmp_path: Path) -> None:
    write_frame(tmp_path, "0001TP_1.png")
    Image.fromarray(np.array([[11, 255], [10, 0]], dtype=np.uint8)).resize((6, 4), 0).save(
        tmp_path / "trainannot" / "0001TP_1.png"
    )
    label_HW = next(camvid.samples(str(tmp_path), "train")).load().label_HW
    assert label_HW[[0, 3]][:, [0, 5]].tolist() == [[255, 255], [10, 0]]


def test_fastais_copy_is_read_by_its_list_of_classes(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "images/0001TP_006690.png")
    label = tmp_path / "labels/0001TP_006690_P.png"
    Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], dtype=np.uint8)).save(label)
    (tmp_path / "codes.txt").write_text("Sky\nChild\nTruck_Bus\nVoid\nWall\nSidewalk")
    (sample,) = camvid.samples(str(tmp_path), "train")
    assert (sample.key, sample.condition) == ("0001TP_006690", "dusk")
    assert sample.load().label_HW.tolist() == [[0, 9, 8], [255, 1, 4]]
    Image.fromarray(np.array([[6, 0, 0]] * 2, dtype=np.uint8)).save(label)
    with pytest.raises(DataError, match=r"0001TP_006690_P\.png: id 6: .*codes\.txt names 6 classes"):
        sample.load()
    (tmp_path / "codes.txt").unlink()
    with pytest.raises(DataError, match=r"codes\.txt: no such file, which says what the numbers in \*_P\.png mean"):
        next(camvid.samples(str(tmp_path), "train"))
    (tmp_path / "codes.txt").write_text("Sky\nCloud")
    with pytest.raises(DataError, match=r"codes\.txt: line 2: 'Cloud': must be a class of CamVid's 32"):
        next(camvid.samples(str(tmp_path), "train"))


def test_a_list_of_classes_beside_segnets_layout_is_not_of_its_numbers(tmp_path: Path) -> None:
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (3, 1)).save(tmp_path / "train/0001TP_006690.png")
    Image.fromarray(np.array([[0, 9, 11]], dtype=np.uint8)).save(tmp_path / "trainannot/0001TP_006690.png")
    (tmp_path / "codes.txt").write_text("Sky\nChild")
    (sample,) = camvid.samples(str(tmp_path), "train")
    assert sample.load().label_HW.tolist() == [[0, 9, 255]]
