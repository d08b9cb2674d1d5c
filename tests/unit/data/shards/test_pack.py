import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg import cli, pack
from distseg.cli import workers
from distseg.data import Runner
from distseg.data.shards import load_manifest
from distseg.errors import ConfigError, DataError
from tests.raw_files import write_grey, write_photograph, write_synthia
from tests.unit.data.datasets.raw_trees import DATA_SETS

TINY = ["--size", "32", "48", "--num_processes", "1"]


@pytest.fixture(scope="module")
def town_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("town"))
    assert pack.main(["town", "--out", uri, "--train", "18", "--val", "9", *TINY]) == 0
    return uri


def write_camvid(root: Path) -> None:
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for name in ("0001TP_1.png", "0016E5_1.png"):
            Image.new("RGB", (40, 32), (9, 9, 9)).save(root / split / name)
            Image.fromarray(np.full((32, 40), 3, dtype=np.uint8)).save(root / f"{split}annot" / name)


def test_town_is_packed(town_uri: str) -> None:
    manifest = load_manifest(town_uri)
    assert manifest.dataset == "town"
    assert sum(shard.num_samples for shard in manifest.select("train")) == 18
    assert len(manifest.conditions("train")) == 9
    assert manifest.image_sizes["val"] == ((32, 48), (32, 48))


def test_a_split_can_be_left_out(tmp_path: Path) -> None:
    assert pack.main(["town", "--out", str(tmp_path), "--train", "0", "--val", "2", *TINY]) == 0
    assert load_manifest(str(tmp_path)).splits == ("val",)


def test_camvid_is_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_camvid(tmp_path / "raw")
    arguments = ["camvid", "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--num_processes", "1"]
    assert pack.main([*arguments, "--splits", "val"]) == 0
    printed = capsys.readouterr()
    assert "val: 2 samples in 2 shards: day, dusk" in printed.out
    assert re.search(r"^packing: 2/2 samples, [\d.]+ samples/s, 0 s left$", printed.err, re.MULTILINE)
    assert "same drives" not in printed.out
    assert pack.main([*arguments, "--overwrite"]) == 0
    assert load_manifest(str(tmp_path / "out")).splits == ("train", "val")
    assert "train and val have frames of the same drives (0001TP, 0016E5): scores" in capsys.readouterr().out


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Runner]:
    """A process that was started in another directory, as those of a cluster are; one for all data sets."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(os.getpid).result()
        yield lambda function, tasks: pool.map(function, tasks)


@pytest.mark.parametrize(
    ("command", "name", "options"),
    [
        ("synthia", "synthia", ["--val_sequences", "04", "--sites", "highway", "new-york", "european"]),
        ("synthia", "synthia-rand", ["--val_share", "0.25", "--gap_frames", "1"]),
        ("cityscapes", "cityscapes", []),
        ("cityscapes", "cityscapes-coarse", ["--annotations", "coarse"]),
        ("acdc", "acdc", []),
        ("voc", "voc", []),
        ("voc", "voc-sbd", ["--sbd", "raw/sbd"]),
        ("ade20k", "ade20k", []),
        ("folder", "folder", []),
    ],
)
def test_raw_data_sets_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Runner, command: str, name: str, options: list[str]
) -> None:
    """With the options of each; names of directories are relative to here, wherever the work is done."""
    monkeypatch.setattr(workers, "in_processes", lambda _: elsewhere)
    data_set = DATA_SETS[name]
    data_set.write(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    where = ["--root", "raw", "--out", "packed", "--splits", data_set.split, "--num_processes", "2"]
    assert pack.main([command, *where, *options]) == 0
    manifest = load_manifest("packed")
    assert manifest.dataset == command
    assert sum(shard.num_samples for shard in manifest.shards) == len(data_set.frames)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"SYNTHIA-SEQS-06-FOG/{{}}/Stereo_Left/Omni_F/{i:06d}.png" for i in range(4)], {"train": 1, "val": 1}),
        ([f"{{}}/{i:07d}.png" for i in range(4)], {"train": 3, "val": 1}),
    ],
)
def test_small_trees_of_synthia_are_packed_without_options(
    tmp_path: Path, names: list[str], expected: dict[str, int]
) -> None:
    """One of four is val; between frames of a drive two are the gap."""
    for name in names:
        write_photograph(tmp_path / "raw" / name.format("RGB"), (32, 40))
        write_synthia(tmp_path / "raw" / name.format("GT/LABELS"), np.ones((32, 40), dtype=np.uint16))
    assert packed("synthia", tmp_path) == expected


def test_a_folder_is_packed_in_the_splits_it_has(tmp_path: Path) -> None:
    DATA_SETS["folder"].write(tmp_path / "raw")
    assert packed("folder", tmp_path) == {"train": 2}


def packed(command: str, folder: Path) -> dict[str, int]:
    """The samples of each split."""
    where = ["--root", str(folder / "raw"), "--out", str(folder / "packed"), "--num_processes", "1"]
    assert pack.main([command, *where]) == 0
    manifest = load_manifest(str(folder / "packed"))
    return {split: sum(shard.num_samples for shard in manifest.select(split)) for split in manifest.splits}


def test_help_says_which_splits_a_folder_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pack.main(["folder", "--help"])
    shown = re.sub(r"[^a-z0-9/,:.]+", " ", capsys.readouterr().out.lower())
    assert "by default those that exist" in shown


def test_two_data_sets_in_the_same_classes(tmp_path: Path) -> None:
    """Town's lane markings are road, so one network can be trained on town and scored on Cityscapes."""
    DATA_SETS["cityscapes"].write(tmp_path / "raw")
    for out, command in (
        ("town", ["town", "--train", "1", "--val", "0", "--size", "32", "48"]),
        ("city", ["cityscapes", "--root", str(tmp_path / "raw"), "--splits", "train"]),
    ):
        options = ["--out", str(tmp_path / out), "--relabel", "cityscapes-13", "--num_processes", "1"]
        assert pack.main([*command, *options]) == 0
    town, city = (load_manifest(str(tmp_path / out)) for out in ("town", "city"))
    assert town.label_space == city.label_space
    assert town.label_space.name == "cityscapes-13"
    assert town.class_pixels["train"]["dawn"][0] > 0


def test_verify_says_yes_and_no(town_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main(["verify", town_uri]) == 0
    assert capsys.readouterr().out == f"{town_uri}: as packed\n"
    shard = load_manifest(town_uri).shards[0]
    path = Path(town_uri) / shard.name
    sound = path.read_bytes()
    path.write_bytes(sound[:-1024])
    try:
        assert pack.main(["verify", town_uri]) == 1
        out = capsys.readouterr().out
        assert out.startswith(f"{shard.name}: truncated")
        assert out.endswith(f"{town_uri}: 1 problem\n")
    finally:
        path.write_bytes(sound)


def test_inspect_prints_tables_and_draws_a_sheet(
    town_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert pack.main(["inspect", town_uri, "--sheet", str(sheet), "--columns", "2"]) == 0
    out = capsys.readouterr().out
    assert "train: images of 32x48 pixels (height x width)" in out
    for word in ("winter-night", "new-york", "lane-marking"):
        assert word in out
    with Image.open(sheet) as drawn:
        assert drawn.width == 2 * 240


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of"),
        (["nothing"], "nothing"),
        (["town"], "--out"),
        (["town", "--out", "x", "--train", "many"], "--train"),
        (["town", "--out", "x", "--train", "0", "--val", "0"], "nothing to pack"),
        (["town", "--out", "x", "--num_processes", "0"], "--num_processes = 0: must be at least 1"),
        (["town", "--out", "x", "--max_mib_per_shard", "-1"], "--max_mib_per_shard = -1: must be at least 1"),
        (["town", "--out", "x", "--shuffle_seed", "-1"], "--shuffle_seed = -1: must not be negative"),
        (["inspect"], "uri"),
        (["cityscapes", "--root", "x", "--out", "y", "--annotations", "rough"], "--annotations"),
        (["synthia", "--root", "x"], "--out"),
        (["town", "--out", "x", "--relabel", "kitti"], "relabel 'kitti': must be cityscapes"),
        (["acdc", "--root", "x", "--out", "y", "--sbd", "z"], "--sbd"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        pack.main(arguments)


@pytest.mark.parametrize("option", [["--sheet", ""], ["--sheet", "x.jpg"], ["--columns", "0"], ["--columns", "33"]])
def test_bad_sheets(town_uri: str, option: list[str]) -> None:
    with pytest.raises(ConfigError, match=option[0]):
        pack.main(["inspect", town_uri, *option])


def test_packing_twice_is_refused(town_uri: str) -> None:
    with pytest.raises(DataError, match="already holds a packed data set"):
        pack.main(["town", "--out", town_uri, *TINY])


def test_plain_progress_is_one_line_per_interval(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 1.0, 10.0, 12.0, 20.0])
    progress = cli.PlainProgress("packing", "samples", clock=lambda: next(now))
    for num_done in (5, 50, 60, 100):
        progress(num_done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "packing: 50/100 samples, 5.0 samples/s, 10 s left",
        "packing: 100/100 samples, 5.0 samples/s, 0 s left",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["verify", "/nowhere/at/all"], 1, ""),
        (["inspect", "/nowhere/at/all"], 1, "error: no manifest.json under /nowhere/at/all: pack it first"),
        (["camvid", "--root", "/nowhere", "--out", "unused"], 1, "error: /nowhere/train: no such folder"),
        (["town"], 2, "error: Missing"),
    ],
)
def test_exit_codes(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    command = [sys.executable, "-m", "distseg.pack", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(pack.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_the_program_starts_without_torch(town_uri: str) -> None:
    """Only webdataset's writer imports it, where shards are written."""
    program = (
        f"import sys; from distseg import pack; pack.main(['inspect', {town_uri!r}]);"
        "print(sorted({'torch', 'ray', 'mlflow', 'boto3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- what a user may not have meant


def own_data(root: Path, classes: object, masks: dict[str, list[int]]) -> list[str]:
    """One image of 4x1 pixels for each split; what `pack` is told about it."""
    for split, ids in masks.items():
        write_photograph(root / "images" / split / "a.png", (1, 4))
        write_grey(root / "labels" / split / "a.png", np.array([ids], dtype=np.uint16))
    (root / "classes.json").write_text(json.dumps(classes))
    return ["folder", "--root", str(root), "--out", str(root / "out"), "--num_processes", "1"]


def test_a_mask_of_0_and_255_is_packed_with_a_word_about_255(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = {"train": [0, 0, 255, 0], "val": [0, 255, 255, 0]}
    assert pack.main(own_data(tmp_path, ["background", "crack"], masks)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train: no pixel of crack" in lines and "val: no pixel of crack" in lines
    (said,) = (line for line in lines if line.startswith("255"))
    assert said == (
        "255 was taken for void, which is 37.5 % of the pixels; if it is a class, say so in classes.json: "
        '"ids": {"0": "background", "255": "crack"}'
    )
    classes = {"classes": ["background", "crack"], "ids": {"0": "background", "255": "crack"}}
    again = own_data(tmp_path, classes, masks)
    assert pack.main([*again, "--overwrite"]) == 0
    assert not any(word in capsys.readouterr().out for word in ("no pixel", "255 was"))
    assert load_manifest(str(tmp_path / "out")).class_pixels["train"] == {"all": (3, 1)}


def test_void_that_a_relabelling_made_is_not_said_to_be_255(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = {"name": "new", "classes": ["x"], "map": {"a": "x", "b": None}}
    (tmp_path / "map.json").write_text(json.dumps(new))
    arguments = own_data(tmp_path, ["a", "b"], {"train": [0, 1, 0, 255]})
    assert pack.main([*arguments, "--relabel", str(tmp_path / "map.json")]) == 0
    assert "255 was" not in capsys.readouterr().out


def test_the_last_line_of_a_packing_is_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main(own_data(tmp_path / "my data", ["a", "b"], {"train": [0, 1, 0, 1], "val": [0, 1, 0, 1]})) == 0
    out = tmp_path / "my data" / "out"
    assert capsys.readouterr().out.splitlines()[-1] == f"next        python -m distseg.train auto --data.uri '{out}'"


def test_one_class_only_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main(own_data(tmp_path, ["a"], {"train": [0, 0, 0, 0], "val": [0, 0, 0, 0]})) == 0
    assert "one class only, a: " in capsys.readouterr().out


def test_data_of_ones_own_go_by_the_name_in_classes_json(tmp_path: Path) -> None:
    arguments = own_data(tmp_path, {"name": "harbour", "classes": ["a", "b"]}, {"train": [0, 1, 0, 1]})
    assert pack.main(arguments) == 0
    assert load_manifest(str(tmp_path / "out")).dataset == "harbour"


def test_an_unknown_id_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r'label ids \[7\] are outside the label space folder; .*"ignore" makes it void'
    ):
        pack.main(own_data(tmp_path, ["a", "b"], {"train": [0, 1, 7, 1]}))
