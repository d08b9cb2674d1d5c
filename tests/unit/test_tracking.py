"""Metrics reach MLflow once each, whatever the server does; tried on SQLite and on a port nobody answers."""

import io
import socket
import time
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from distseg import runs, tracking
from distseg.config import RunConfig, with_overrides
from distseg.errors import ConfigError, TrackingError
from distseg.tracking import picture_log


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def dead_server() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def history(store: str, run_id: str, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(tracking_uri=store)
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))


def test_a_run_is_created_once_and_found_again_by_its_name(store: str) -> None:
    first = tracking.open_run(store, "exp", "run-a", RunConfig(), {"data.digest": "d"})
    again = tracking.open_run(store, "exp", "run-a", RunConfig(), {})
    other = tracking.open_run(store, "exp", "run-b", RunConfig(), {})
    assert first == again != other
    run = mlflow.MlflowClient(tracking_uri=store).get_run(first)
    assert run.data.tags["stage"] == "train" and run.data.tags["data.digest"] == "d"
    assert run.data.params["model.backbone"] == "resnet50" and set(run.data.params) == set(tracking.PARAMS)
    artifacts = mlflow.MlflowClient(tracking_uri=store).list_artifacts(first, "config")
    assert [a.path for a in artifacts] == ["config/resolved.json"]


def test_the_tables_and_tags_of_a_finished_run(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-finish", RunConfig(), {})
    files = {"tables/conditions.json": b'{"mIoU": 0.5}'}
    tracking.finish_run(store, run_id, "FINISHED", files, {"worst_condition": "night"})
    run = mlflow.MlflowClient(tracking_uri=store).get_run(run_id)
    assert (run.info.status, run.data.tags["worst_condition"]) == ("FINISHED", "night")
    assert mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/tables/conditions.json") == {"mIoU": 0.5}


def test_metrics_arrive_in_order_and_nothing_is_left_when_the_log_closes(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-log", RunConfig(), {})
    log = tracking.MetricLog(store, lambda: run_id, earlier=[])
    for step in range(1, 121):
        log.log(step, {"train/loss": 1 / step, "train/lr": 0.1})
    assert log.close() == []
    assert history(store, run_id, "train/loss") == [(step, round(1 / step, 6)) for step in range(1, 121)]


def test_steps_done_again_after_a_crash_are_logged_once(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-again", RunConfig(), {})
    before = tracking.MetricLog(store, lambda: run_id, earlier=[])
    for step in (1, 2, 3):
        before.log(step, {"train/loss": float(step)})
    before.close()
    unsure = [{"step": step, "time_ms": 1, "metrics": {"train/loss": float(step)}} for step in (3, 4)]
    after = tracking.MetricLog(store, lambda: run_id, earlier=unsure)
    for step in (3, 4, 5):
        after.log(step, {"train/loss": float(step)})
    after.close()
    assert history(store, run_id, "train/loss") == [(step, float(step)) for step in (1, 2, 3, 4, 5)]


def test_a_dead_server_blocks_nobody_and_its_records_stay_pending(dead_server: str) -> None:
    def open_run() -> str:
        return tracking.open_run(dead_server, "exp", "run-x", RunConfig(), {})

    log = tracking.MetricLog(dead_server, open_run, earlier=[])
    start_s = time.monotonic()
    for step in range(1000):
        log.log(step, {"train/loss": 0.0})
    logging_s = time.monotonic() - start_s
    assert [r["step"] for r in log.close(timeout_s=0.5)] == list(range(1000))
    assert logging_s < 5, "a call that waited for the server would take a second each"


def image_names(store: str, run_id: str) -> list[str]:
    found = mlflow.MlflowClient(tracking_uri=store).list_artifacts(run_id, "images")
    return sorted(a.path.partition("+timestamp")[0] for a in found if a.path.endswith(".png"))


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, format="JPEG")
    return buffer.getvalue()


def test_pictures_arrive_once_each_also_when_an_evaluation_is_done_again(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-pictures", RunConfig(), {})
    pictures = {"overlay/night": jpeg("red"), "overlay/night 2": jpeg("blue")}
    for _ in range(2):  # as before and after a crash
        log = tracking.PictureLog(store, lambda: run_id)
        log.log(20, pictures)
        log.log(20, pictures)
        log.log(30, {})
        assert log.close(timeout_s=60) is None
    assert image_names(store, run_id) == [f"images/overlay~night{n}+step+20" for n in (" 2", "")]
    log = tracking.PictureLog(store, lambda: run_id)
    log.log(30, pictures)
    assert log.close(timeout_s=60) is None
    assert len(image_names(store, run_id)) == 4


def test_of_pictures_that_cannot_be_sent_the_newest_are_kept(dead_server: str) -> None:
    log = tracking.PictureLog(dead_server, lambda: "ab12")
    for step in range(100):
        log.log(step, {"overlay/night": jpeg("red")})
    assert log.close(timeout_s=0) == 99
    assert len(log._waiting) <= picture_log.MAX_WAITING


def test_a_dead_server_is_named_in_one_line(dead_server: str) -> None:
    with pytest.raises(TrackingError, match=f"MLflow at {dead_server}: ") as caught:
        tracking.open_run(dead_server, "exp", "run-x", RunConfig(), {})
    assert "\n" not in str(caught.value)


def test_the_journal_keeps_what_was_never_sent(tmp_path: Path) -> None:
    first = [{"step": 1, "time_ms": 5, "metrics": {"train/loss": 0.5}}]
    second = [{"step": 2, "time_ms": 6, "metrics": {"train/loss": 0.25}}]
    assert tracking.read_journal(str(tmp_path)) == []
    assert tracking.write_journal(str(tmp_path), first).endswith("journal/000001.jsonl")
    tracking.write_journal(str(tmp_path), second)
    assert tracking.read_journal(str(tmp_path)) == first + second


def test_a_password_in_the_tracking_uri_is_refused_and_not_repeated() -> None:
    config = with_overrides(RunConfig(), {"tracking.uri": "https://me:hunter2@mlflow.example/"})
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        runs.tracking_of(config)
    assert "hunter2" not in str(caught.value)


def test_sqlite_in_runs_is_the_default_and_the_environment_comes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.resolve_uri("") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.resolve_uri("") == "http://server:5000"
    assert tracking.resolve_uri("http://other:5000") == "http://other:5000"
