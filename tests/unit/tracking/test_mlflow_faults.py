"""An MLflow that fails as they do: its file removed, a login page, artifacts that cannot be stored. One line each, and
nothing lost."""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest

from distseg import tracking
from distseg.config import RunConfig
from distseg.errors import TrackingError
from distseg.tracking import client, mlflow_runs
from tests.recorded import only_run


def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def record(step: int) -> tracking.MetricRecord:
    return {"step": step, "time_ms": 1000 + step, "metrics": {"train/loss": 0.5}}


@pytest.mark.filterwarnings("ignore")  # SQLAlchemy's, of connections to the removed file
def test_a_file_that_is_removed_in_mid_run_costs_one_line_and_no_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = store(tmp_path)
    run_id = tracking.open_run(uri, "exp", "removed", RunConfig(), {})
    (tmp_path / "mlflow.db").unlink()
    log = tracking.MetricLog(uri, lambda afresh: run_id, earlier=())
    log.add(record(1))
    assert log.close(timeout_s=60.0) == [record(1)]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"metrics wait: MLflow at {uri}: the file was removed or replaced; what it lacks is in the run's directory, "
        "and distseg.sync sends it"
    ]
    assert "Traceback" not in "".join(capfd.readouterr()) + caplog.text


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            "(sqlite3.OperationalError) database is locked\n[SQL: …]",
            "another program holds the file; close it",
        ),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "the file was removed or replaced"),
        ("(sqlite3.OperationalError) database or disk is full", "the disk is full"),
        ("(sqlite3.OperationalError) unable to open database file", "the file cannot be opened"),
        ("(sqlite3.DatabaseError) file is not a database", "not a database; move it away"),
    ],
)
def test_what_sqlite_says_is_one_line_with_a_remedy(said: str, says: str) -> None:
    error = client.as_tracking_error(f"sqlite:///{__file__}", mlflow.MlflowException(said))
    assert says in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://mlflow.invalid:5000", "proxy before it .*: correct HTTPS_PROXY or HTTP_PROXY, or add mlflow.invalid"),
        ("https://127.0.0.1:{port}", "it does not answer in TLS: give its address with http://"),
    ],
)
def test_what_stops_requests_on_their_way_is_said(uri: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:hidden@127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    plain = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=plain.serve_forever, args=(0.05,))
    thread.start()
    try:
        with pytest.raises(TrackingError, match=expected) as caught:
            tracking.find_run(uri.format(port=plain.server_port), "experiment", "run")
    finally:
        plain.shutdown()
        plain.server_close()
        thread.join()
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_certificate_that_is_not_trusted_is_said() -> None:
    said = (
        "(Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate')))"
    )
    error = client.as_tracking_error(
        "https://mlflow.example", mlflow.MlflowException(f"API request failed with {said}")
    )
    assert "its certificate is not trusted: set MLFLOW_TRACKING_SERVER_CERT_PATH" in str(error)


@pytest.mark.parametrize("folder", ["read-only", "not there"])
def test_a_file_that_cannot_be_made_is_told_at_once(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would try for minutes."""
    if folder == "read-only":
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / folder)  # root may write anywhere
    monkeypatch.setattr(mlflow, "MlflowClient", lambda **_: pytest.fail("MLflow was asked"))
    with pytest.raises(TrackingError, match="the file cannot be opened; is its directory there, may it be written"):
        client.connect(f"sqlite:///{tmp_path / folder / 'mlflow.db'}")


def test_a_file_that_another_program_holds_is_waited_for_briefly_and_gets_all_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow itself would try for 48 s to open it."""
    monkeypatch.setattr(client, "LOCKED_WAIT_S", 0.01)
    uri = store(tmp_path)
    run_id = tracking.open_run(uri, "exp", "run", RunConfig(), {})
    log = tracking.MetricLog(uri, lambda afresh: run_id, earlier=())
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for call in (
            lambda: tracking.open_run(uri, "exp", "another", RunConfig(), {}),
            lambda: tracking.finish_run(uri, run_id, "FINISHED", {}, {}),
            lambda: tracking.close_early(uri, "exp", "run", "KILLED", run_id=run_id),
        ):
            with pytest.raises(TrackingError, match=f"^MLflow at {uri}: another program holds the file; close it"):
                call()
        log.add(record(1))
        wait_until(lambda: "metrics wait: " in caplog.text)
        other.execute("ROLLBACK")
    assert log.close(timeout_s=60.0) == []
    assert only_run(uri, "exp").steps("train/loss") == [1]


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_file_that_is_none_of_mlflow_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database, whatever its name says" * 100)
    with pytest.raises(TrackingError, match="the file is not a database; move it away") as caught:
        tracking.open_run(store(tmp_path), "exp", "run", RunConfig(), {})
    assert "\n" not in str(caught.value)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "mlflow.db").execute("SELECT 1 FROM sqlite_master")


def test_a_deleted_experiment_is_named_with_what_to_do(tmp_path: Path) -> None:
    uri = store(tmp_path)
    mlflow_client = mlflow.MlflowClient(tracking_uri=uri)
    number = mlflow_client.create_experiment("old", artifact_location=tmp_path.as_uri())
    mlflow_client.delete_experiment(number)
    with pytest.raises(TrackingError, match=rf"'old' was deleted; restore it .*--experiment-id {number}.*--experiment"):
        tracking.open_run(uri, "old", "run", RunConfig(), {})
    assert tracking.open_run(uri, "new", "run", RunConfig(), {})


def test_an_experiment_cannot_name_a_place_elsewhere(tmp_path: Path) -> None:
    uri = store(tmp_path)
    tracking.open_run(uri, "../../x/é", "run", RunConfig(), {})
    found = mlflow.MlflowClient(tracking_uri=uri).get_experiment_by_name("../../x/é")
    assert found is not None and isinstance(found.artifact_location, str)
    assert found.artifact_location.startswith(f"{tmp_path.as_uri()}/mlartifacts/")
    assert ".." not in found.artifact_location


def test_artifacts_that_cannot_be_stored_do_not_hold_metrics_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NoCredentialsError(Exception):
        """As the client of an object store raises it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(mlflow.MlflowClient, "log_dict", refuse)
    monkeypatch.setattr(mlflow.MlflowClient, "log_artifacts", refuse)
    uri = store(tmp_path)
    run_id = tracking.open_run(uri, "exp", "run", RunConfig(), {})
    assert "the store of its artifacts takes no files: Unable to locate credentials; metrics go on" in caplog.text
    assert tracking.send_records(uri, run_id, [record(1)]) == 1
    with pytest.raises(TrackingError, match="the store of its artifacts takes no files"):
        tracking.finish_run(uri, run_id, "FINISHED", {"a.json": b"{}"}, {})


# ---- servers


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that answers everything with a page, as a proxy does that wants a login."""
    status: int = request.param

    class Login(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if status == 302 and self.path != "/login":
                self.send_response(302)
                self.send_header("Location", "/login")
                self.end_headers()
                return
            self.send_response(200 if status == 302 else status)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>\n<body>Log in, please\n</body></html>")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Login)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


CALLS: dict[str, Callable[[str], object]] = {
    "open": lambda uri: tracking.open_run(uri, "exp", "run", RunConfig(), {}),
    "find": lambda uri: tracking.find_run(uri, "exp", "run"),
    "send": lambda uri: tracking.send_records(uri, "0" * 32, [record(1)]),
    "finish": lambda uri: tracking.finish_run(uri, "0" * 32, "FINISHED", {}, {"a": "b"}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("page", [200, 302, 403], indirect=True)
def test_a_login_page_before_mlflow_is_said_in_one_line(
    page: str, call: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrackingError, match=rf"^MLflow at {page}: something answers, but not as MLflow does") as caught:
        CALLS[call](page)
    assert "\n" not in str(caught.value)
    assert "Log in" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("uri", "location", "warns"),
    [
        ("http://mlflow.example.org:5000", "/mlruns/1", True),
        ("http://mlflow.example.org:5000", "file:///mlruns/1", True),
        ("http://mlflow.example.org:5000", "mlflow-artifacts:/1", False),
        ("http://mlflow.example.org:5000", "s3://b/1", False),
        ("http://127.0.0.1:5000", "/mlruns/1", False),
        ("sqlite:////x.db", "file:///mlruns/1", False),
    ],
)
def test_artifacts_at_a_path_of_another_machine_are_warned_of(
    uri: str, location: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    client._warn_of_local_artifacts.cache_clear()
    client._warn_of_local_artifacts(uri, "exp", location)
    assert ("--artifacts-destination" in caplog.text) == warns


def test_an_artifact_store_that_hangs_is_waited_for_briefly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging:
        def list_artifacts(self, *_: object) -> None:
            threading.Event().wait(60)

    monkeypatch.setattr(mlflow_runs, "ARTIFACT_WAIT_S", 0.01)
    mlflow_runs._log_config(Hanging(), "http://h:5000", "r", RunConfig())  # type: ignore[arg-type]
    assert "the store of its artifacts does not answer; metrics go on" in caplog.text
