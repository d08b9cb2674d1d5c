"""`train` as a newcomer runs it: a local Ray, SQLite, a small town; then stopped, and without Ray."""

import json
import math
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from distseg.data.datasets import town
from distseg.orchestration.metrics import DESCRIPTIONS
from distseg.training import checkpoint
from tests import programs
from tests.conftest import free_port
from tests.recorded import STEP_METRICS, Recorded, assert_each_once, only_run
from tests.small_town import EVALUATIONS, NUM_STEPS, arguments, pack_town

pytestmark = [pytest.mark.timeout(1800), pytest.mark.ray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program is started; it keeps all it makes in `runs` there. The data are in `town`."""
    folder = tmp_path_factory.mktemp("local")
    pack_town(folder)
    return folder


@pytest.fixture(scope="module")
def ray(folder: Path) -> Iterator[dict[str, str]]:
    with programs.own_environment() as environment:
        yield environment


@pytest.fixture(scope="module")
def trained(folder: Path, ray: dict[str, str]) -> programs.Ended:
    return programs.run(folder, ray, "distseg.train", *arguments())


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
    assert "viewStateShareKey=distseg-train-v3-" in trained.printed("compare it")


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
        for step in (0, *EVALUATIONS)  # MLflow's page begins at 0
    }


def test_the_best_two_checkpoints_and_the_newest_are_kept(recorded: Recorded, trained: programs.Ended) -> None:
    by_score = sorted(zip(recorded.values("val/mIoU"), EVALUATIONS, strict=True))
    kept = {step for _, step in by_score[-2:]} | {NUM_STEPS}
    assert {found.step for found in checkpoint.found_in(trained.printed("run"))} == kept
    assert f"checkpoint_{by_score[-1][1]:08d}" in trained.printed("checkpoint")


def test_torchrun_trains_the_same_without_ray(folder: Path, losses: list[float]) -> None:
    environment = programs.plain_environment() | {"OMP_NUM_THREADS": "1"}
    torchrun = ("torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}")
    overrides = arguments(**{"tracking.experiment": "torchrun", "evaluate.every_steps": 0})
    ended = programs.run(folder, environment, *torchrun, "-m", "distseg.train", *overrides)
    assert ended.code == 0, ended.err
    recorded = only_run(f"sqlite:///{folder}/runs/mlflow.db", "torchrun")
    assert ended.printed("MLflow run") == recorded.run.info.run_id
    assert recorded.values("train/loss") == losses
    assert_each_once(recorded, NUM_STEPS)


@pytest.fixture(scope="module")
def endless(folder: Path, ray: dict[str, str]) -> Iterator[programs.Program]:
    """A training in folder/interrupted that goes on until it is stopped."""
    with programs.start(folder / "interrupted", ray, "distseg.train", *endless_arguments(folder)) as program:
        yield program


def endless_arguments(folder: Path) -> list[str]:
    tracked = {"tracking.experiment": "interrupted", "checkpoint.every_steps": 3, "evaluate.every_steps": 5}
    return arguments(**tracked, **{"optim.max_steps": 100_000, "data.uri": folder / "town"})


@pytest.mark.long
def test_prometheus_finds_every_metric_of_a_training_at_its_node(folder: Path) -> None:
    """By the list that the dashboard of a cluster keeps; what a program starts for itself has none."""
    names = {f"ray_{name}" for name in DESCRIPTIONS}
    with (
        programs.ray_cluster(dashboard=True) as cluster,
        programs.start(folder / "watched", cluster, "distseg.train", *endless_arguments(folder)) as program,
    ):
        program.wait_for(r"(?m)^step \d+/100000  val/mIoU 0\.\d{4}, worst \S+ 0\.\d{4}$")
        end_s = time.monotonic() + programs.PATIENCE_S
        while not names <= (found := scraped(Path(cluster["RAY_TMPDIR"]))).keys():
            assert time.monotonic() < end_s, f"not there: {names - found.keys()}"
            time.sleep(0.5)
    (run,) = (folder / "watched/runs/checkpoints").iterdir()
    for name in names:
        for sample in found[name]:
            assert (sample.labels["run"], sample.labels["experiment"]) == (run.name, "interrupted"), sample
    scores = found["ray_distseg_condition_miou"]
    assert sorted(sample.labels["condition"] for sample in scores) == sorted(town.CONDITIONS)
    assert found["ray_distseg_miou_worst"][0].labels["condition"] in town.CONDITIONS
    assert all(0 <= sample.value <= 1 for sample in (*scores, *found["ray_distseg_miou"]))
    assert found["ray_distseg_max_steps"][0].value == 100_000
    assert all(found[name][0].value > 0 for name in names - {"ray_distseg_data_wait_ratio"})


@pytest.mark.long
def test_all_that_it_starts_listens_on_loopback_alone(endless: programs.Program) -> None:
    endless.wait_for_step(1)
    family = [psutil.Process(endless.process.pid), *psutil.Process(endless.process.pid).children(recursive=True)]
    listening = {
        (member.name(), socket.laddr.ip)
        for member in family
        for socket in member.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
    assert {name for name, _ in listening} >= {"gcs_server", "raylet"}
    assert any("RayTrainWorker" in name for name, _ in listening), "those have torch's store of addresses"
    elsewhere = {(name, ip) for name, ip in listening if not ip.removeprefix("::ffff:").startswith("127.")}
    assert not elsewhere


def scraped(ray_folder: Path) -> dict[str, list[Sample]]:
    """The samples of each metric, of all that Ray lists for Prometheus."""
    found: dict[str, list[Sample]] = {}
    (group,) = json.loads((ray_folder / "prom_metrics_service_discovery.json").read_text())
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
