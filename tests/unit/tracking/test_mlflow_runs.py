"""Metrics reach MLflow once each, whatever the server does; tried on SQLite and on a port nobody answers."""

import contextlib
import io
import os
import shutil
import socket
import sqlite3
import threading
import time
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from distseg import tracking
from distseg.config import RunConfig, with_overrides
from distseg.errors import ConfigError, TrackingError
from distseg.runs import run
from distseg.tracking import client, environment, mlflow_formats, picture_log


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def dead_server() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def history(store: str, run_id: str, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(tracking_uri=store)
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))


def record(step: int, metrics: dict[str, float]) -> tracking.MetricRecord:
    return {"step": step, "time_ms": 1000 + step, "metrics": metrics}


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


@pytest.mark.parametrize("is_id_known", [True, False])
def test_a_run_is_closed_early_by_its_id_or_its_name(store: str, is_id_known: bool) -> None:
    name = f"run-early-{is_id_known}"
    run_id = tracking.open_run(store, "exp", name, RunConfig(), {})
    tracking.close_early(store, "exp", "no-such-run", "FAILED")
    tracking.close_early(store, "exp", name, "FAILED", run_id=run_id if is_id_known else "")
    assert mlflow.MlflowClient(tracking_uri=store).get_run(run_id).info.status == "FAILED"


def test_a_run_is_sent_once_that_is_noted_of_its_end(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-sent", RunConfig(), {}, started_ms=5_000)
    tracking.finish_run(store, run_id, "KILLED", {}, {}, ended_ms=9_000)
    assert not tracking.is_sent(store, run_id, 9_000)
    tracking.mark_sent(store, run_id, 9_000)
    assert tracking.is_sent(store, run_id, 9_000)
    info = mlflow.MlflowClient(tracking_uri=store).get_run(run_id).info
    assert (info.start_time, info.end_time, info.status) == (5_000, 9_000, "KILLED")
    tracking.open_run(store, "exp", "run-sent", RunConfig(), {})
    assert not tracking.is_sent(store, run_id, 9_000), "it has been resumed"


def test_params_and_configuration_are_logged_by_whoever_finds_the_run_without(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-first", RunConfig(), {})
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment_id = client.get_run(run_id).info.experiment_id
    bare = client.create_run(experiment_id, tags={"distseg.run": "run-bare"}).info.run_id
    assert tracking.open_run(store, "exp", "run-bare", RunConfig(), {}) == bare
    assert set(client.get_run(bare).data.params) == set(tracking.PARAMS)
    assert [a.path for a in client.list_artifacts(bare, "config")] == ["config/resolved.json"]


def test_a_run_that_a_hanging_server_created_twice_is_there_once_in_the_end(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-twice", RunConfig(), {})
    tracking.send_records(store, run_id, [record(1, {"train/loss": 1.0})])
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment_id = client.get_run(run_id).info.experiment_id
    for _ in range(3):  # whatever the order of their ids
        client.create_run(experiment_id, tags={"distseg.run": "run-twice"})
    assert tracking.open_run(store, "exp", "run-twice", RunConfig(), {}) == run_id
    tracking.finish_run(store, run_id, "FINISHED", {}, {})
    runs = client.search_runs([experiment_id], "tags.`distseg.run` = 'run-twice'")
    assert [run.info.run_id for run in runs] == [run_id]


def test_records_are_sent_once_with_the_times_they_were_made_at(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-send", RunConfig(), {})
    records = [record(step, {"train/loss": 0.5, "train/lr": 0.1}) for step in (1, 2, 3)]
    assert tracking.send_records(store, run_id, records[:2]) == 4
    assert tracking.send_records(store, run_id, records) == 2
    assert tracking.send_records(store, run_id, records) == 0
    points = tracking.read_history(store, run_id, ["train/loss"])["train/loss"]
    assert points == [(1, 0.5, 1.001), (2, 0.5, 1.002), (3, 0.5, 1.003)]


def test_a_class_may_have_a_name_that_mlflow_refuses(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-names", RunConfig(), {})
    records = [record(1, {"val/IoU/tree (palm)": 0.5, "val/IoU/a&b": 0.25, "val/IoU/road/": 0.125, "val/mIoU": 0.75})]
    assert tracking.send_records(store, run_id, records) == 4
    assert tracking.send_records(store, run_id, records) == 0
    for name, value in (("tree _palm_", 0.5), ("a_b", 0.25), ("road", 0.125)):
        assert history(store, run_id, f"val/IoU/{name}") == [(1, value)]
    assert history(store, run_id, "val/mIoU") == [(1, 0.75)]


def test_metrics_arrive_in_order_and_nothing_is_left_when_the_log_closes(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-log", RunConfig(), {})
    log = tracking.MetricLog(store, lambda _: run_id, earlier=[])
    for step in range(1, 121):
        log.add(record(step, {"train/loss": 1 / step, "train/lr": 0.1}))
    assert log.close() == []
    assert history(store, run_id, "train/loss") == [(step, float(f"{1 / step:.6g}")) for step in range(1, 121)]


def test_steps_done_again_after_a_crash_are_logged_once(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-again", RunConfig(), {})
    before = tracking.MetricLog(store, lambda _: run_id, earlier=[])
    for step in (1, 2, 3):
        before.add(record(step, {"train/loss": float(step)}))
    before.close()
    unsure = [record(step, {"train/loss": float(step)}) for step in (3, 4)]
    after = tracking.MetricLog(store, lambda _: run_id, earlier=unsure)
    for step in (3, 4, 5):
        after.add(record(step, {"train/loss": float(step)}))
    after.close()
    assert history(store, run_id, "train/loss") == [(step, float(step)) for step in (1, 2, 3, 4, 5)]


def test_a_dead_server_blocks_nobody_and_its_records_stay_pending(dead_server: str) -> None:
    def open_run(_: bool) -> str:
        return tracking.open_run(dead_server, "exp", "run-x", RunConfig(), {})

    log = tracking.MetricLog(dead_server, open_run, earlier=[])
    start_s = time.monotonic()
    for step in range(1000):
        log.add(record(step, {"train/loss": 0.0}))
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
    both = [f"images/overlay~night{n}+step+{step}" for n in (" 2", "") for step in (0, 20)]
    assert image_names(store, run_id) == both
    log = tracking.PictureLog(store, lambda: run_id)
    log.log(30, pictures)
    assert log.close(timeout_s=60) is None
    assert len(image_names(store, run_id)) == 6


def test_pictures_that_a_run_has_not_are_sent(store: str) -> None:
    run_id = tracking.open_run(store, "exp", "run-later", RunConfig(), {})
    pictures = {"overlay/fog": jpeg("red"), "overlay/night": jpeg("blue")}
    assert tracking.send_pictures(store, run_id, 20, {"overlay/fog": jpeg("red")}) == 1
    assert [tracking.send_pictures(store, run_id, 20, pictures) for _ in range(2)] == [1, 0]
    assert image_names(store, run_id) == [
        f"images/overlay~{name}+step+{step}" for name in ("fog", "night") for step in (0, 20)
    ]


def test_of_pictures_that_cannot_be_sent_the_newest_are_kept(dead_server: str) -> None:
    log = tracking.PictureLog(dead_server, lambda: "ab12")
    for step in range(100):
        log.log(step, {"overlay/night": jpeg("red")})
    assert log.close(timeout_s=0) == 99
    assert len(log._queue.waiting()) <= picture_log.MAX_WAITING


def test_who_waits_for_a_call_waits_no_longer_than_said() -> None:
    is_over = threading.Event()
    with pytest.raises(TrackingError, match="MLflow at http://host:1: not done within 0 s"):
        tracking.call_with_timeout(0.05, "http://host:1", lambda: is_over.wait(60))
    is_over.set()


def test_a_call_is_tried_again_after_a_tracking_error_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    errors: list[Exception] = [TrackingError("a"), TrackingError("b")]

    def call() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    assert tracking.call_with_timeout(60, "http://host:1", call, attempts=3) == "done"
    errors += [TrackingError("c"), TrackingError("d")]
    with pytest.raises(TrackingError, match="d"):
        tracking.call_with_timeout(60, "http://host:1", call, attempts=2)
    errors += [ValueError("e"), TrackingError("f")]
    with pytest.raises(ValueError, match="e"):
        tracking.call_with_timeout(60, "http://host:1", call, attempts=3)


def test_a_dead_server_is_named_in_one_line(dead_server: str) -> None:
    with pytest.raises(TrackingError, match=f"MLflow at {dead_server}: ") as caught:
        tracking.open_run(dead_server, "exp", "run-x", RunConfig(), {})
    assert "\n" not in str(caught.value)


def test_a_password_in_the_tracking_uri_is_refused_and_not_repeated() -> None:
    config = with_overrides(RunConfig(), {"tracking.uri": "https://me:hunter2@mlflow.example/"})
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        run.resolve_tracking(config)
    assert "hunter2" not in str(caught.value)


def test_a_new_file_is_as_mlflow_makes_it_and_one_that_is_there_stays(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    connected = client.connect(f"sqlite:///{ours}")
    assert [path.name for path in tmp_path.iterdir()] == ["ours.db"]
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{theirs}").search_experiments()
    assert tables(ours) == tables(theirs)
    connected.create_experiment("mine")
    assert {e.name for e in client.connect(f"sqlite:///{ours}").search_experiments()} == {"Default", "mine"}


def test_connecting_can_begin_before_the_first_call(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking.begin_to_connect(uri)
    connected = client.connect(uri)  # at the same time: one of the two makes the tables, the other waits
    assert [experiment.name for experiment in connected.search_experiments()] == ["Default"]
    for thread in threading.enumerate():
        if "MLflow" in thread.name:
            thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_what_goes_wrong_while_connecting_begins_is_said_by_the_first_call(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("a file of another program, which is no database")
    tracking.begin_to_connect(f"sqlite:///{path}")
    with pytest.raises(TrackingError, match="file is not a database"):
        tracking.open_run(f"sqlite:///{path}", "exp", "run-x", RunConfig(), {})


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///other.db?timeout=5", "http://host:5000"])
def test_what_is_no_plain_file_is_left_to_mlflow(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow, "MlflowClient", lambda tracking_uri: tracking_uri)
    client.connect(uri)
    assert list(tmp_path.iterdir()) == []


def tables(path: Path) -> dict[str, object]:
    """The columns of each table and index, and which version of the tables it is."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master").fetchall()]
        columns = {name: database.execute("SELECT * FROM pragma_table_info(?)", [name]).fetchall() for name in names}
        return columns | {"version": database.execute("SELECT * FROM alembic_version").fetchall()}


def test_sqlite_in_runs_is_the_default_and_the_environment_comes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.resolve_uri("") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.resolve_uri("") == "http://server:5000"
    assert tracking.resolve_uri("http://other:5000") == "http://other:5000"


# ---- what MLflow does not document


def test_the_pictures_of_a_run_are_known_by_their_files_of_every_known_mlflow(caplog: pytest.LogCaptureFixture) -> None:
    stored = [
        "images/overlay~night+step+20+timestamp+1795864097851+469b888b-f458.png",
        "images/overlay~night+step+20+timestamp+1795864097851+469b888b-f458+compressed.webp",
        "images/overlay#fog 2%step%0%timestamp%1795864098216%befe7952-441f.png",
    ]
    assert mlflow_formats.pictures_in(stored) == {("overlay/night", 20), ("overlay/fog 2", 0)}
    assert caplog.messages == []


def test_names_of_a_later_mlflow_cost_one_line(caplog: pytest.LogCaptureFixture) -> None:
    stored = ["images/a/20.png", "images/b/20.png", "images/c+step+1+timestamp+2+d.png"]
    assert mlflow_formats.pictures_in(stored) == {("c", 1)}
    (line,) = caplog.messages
    assert line.startswith(f"MLflow {mlflow.__version__}: images/a/20.png: unknown kind of name")


def test_a_later_mlflow_gets_no_view_and_one_line_says_so(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_formats, "mlflow_version", lambda: "4.0.1")
    view = tracking.ComparisonView(dataset="town", conditions=("fog",))
    assert [tracking.save_view(store, "no experiment", view) for _ in range(2)] == ["", ""]
    assert [line for line in caplog.messages if "4.0.1" in line] == [
        "MLflow 4.0.1: the view to compare runs is left out, as only the page of MLflow 3 is known"
    ]


def test_what_a_user_has_set_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    environment.set_defaults()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3" and os.environ[environment.TIMEOUT] == "15"
    with environment.extended_timeout(40_000_000):
        assert os.environ[environment.TIMEOUT] == "25"
    assert os.environ[environment.TIMEOUT] == "15"
    monkeypatch.setenv(environment.TIMEOUT, "7")
    with environment.extended_timeout(40_000_000):
        assert os.environ[environment.TIMEOUT] == "7"
