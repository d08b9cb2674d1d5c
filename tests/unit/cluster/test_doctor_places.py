"""The doctor's checks of the places that a training uses: the object store by each client, and MLflow."""

import http.client
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from cluster.doctor import findings, places
from cluster.doctor.findings import FAILED, OK, Finding
from cluster.doctor.places import Places
from distseg import storage
from tests.conftest import free_port
from tests.toy_data import LABELS, toy_samples


def failures(found: list[Finding]) -> list[str]:
    return [findings.line(each) for each in found if each.status == FAILED]


# ---- the object store


class Refusing:
    """An S3 server before another one, which answers 403 to some methods."""

    def __init__(self, endpoint: str, *refused: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                num_bytes = None
                if self.command in refused:
                    reply = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
                    self.send_response(403)
                else:
                    server = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
                    headers = {k: v for k, v in self.headers.items() if k.lower() != "accept-encoding"}
                    server.request(self.command, self.path, body, headers)
                    answer = server.getresponse()
                    reply = answer.read()
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                            self.send_header(name, value)
                    num_bytes = answer.headers["Content-Length"]
                    server.close()
                self.send_header(
                    "Content-Length", num_bytes if self.command == "HEAD" and num_bytes else str(len(reply))
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_a_sound_store_passes_by_all_three_clients(moto_s3: str) -> None:
    found = places.check_checkpoints(f"{moto_s3}/runs", "here")
    assert [(each.name, each.status) for each in found] == [
        ("checkpoints, boto3", OK),
        ("checkpoints, Ray Train", OK),
        ("checkpoints, Ray Tune's pyarrow", OK),
    ], found
    assert list(storage.list_files(moto_s3)) == []


@pytest.mark.parametrize(
    ("refused", "step"),
    [("PUT", "write"), ("DELETE", "delete"), ("GET", "read back")],
)
def test_credentials_without_a_right_fail_in_every_client(
    moto_s3: str, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch, refused: str, step: str
) -> None:
    server = Refusing(moto_endpoint, refused)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    try:
        lines = failures(places.check_checkpoints(f"{moto_s3}/runs", "here"))
    finally:
        server.close()
    assert len(lines) == 3, lines
    assert all(f"cannot {step}: " in line for line in lines), lines


def test_a_bucket_that_does_not_exist(moto_s3: str) -> None:
    lines = failures(places.check_checkpoints("s3://no-such-bucket-here/runs", "here"))
    assert len(lines) == 3
    assert "no such bucket" in lines[0] and "create it" in lines[0]


def test_a_server_that_does_not_answer(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(places, "DEADLINE_S", 0.2)
    found = places.check_client("checkpoints, boto3", places._storage_client, f"{moto_s3}/runs", "here")
    (line,) = failures([found])
    assert "cannot write: " in line and "is AWS_ENDPOINT_URL right?" in line


def test_a_prefix_that_the_clients_read_differently(moto_s3: str) -> None:
    found = {each.name: each.status for each in places.check_checkpoints(f"{moto_s3}/a%20b#c", "here")}
    assert found["checkpoints, boto3"] == found["checkpoints, Ray Train"] == OK
    assert found["checkpoints, Ray Tune's pyarrow"] == FAILED


def test_data_that_is_there_and_data_that_is_not(tmp_path: Path) -> None:
    from distseg.data.shards import pack

    assert "pack it first" in findings.line(places.check_data(str(tmp_path / "none"), "here"))
    pack({"train": toy_samples(2, "train", (("day", "town"),))}, LABELS, str(tmp_path), dataset="toy")
    assert places.check_data(str(tmp_path), "here").status == OK
    next(tmp_path.rglob("*.tar")).unlink()
    assert places.check_data(str(tmp_path), "here").status == FAILED


def test_a_directory_that_other_machines_do_not_have(tmp_path: Path) -> None:
    seen = places.check_shared(str(tmp_path / "probe"), "b")
    assert (seen.status, "shared directory" in seen.remedy) == (FAILED, True)
    (tmp_path / "probe").touch()
    assert places.check_shared(str(tmp_path / "probe"), "b").status == OK


# ---- MLflow


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def mlflow_client(uri: str) -> Any:
    from distseg.tracking.client import connect

    return connect(uri)


def test_a_sound_mlflow_and_what_is_left_there(sqlite: str) -> None:
    found = places.check_mlflow(Places(tracking=sqlite, experiment="e"), "here")
    assert found.status == OK, found
    client = mlflow_client(sqlite)
    experiment = client.get_experiment_by_name("e")
    assert client.search_runs([experiment.experiment_id]) == []


def test_a_deleted_experiment(sqlite: str) -> None:
    client = mlflow_client(sqlite)
    client.delete_experiment(client.create_experiment("e"))
    (line,) = failures([places.check_mlflow(Places(tracking=sqlite, experiment="e"), "here")])
    assert "the experiment 'e' was deleted [here]: restore it" in line


def test_artifacts_that_cannot_be_written(sqlite: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    mlflow_client(sqlite).create_experiment("e", artifact_location=f"file://{tmp_path}/file/artifacts")
    (line,) = failures([places.check_mlflow(Places(tracking=sqlite, experiment="e"), "here")])
    assert "Not a directory" in line


def test_an_mlflow_that_does_not_answer() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    (line,) = failures([places.check_mlflow(Places(tracking=uri, experiment="e"), "here")])
    assert f"MLflow at {uri}" in line
