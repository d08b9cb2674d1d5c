"""`train` as a newcomer runs it: a local Ray, SQLite, a small town; then resumed, evaluated, and without Ray."""

import json
import math
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from distseg import checkpoint
from distseg.data import town
from distseg.ray_metrics import DESCRIPTIONS
from tests import programs
from tests.conftest import free_port
from tests.recorded import STEP_METRICS, Recorded, assert_each_once, only_run

pytestmark = [pytest.mark.timeout(900), pytest.mark.ray]

NUM_STEPS, EVALUATED_EVERY, MORE_STEPS = 6, 2, 8
SIZE = ("--size", "64", "96")
FIELDS = {
    "name": "local",
    "optim.warmup_steps": 0,
    "data.batch_size": 4,
    "data.crop_px": "32 32",
    "data.num_threads": 1,
    "scaling.num_workers": 2,
    "evaluate.every_steps": EVALUATED_EVERY,
    "tracking.log_every_steps": 1,
    "precision": "fp32",
}
EVALUATIONS = [2, 4, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program is started; it keeps all it makes in `runs` there. The data are in `town`."""
    folder = tmp_path_factory.mktemp("local")
    frames = ("--train", "36", "--val", "18", "--num_processes", "1")
    packed = programs.run(folder, programs.plain_environment(), "distseg.pack", "town", "--out", "town", *SIZE, *frames)
    assert packed.code == 0, packed.err
    return folder


def arguments(**changed: object) -> list[str]:
    fields = FIELDS | {"data.uri": "town", "optim.max_steps": NUM_STEPS} | changed
    return [word for name, value in fields.items() for word in (f"--{name}", *str(value).split())]


@pytest.fixture(scope="module")
def ray(folder: Path) -> Iterator[dict[str, str]]:
    with programs.own_environment() as environment:
        yield environment


@pytest.fixture(scope="module")
def trained(folder: Path, ray: dict[str, str]) -> programs.Ended:
    return programs.run(folder, ray, "distseg.train", "town", *arguments())


@pytest.fixture(scope="module")
def recorded(folder: Path, trained: programs.Ended) -> Recorded:
    return only_run(f"sqlite:///{folder}/runs/mlflow.db", "distseg")


@pytest.fixture(scope="module")
def losses(recorded: Recorded) -> list[float]:
    return recorded.values("train/loss")


def test_it_ends_with_the_table_of_conditions_and_where_everything_is(trained: programs.Ended, folder: Path) -> None:
    assert trained.code == 0, trained.err
    for condition in town.CONDITIONS:
        assert re.search(rf"{condition} +│ +2 │ [01]\.\d{{4}}", trained.out), trained.out
    assert re.search(
        r"^val/mIoU 0\.\d{4} +mean over conditions 0\.\d{4} +worst \S+ 0\.\d{4} +gap 0\.\d{4}$", trained.out, re.M
    )
    assert trained.printed("run").startswith(f"{folder}/runs/checkpoints/local-")
    assert re.search(r"^open it +mlflow ui --backend-store-uri sqlite:////", trained.out, re.M)


def test_mlflow_has_one_finished_run_with_every_metric_once(recorded: Recorded, trained: programs.Ended) -> None:
    assert recorded.run.info.run_id == trained.printed("MLflow run")
    assert recorded.run.info.status == "FINISHED"
    for name in STEP_METRICS:
        assert recorded.steps(name) == list(range(1, NUM_STEPS + 1)), name
    named = ["val/mIoU", "val/mIoU_mean_conditions", "val/mIoU_worst", "val/mIoU_gap", "val/PA", "val/MPA"]
    for name in named + [f"val/mIoU/{condition}" for condition in town.CONDITIONS]:
        assert recorded.steps(name) == EVALUATIONS, name
    scored = {name for name in recorded.run.data.metrics if name.startswith("val/IoU/")}
    assert scored <= {f"val/IoU/{name}" for name in town.LABELS.classes} and len(scored) >= 10
    assert all(math.isfinite(value) for value in recorded.run.data.metrics.values())


def test_mlflow_has_what_tells_runs_apart(recorded: Recorded) -> None:
    params, tags = recorded.run.data.params, recorded.run.data.tags
    assert params["model.backbone"] == "resnet18" and params["optim.max_steps"] == str(NUM_STEPS)
    assert 8 <= len(params) <= 15
    assert tags["stage"] == "train" and len(tags["data.digest"]) == 64
    assert tags["git.commit"] and tags["ray.job_id"]
    assert tags["worst_condition"] in town.CONDITIONS


def test_mlflow_has_the_configuration_and_the_table(recorded: Recorded, trained: programs.Ended) -> None:
    config, table = recorded.table("config/resolved.json"), recorded.table("tables/conditions.json")
    assert config["data"]["crop_px"] == [32, 32] and config["scaling"]["num_workers"] == 2
    assert table["conditions"].keys() == set(town.CONDITIONS)
    assert {entry["num_images"] for entry in table["conditions"].values()} == {2}
    best = max(recorded.values("val/mIoU"))
    assert table["mIoU"] == pytest.approx(best, abs=1e-6)
    assert f"val/mIoU {best:.4f} " in trained.out


def test_mlflow_has_the_model_the_inputs_and_the_environment_of_the_workers(
    recorded: Recorded, trained: programs.Ended
) -> None:
    run = recorded.run
    assert run.outputs is not None and run.inputs is not None
    assert [f"models:/{output.model_id}" for output in run.outputs.model_outputs] == [trained.printed("model")]
    assert {used.dataset.name for used in run.inputs.dataset_inputs} == {"town train", "town val"}
    assert recorded.artifacts("config") == {"config/resolved.json", "config/environment.json"}
    assert recorded.table("config/environment.json")["ray_job_id"] == run.data.tags["ray.job_id"]
    assert "viewStateShareKey=distseg-train-v1-" in trained.printed("compare it")


def test_mlflow_has_the_review(recorded: Recorded, trained: programs.Ended) -> None:
    assert recorded.artifacts("plots") == {
        f"plots/{name}.png" for name in ("condition_by_class", "condition_miou", "confusion_matrix", "curves")
    }
    assert recorded.artifacts("report") == {"report/index.html", "report/model_card.md"}
    description = recorded.run.data.tags["mlflow.note.content"]
    assert f"path=plots/condition_miou.png&run_uuid={recorded.run.info.run_id}" in description
    assert all(name in description for name in town.CONDITIONS)
    page = Path(trained.printed("run"), "report", "index.html").read_text()
    assert all(name in page for name in town.CONDITIONS)
    assert page.count("data:image/jpeg") == 2 * len(town.CONDITIONS)  # both images of each


def test_mlflow_has_the_same_two_images_of_each_condition_at_every_evaluation(recorded: Recorded) -> None:
    stored = {path.partition("+timestamp")[0] for path in recorded.artifacts("images") if path.endswith(".png")}
    assert stored == {
        f"images/overlay~{name}{number}+step+{step}"
        for name in town.CONDITIONS
        for number in ("", " 2")
        for step in EVALUATIONS
    }


def test_runs_are_compared_on_one_page(trained: programs.Ended, folder: Path) -> None:
    run = trained.printed("run")
    command = ("compare", run, trained.printed("checkpoint"), "--out", "compared.html")
    ended = programs.run(folder, programs.plain_environment(), "distseg.report", *command)
    assert ended.code == 0, ended.err
    page = (folder / "compared.html").read_text()
    assert Path(run).name in page and all(name in page for name in town.CONDITIONS)


def test_the_best_two_checkpoints_and_the_newest_are_kept(recorded: Recorded, trained: programs.Ended) -> None:
    by_score = sorted(zip(recorded.values("val/mIoU"), EVALUATIONS, strict=True))
    kept = {step for _, step in by_score[-2:]} | {NUM_STEPS}
    assert {found.step for found in checkpoint.found_in(trained.printed("run"))} == kept
    assert f"checkpoint_{by_score[-1][1]:08d}" in trained.printed("checkpoint")


def test_evaluate_gives_exactly_what_training_found(trained: programs.Ended, folder: Path) -> None:
    uri = trained.printed("checkpoint")
    options = ("--checkpoint", uri, "--data", str(folder / "town"), "--json", "table.json", "--precision", "fp32")
    ended = programs.run(folder / "evaluate", programs.plain_environment(), "distseg.evaluate", *options)
    assert ended.code == 0, ended.err
    table = json.loads((folder / "evaluate" / "table.json").read_text())
    saved = checkpoint.read(uri)
    assert table["mIoU"] == saved.metrics["val/mIoU"]
    same = {name: value for name, value in table.items() if name not in ("checkpoint", "data", "data_digest")}
    assert same == {name: value for name, value in saved.tables.items() if name != "step"}
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


def test_predict_writes_labels_in_the_palette_and_overlays(trained: programs.Ended, folder: Path) -> None:
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
    assert written == ["label/a.png", "label/more/b.png", "overlay/a.png", "overlay/more/b.png"]
    with Image.open(folder / "predicted/label/a.png") as label:
        assert (label.mode, label.size) == ("P", (70, 50))
        ids = np.asarray(label)
        assert ids.max() < town.LABELS.num_classes
        palette = np.array(town.LABELS.palette, dtype=np.uint8)
        assert np.array_equal(np.asarray(label.convert("RGB")), palette[ids])
    with Image.open(folder / "predicted/overlay/more/b.png") as tinted:
        assert tinted.size == (70, 40)

    (photographs / "a.jpg").write_bytes(b"no image")
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
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": np.zeros((1, 3, 77, 101), dtype=np.float32)})
    assert logits.shape == (1, town.LABELS.num_classes, 77, 101)


def test_models_compares_the_networks(folder: Path) -> None:
    options = ("--no_timing", "--num_classes", "21", "--size", "64", "96", "--json", "networks.json")
    ended = programs.run(folder, programs.plain_environment(), "distseg.models", *options)
    assert ended.code == 0, ended.err
    rows = {row["name"]: row for row in json.loads((folder / "networks.json").read_text())["networks"]}
    assert rows["enet"]["parameters"] == 360_023
    assert rows["pspnet resnet50"]["parameters"] == 48_957_802
    assert all(row["gflops"] > 0 and row["ms"] is None for row in rows.values())


@pytest.mark.long
def test_torchrun_trains_the_same_without_ray(folder: Path, losses: list[float]) -> None:
    environment = programs.plain_environment() | {"OMP_NUM_THREADS": "1"}
    torchrun = ("torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}")
    overrides = arguments(**{"tracking.experiment": "torchrun", "evaluate.every_steps": 0})
    ended = programs.run(folder, environment, *torchrun, "-m", "distseg.train", "town", *overrides)
    assert ended.code == 0, ended.err
    recorded = only_run(f"sqlite:///{folder}/runs/mlflow.db", "torchrun")
    assert ended.printed("MLflow run") == recorded.run.info.run_id
    assert recorded.values("train/loss") == losses
    assert_each_once(recorded, NUM_STEPS)


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(
    folder: Path, ray: dict[str, str], trained: programs.Ended, losses: list[float]
) -> None:
    more = ("--resume", trained.printed("run"), "--optim.max_steps", str(MORE_STEPS))
    ended = programs.run(folder, ray, "distseg.train", *more)
    assert ended.code == 0, ended.err
    recorded = only_run(f"sqlite:///{folder}/runs/mlflow.db", "distseg")
    assert ended.printed("MLflow run") == recorded.run.info.run_id == trained.printed("MLflow run")
    assert ended.printed("run") == trained.printed("run")
    assert recorded.steps("train/loss") == list(range(1, MORE_STEPS + 1))
    assert recorded.values("train/loss")[:NUM_STEPS] == losses
    assert recorded.values("train/resumed_at") == [NUM_STEPS]
    assert recorded.run.info.status == "FINISHED"


@pytest.fixture(scope="module")
def endless(folder: Path, ray: dict[str, str]) -> Iterator[programs.Program]:
    """A training in folder/interrupted that goes on until it is stopped."""
    tracked = {"tracking.experiment": "interrupted", "checkpoint.every_steps": 3, "evaluate.every_steps": 5}
    fields = arguments(**tracked, **{"optim.max_steps": 100_000, "data.uri": folder / "town"})
    impatient = ray | {"RAY_metrics_report_interval_ms": "1000"}  # Ray's own is 10 s
    with programs.start(folder / "interrupted", impatient, "distseg.train", "town", *fields) as program:
        yield program


@pytest.mark.long
def test_prometheus_finds_every_metric_of_a_training_at_its_node(
    endless: programs.Program, ray: dict[str, str]
) -> None:
    endless.wait_for(r"(?m)^step \d+/100000  val/mIoU 0\.\d{4}, worst \S+ 0\.\d{4}$")
    names = {f"ray_{name}" for name in DESCRIPTIONS}
    end_s = time.monotonic() + programs.PATIENCE_S
    while not names <= (found := scraped(Path(ray["RAY_TMPDIR"]))).keys():
        assert time.monotonic() < end_s, f"not there: {names - found.keys()}"
        time.sleep(0.5)
    (run,) = (Path(endless.folder) / "runs/checkpoints").iterdir()
    for name in names:
        for sample in found[name]:
            assert (sample.labels["run"], sample.labels["experiment"]) == (run.name, "interrupted"), sample
    scores = found["ray_distseg_condition_miou"]
    assert sorted(sample.labels["condition"] for sample in scores) == sorted(town.CONDITIONS)
    assert found["ray_distseg_miou_worst"][0].labels["condition"] in town.CONDITIONS
    assert all(0 <= sample.value <= 1 for sample in (*scores, *found["ray_distseg_miou"]))
    assert found["ray_distseg_max_steps"][0].value == 100_000
    assert all(found[name][0].value > 0 for name in names - {"ray_distseg_data_wait_ratio"})


def scraped(ray_folder: Path) -> dict[str, list[Sample]]:
    """The samples of each metric, of all that Ray lists for Prometheus."""
    found: dict[str, list[Sample]] = {}
    (path,) = ray_folder.glob("*/prom_metrics_service_discovery.json")
    (group,) = json.loads(path.read_text())
    for address in group["targets"]:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                found.setdefault(family.name, []).extend(family.samples)
    return found


@pytest.mark.long
def test_ctrl_c_leaves_a_run_that_goes_on(folder: Path, ray: dict[str, str], endless: programs.Program) -> None:
    endless.wait_for_step(10)
    programs.interrupt(endless)
    ended = endless.wait()
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err and "error:" not in ended.err
    store = f"sqlite:///{folder}/interrupted/runs/mlflow.db"
    assert only_run(store, "interrupted").run.info.status == "KILLED"

    (run_folder,) = (folder / "interrupted/runs/checkpoints").iterdir()
    found = checkpoint.newest(str(run_folder))
    assert found is not None
    end = found[1].step + 2
    more = ("--resume", str(run_folder), "--optim.max_steps", str(end), "--tracking.uri", store)
    ended = programs.run(folder / "again", programs.alone(), "distseg.train", *more)
    assert ended.code == 0, ended.err
    recorded = only_run(store, "interrupted")
    assert recorded.steps("train/loss") == list(range(1, end + 1)), "nothing is left of steps it no longer comes to"
    assert recorded.values("train/resumed_at") == [found[1].step]
    assert recorded.run.info.status == "FINISHED"
