"""What users do with a trained network, by the programs: compare, evaluate, predict, export, go on. No Ray."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from distseg.data.datasets import town
from distseg.training import checkpoint
from tests import programs
from tests.conftest import REPOSITORY, free_port
from tests.recorded import only_run
from tests.small_town import NUM_STEPS, arguments, pack_town

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are started. The data are in `town`."""
    folder = tmp_path_factory.mktemp("programs")
    pack_town(folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> programs.Ended:
    ended = programs.run(folder, programs.alone(), "distseg.train", *arguments())
    assert ended.code == 0, ended.err
    return ended


def test_runs_are_compared_on_one_page(trained: programs.Ended, folder: Path) -> None:
    run = trained.printed("run")
    command = ("compare", run, trained.printed("checkpoint"), "--out", "compared.html", "--csv", "iou.csv")
    ended = programs.run(folder, programs.plain_environment(), "distseg.report", *command)
    assert ended.code == 0, ended.err
    page = (folder / "compared.html").read_text()
    assert Path(run).name in page and all(name in page for name in town.CONDITIONS)
    assert ">town</td>" in page  # the data set, which a checkpoint alone does not name
    assert len((folder / "iou.csv").read_text().splitlines()) == 1 + 2 * (1 + len(town.CONDITIONS)) * 13


def test_evaluate_gives_exactly_what_training_found(trained: programs.Ended, folder: Path) -> None:
    uri = trained.printed("checkpoint")
    options = ("--checkpoint", uri, "--data", str(folder / "town"), "--json", "table.json", "--precision", "fp32")
    ended = programs.run(folder / "evaluate", programs.plain_environment(), "distseg.evaluate", *options)
    assert ended.code == 0, ended.err
    table = json.loads((folder / "evaluate" / "table.json").read_text())
    saved = checkpoint.read(uri)
    assert table["mIoU"] == saved.metrics["val/mIoU"]
    same = {name: value for name, value in table.items() if name not in ("checkpoint", "data", "data_digest")}
    assert same == {name: value for name, value in saved.tables.items() if name not in ("step", "trained_on")}
    assert (table["checkpoint"], table["data_digest"]) == (uri, saved.manifest_digest)
    assert {name: site["num_images"] for name, site in table["sites"].items()} == {"highway": 9, "new-york": 9}
    for name, support in table["support"].items():
        assert sum(site["support"][name] for site in table["sites"].values()) == support

    one_file = ("--checkpoint", uri, "--format", "weights", "--out", "network.pt")
    ended = programs.run(folder / "evaluate", programs.plain_environment(), "distseg.export", *one_file)
    assert ended.code == 0, ended.err
    options = ("--checkpoint", "network.pt", *options[2:])
    ended = programs.run(folder / "evaluate", programs.plain_environment(), "distseg.evaluate", *options)
    assert ended.code == 0, ended.err
    again = json.loads((folder / "evaluate" / "table.json").read_text())
    assert again == table | {"checkpoint": "network.pt"}


@pytest.mark.long
def test_sliding_windows_scales_and_flips_are_the_same_on_one_and_two_ranks(
    trained: programs.Ended, folder: Path
) -> None:
    uri = trained.printed("checkpoint")
    averaged = ("--scales", "0.75", "1", "1.5", "--flip", "--sliding", "--window", "48", "64")
    options = ("--checkpoint", uri, "--data", str(folder / "town"), "--precision", "fp32", *averaged)
    environment = programs.plain_environment() | {"OMP_NUM_THREADS": "1"}
    torchrun = ("torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", "-m")
    tables = []
    for num_ranks, start in ((1, ()), (2, torchrun)):
        place = folder / f"ranks-{num_ranks}"
        words = (*start, "distseg.evaluate", *options, "--json", "table.json")
        ended = programs.run(place, environment, *words)
        assert ended.code == 0, ended.err
        tables.append(json.loads((place / "table.json").read_text()))
    assert tables[0] == tables[1]
    assert tables[0]["num_images"] == 18
    assert tables[0]["mIoU"] != checkpoint.read(uri).metrics["val/mIoU"]


def test_predict_writes_label_maps_overlays_and_a_page(trained: programs.Ended, folder: Path) -> None:
    photographs = folder / "photographs"
    (photographs / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photographs / "a.png")
    Image.fromarray(noise[:40, :, 0]).save(photographs / "more" / "b.jpg")  # grey
    (photographs / "notes.txt").write_text("not an image")
    options = ("--checkpoint", trained.printed("run"), "--images", "photographs", "--out", "predicted")
    ended = programs.run(folder, programs.plain_environment(), "distseg.predict", *options)
    assert ended.code == 0, ended.err
    written = sorted(str(path.relative_to(folder / "predicted")) for path in (folder / "predicted").rglob("*.png"))
    assert written == [f"{kind}/{name}.png" for kind in ("confidence", "label", "overlay") for name in ("a", "more/b")]
    with Image.open(folder / "predicted/label/a.png") as label:
        assert (label.mode, label.size) == ("P", (70, 50))
        ids = np.asarray(label)
        assert ids.max() < town.LABELS.num_classes
        palette = np.array(town.LABELS.palette, dtype=np.uint8)
        assert np.array_equal(np.asarray(label.convert("RGB")), palette[ids])
    with Image.open(folder / "predicted/overlay/more/b.png") as tinted:
        assert tinted.size == (70, 40)
    rows = list(csv.DictReader((folder / "predicted/images.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["a.png", "more/b.jpg"]
    assert float(rows[0]["sky"]) == pytest.approx((ids == town.LABELS.classes.index("sky")).mean(), abs=1e-6)
    page = (folder / "predicted/index.html").read_text()
    assert (
        'id="viewer"' in page and page.count('data-layer="predicted" src=') == 2 and "2 images in photographs" in page
    )

    again = programs.run(folder, programs.plain_environment(), "distseg.predict", *options, "--show", "0")
    assert again.code == 0 and "2 images segmented by" in again.out and ", 2 of them before" in again.out, again.err
    (photographs / "a.jpg").write_bytes(b"no image")
    options = ("--checkpoint", trained.printed("run") + "/", "--images", "photographs/", "--out", "predicted")
    clash = programs.run(folder, programs.plain_environment(), "distseg.predict", *options)
    assert clash.code == 1 and "a.jpg and a.png would be written to the same file" in clash.err
    (photographs / "a.png").unlink()
    broken = programs.run(folder, programs.plain_environment(), "distseg.predict", *options)
    assert broken.code == 1 and "photographs/a.jpg: not a readable image" in broken.err


@pytest.mark.long
def test_export_writes_a_checked_file(trained: programs.Ended, folder: Path) -> None:
    options = ("--checkpoint", trained.printed("run"), "--format", "onnx", "--out", "network.onnx")
    ended = programs.run(folder, programs.plain_environment(), "distseg.export", *options)
    assert ended.code == 0, ended.err
    assert re.search(r"differs by at most \S+ on random images of 3 sizes", ended.out)
    assert ended.err == ""  # nothing of the hundreds of lines that the exporter writes
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": np.zeros((1, 3, 77, 101), dtype=np.float32)})
    assert logits.shape == (1, town.LABELS.num_classes, 77, 101)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(town.LABELS.classes)

    page = (REPOSITORY / "docs" / "review.md").read_text()
    (code,) = re.findall(r"```python\n(import json\n.*?onnxruntime.*?)```", page, re.DOTALL)
    noise = np.random.default_rng(0).integers(0, 256, (90, 75, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    shutil.copy(folder / "network.onnx", folder / "net.onnx")
    code += "\nimport sys; print([name for name in sys.modules if name.split('.')[0] in ('distseg', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
    with Image.open(folder / "labels.png") as labels:
        assert (labels.mode, labels.size) == ("P", (75, 90))
        assert (labels.getpalette() or [])[:3] == list(town.LABELS.palette[0])


def test_models_compares_the_networks(folder: Path) -> None:
    options = ("--num_classes", "21", "--size", "64", "96", "--json", "networks.json")
    ended = programs.run(folder, programs.plain_environment(), "distseg.models", *options)
    assert ended.code == 0, ended.err
    rows = {row["name"]: row for row in json.loads((folder / "networks.json").read_text())["networks"]}
    assert rows["enet"]["parameters"] == 360_023
    assert rows["pspnet resnet50"]["parameters"] == 48_957_802
    assert all(row["gflops"] > 0 and row["ms"] is None for row in rows.values())


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(trained: programs.Ended, folder: Path) -> None:
    store, end = f"sqlite:///{folder}/runs/mlflow.db", NUM_STEPS + 2
    losses = only_run(store, "distseg").values("train/loss")
    more = ("--resume", trained.printed("run"), "--optim.max_steps", str(end))
    ended = programs.run(folder, programs.alone(), "distseg.train", *more)
    assert ended.code == 0, ended.err
    recorded = only_run(store, "distseg")
    assert ended.printed("MLflow run") == recorded.run.info.run_id == trained.printed("MLflow run")
    assert ended.printed("run") == trained.printed("run")
    assert recorded.steps("train/loss") == list(range(1, end + 1))
    assert recorded.values("train/loss")[:NUM_STEPS] == losses
    assert recorded.values("train/resumed_at") == [NUM_STEPS]
    assert recorded.run.info.status == "FINISHED"
