import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.data.datasets import folder
from distseg.data.sample import Sample
from distseg.data.shards import pack, verify
from distseg.errors import DataError
from tests.raw_files import write_grey, write_photograph


def write(root: Path, *names: str, classes: Any = ("road", "sky"), rows: str = "") -> None:
    for name in names:
        write_photograph(root / "images" / f"{name}.jpg", (2, 3))
        write_grey(root / "labels" / f"{name}.png", np.zeros((2, 3), dtype=np.uint16))
    (root / "classes.json").write_text(json.dumps(classes))
    if rows:
        (root / "conditions.csv").write_text(rows)


def samples(root: Path, split: str) -> list[Sample]:
    return list(folder.samples(str(root), split))


# ---- splits and groups


def test_splits_by_folder(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/deep/b", "val/c")
    assert [(s.source, s.condition, s.site, s.sequence) for s in samples(tmp_path, "train")] == [
        ("images/train/a.jpg", "all", "all", "all"),
        ("images/train/deep/b.jpg", "all", "all", "all"),
    ]
    assert [s.key for s in samples(tmp_path, "val")] == ["c"]


def test_splits_by_column(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a",
        "b",
        "kyoto/c",
        rows="split, file, condition\nval,a.jpg,fog\ntrain,b.jpg,fog\nval,kyoto/c.jpg,rain\n",
    )
    assert [(s.source, s.condition) for s in samples(tmp_path, "val")] == [
        ("images/a.jpg", "fog"),
        ("images/kyoto/c.jpg", "rain"),
    ]
    assert [s.source for s in samples(tmp_path, "train")] == ["images/b.jpg"]


def test_without_splits_there_is_one(tmp_path: Path) -> None:
    write(tmp_path, "a b", "a.b", rows="file,site\na b.jpg,x\na.b.jpg,y\n")
    found = samples(tmp_path, "all")
    assert sorted((s.source, s.site) for s in found) == [("images/a b.jpg", "x"), ("images/a.b.jpg", "y")]
    assert len({s.key for s in found}) == 2
    with pytest.raises(DataError, match=r"no split 'train': .*; choose from all"):
        samples(tmp_path, "train")


def test_a_column_that_repeats_the_folders_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/deep/b", "val/c")
    before = {split: samples(tmp_path, split) for split in ("train", "val")}
    rows = "file,split\ntrain/a.jpg,train\ntrain/deep/b.jpg,train\nval/c.jpg,val\n"
    write(tmp_path, rows=rows)
    assert {split: samples(tmp_path, split) for split in ("train", "val")} == before


@pytest.mark.parametrize(
    ("names", "rows", "expected"),
    [
        (["a", "kyoto/b"], "", ("all",)),
        (["val/a", "test/b", "train/c", "kyoto/d"], "", ("train", "val", "test")),
        (["train/a"], "file,site\ntrain/a.jpg,x\n", ("train",)),
        (["a", "b", "c"], "file,split\na.jpg,val\nb.jpg,train\nc.jpg,extra\n", ("train", "val", "extra")),
        (["train/a", "train/b"], "file,split\ntrain/a.jpg,val\ntrain/b.jpg,val\n", ("val",)),
    ],
)
def test_the_splits_that_exist(tmp_path: Path, names: list[str], rows: str, expected: tuple[str, ...]) -> None:
    write(tmp_path, *names, rows=rows)
    assert folder.splits(str(tmp_path)) == expected
    assert all(samples(tmp_path, split) for split in expected)


def test_folders_that_are_left_out_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train/a", "valid/b", "test/c", ".checkpoints/d")
    assert folder.splits(str(tmp_path)) == ("train", "test")
    assert "images/valid is left out; --splits train test valid packs it, too" in caplog.text


def test_folders_that_look_like_splits_but_become_one_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "Training/a", "validation/b", "berlin/c")
    assert folder.splits(str(tmp_path)) == ("all",)
    said = "images/Training and images/validation become one split, all; --splits Training validation keeps them apart"
    assert said in caplog.text


@pytest.mark.parametrize(
    "field",
    [
        {"classes": ["a", {"name": "b", "color": "9" * 5000}]},
        {"ids": "9" * 5000},
        {"ids": {"9" * 5000: "c"}},
        {"ids": {"1": "9" * 5000}},
        {"ids": {"9" * 5000: "a"}},
        {"ignore": "9" * 5000},
        {"ignore": [["9" * 5000]]},
    ],
)
def test_however_long_a_wrong_value_is_the_line_is_short(field: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a", "b"], **field}))
    with pytest.raises(DataError, match=r"classes\.json") as raised:
        folder.labels(str(tmp_path))
    assert len(str(raised.value).replace(str(tmp_path), "")) < 400


def test_photographs_beside_the_splits_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train/a", "val/b")
    assert folder.splits(str(tmp_path)) == ("train", "val") and not caplog.messages
    write(tmp_path, "d", "c", "train/a", "val/b")
    assert folder.splits(str(tmp_path)) == ("train", "val")
    (said,) = caplog.messages
    assert (
        "photographs in images/ itself are left out, 2 of them: c.jpg is the first; put them into images/train" in said
    )


def test_a_test_split_that_nobody_annotated_is_none(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "test/b")
    (tmp_path / "labels/test/b.png").unlink()
    (tmp_path / "labels/test").rmdir()
    assert folder.splits(str(tmp_path)) == ("train",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("images/b.bmp", r"images/b\.bmp: cannot be packed; convert it to JPEG or PNG"),
        ("images/deep/b.HEIC", r"images/deep/b\.HEIC: cannot be packed; convert it to JPEG or PNG"),
        ("labels/b.tif", r"labels/b\.tif: cannot be packed; convert it to PNG of ids"),
        ("labels/b.jpeg", r"labels/b\.jpeg: cannot be packed; convert it to PNG of ids"),
    ],
)
def test_pictures_of_other_kinds_are_not_passed_over(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path, "a")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        samples(tmp_path, "all")


def test_files_that_are_no_pictures_are_no_matter(tmp_path: Path) -> None:
    write(tmp_path, "a")
    for name in ("images/readme.txt", "labels/a.json"):
        (tmp_path / name).touch()
    assert len(samples(tmp_path, "all")) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_a_csv_end_as_any_system_ends_them(tmp_path: Path, end: str) -> None:
    write(tmp_path, "a", "b")
    (tmp_path / "conditions.csv").write_bytes(f'file,site{end}"a.jpg",x{end}{end}b.jpg,y'.encode())
    assert [s.site for s in samples(tmp_path, "all")] == ["x", "y"]


def test_a_file_name_need_not_be_utf8(tmp_path: Path) -> None:
    write(tmp_path, "k\udcf6ln")  # how Python spells the byte f6
    (sample,) = samples(tmp_path, "all")
    assert sample.key.startswith("k_ln-")
    pack({"all": [sample]}, folder.labels(str(tmp_path)), str(tmp_path / "out"), dataset="folder")
    assert verify(str(tmp_path / "out")) == []


@pytest.mark.parametrize(
    ("names", "rows", "message"),
    [
        (["train/a"], "", "no split 'test': .* choose from all, train"),
        (["a"], "file,split\na.jpg,train\n", "no split 'test': .* choose from train"),
        (
            ["test/a", "val/b"],
            "file,split\ntest/a.jpg,test\nval/b.jpg,test\ntest/c.jpg,val\n",
            "val/b.jpg: split 'test', but it is in images/val/, which is a split, too; move it, or change the row",
        ),
        (["test/a"], "file,site,site\ntest/a.jpg,x,y\n", "columns file, site, site; each once"),
        (["test/a"], 'file,site\ntest/a.jpg,x\ntest/b.jpg,"y\n\ntest/c.jpg,z\n', "line 3: not CSV .*is each quote"),
        (["test/a"], 'file,"site\ntest/a.jpg,x\n', "line 1: not CSV"),
        (["test/a", "test/b"], "file,site\ntest/a.jpg,x\n", "conditions.csv: no row of test/b.jpg"),
        (["test/a"], "file,site\ntest/a.jpg,x\ntest/b.jpg,x\n", "conditions.csv: test/b.jpg: no such photograph"),
        (["test/a"], "file,site\ntest/a.jpg,x\ntest/a.jpg,x\n", "line 3: a second row of test/a.jpg"),
        (["test/a"], "file,site\ntest/a.jpg,new york\n", "line 2: site 'new york': use letters, digits"),
        (["test/a"], "file,site\ntest/a.jpg\n", "line 2: must have 2 values"),
        (["test/a"], "file,site\ntest/a.jpg,x,y\n", "line 2: must have 2 values"),
        (["test/a"], "file,weather\ntest/a.jpg,x\n", "columns file, weather; must be file and any of condition, site"),
        (["test/a"], "site\nx\n", "columns site; must be file"),
        (["test/a"], "file,site\n", "no rows"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, names: list[str], rows: str, message: str) -> None:
    write(tmp_path, *names, rows=rows)
    with pytest.raises(DataError, match=message):
        samples(tmp_path, "test")


def test_a_csv_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a")
    (tmp_path / "conditions.csv").write_bytes(b"file,site\na.jpg,k\xf6ln\n")
    with pytest.raises(DataError, match=r"conditions\.csv: not UTF-8"):
        samples(tmp_path, "all")


# ---- classes


def test_ids_are_positions_unless_said_otherwise(tmp_path: Path) -> None:
    write(tmp_path)
    assert folder.labels(str(tmp_path)).id_map == {0: 0, 1: 1, 255: 255}
    body = {"name": "town-7", "classes": ["road", "sky"], "ids": {"7": "road", "9": "sky", "8": "road"}, "ignore": [0]}
    write(tmp_path, classes=body)
    labels = folder.labels(str(tmp_path))
    assert (labels.name, labels.classes, labels.id_map) == ("town-7", ("road", "sky"), {7: 0, 9: 1, 8: 0, 0: 255})


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("road", "must be a list of classes, or an object"),
        ({"names": ["road"]}, "must be a list of classes, or an object"),
        ({"classes": ["road"], "void": [0]}, "must be a list of classes, or an object"),
        ({"classes": ["road"], "name": 3}, "name = 3: must be a word"),
        ({"classes": ["road"], "ids": ["road"]}, "ids = ['road']: must be an object"),
        ({"classes": ["road"], "ids": {"0": "lane"}}, "ids['0'] = 'lane': not one of classes"),
        ({"classes": ["road"], "ids": {"x": "road"}}, "ids: 'x': must be a whole number from 0 to 65535"),
        ({"classes": ["road"], "ids": {"-1": "road"}}, "ids: '-1': must be a whole number"),
        ({"classes": ["road", "sky"], "ids": {"0": "road"}}, "ids: none is 'sky'"),
        ({"classes": ["road"], "ignore": 255}, "ignore = 255: must be a list"),
        ({"classes": ["road"], "ignore": [0]}, "ignore: 0 is 'road', too"),
        ({"classes": ["road"], "ignore": [65536]}, "ignore: 65536: must be a whole number"),
        ([], "classes: must be a list of 1 to 255 classes"),
        (
            {"classes": ["road", "sky"], "ids": {"7": "road", "1": "sky", "07": "sky"}},
            "ids['07']: a second class of id 7; remove one of them",
        ),
        ({"classes": ["road"], "ignore": [[0, 0, 0], 255]}, "ignore: colours, but no class has one; write classes as"),
    ],
)
def test_classes_that_do_not_fit(tmp_path: Path, classes: Any, message: str) -> None:
    write(tmp_path, classes=classes)
    with pytest.raises(DataError, match=rf"classes\.json: {re.escape(message)}"):
        folder.labels(str(tmp_path))


def test_void_may_be_named_twice(tmp_path: Path) -> None:
    write(tmp_path, classes={"classes": ["road"], "ignore": [255, 255]})
    assert folder.labels(str(tmp_path)).id_map == {0: 0, 255: 255}


def test_classes_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.json: missing; write the names of the classes"):
        folder.labels(str(tmp_path))


# ---- names and colours


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("image", "label"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), (COMPOSED, COMPOSED)])
def test_names_match_in_composed_and_in_decomposed_form(tmp_path: Path, image: str, label: str) -> None:
    write_photograph(tmp_path / "images" / f"{image}.png", (2, 3))
    write_grey(tmp_path / "labels" / f"{label}.png", np.zeros((2, 3), dtype=np.uint16))
    (tmp_path / "conditions.csv").write_text(f"file,condition\n{DECOMPOSED}.png,fog\n")
    classes = {"classes": [DECOMPOSED, "b"], "ids": {"0": COMPOSED, "1": "b"}}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    (found,) = samples(tmp_path, "all")
    assert (found.condition, found.load().label_HW.tolist()) == ("fog", [[0, 0, 0], [0, 0, 0]])
    assert found.key.startswith("caf_-")


COLOURED = {"classes": [{"name": "road", "color": [128, 64, 128]}, {"name": "sky", "color": [70, 130, 180]}]}


def test_label_maps_may_be_colours(tmp_path: Path) -> None:
    pixels_HW3 = np.array([[[70, 130, 180], [128, 64, 128], [0, 0, 0]]], dtype=np.uint8)
    write(tmp_path, "a", classes=COLOURED | {"ignore": [[0, 0, 0]]})
    write_photograph(tmp_path / "images/a.jpg", (1, 3))
    Image.fromarray(pixels_HW3).save(tmp_path / "labels/a.png")
    (found,) = samples(tmp_path, "all")
    assert found.load().label_HW.tolist() == [[1, 0, 255]]
    write(tmp_path, classes=COLOURED)
    (found,) = samples(tmp_path, "all")
    with pytest.raises(DataError, match=r"labels/a\.png: colours that are of no class: \[0, 0, 0\]; name each as"):
        found.load()


def test_colours_and_ids_may_stand_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, "a", classes=COLOURED)
    assert samples(tmp_path, "all")[0].load().label_HW.tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["road", "road "], r"classes\[1\] = 'road ': spaces at the begin or end of a name; remove them"),
        (["road", "sky\u001b[31m"], r"classes\[1\] = 'sky\\x1b\[31m': write"),
        (["road", "\ud800"], "holds half a character"),
        ({"classes": ["a"], "ids": {"9" * 5000: "a"}}, r"ids: '9+': must be a whole number from 0 to 65535"),
        ({"name": "a\u001b]0;x", "classes": ["a"]}, "must be a word"),
    ],
)
def test_names_and_numbers_that_nobody_means_are_refused(tmp_path: Path, classes: Any, message: str) -> None:
    write(tmp_path, "a", classes=classes)
    with pytest.raises(DataError, match=message):
        samples(tmp_path, "all")


def test_deep_json_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "a")
    (tmp_path / "classes.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"classes\.json: not JSON"):
        samples(tmp_path, "all")
