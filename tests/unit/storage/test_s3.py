"""What is S3's own. Faults are provoked on a small server of our own, not mocked."""

import os
import pickle
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distseg import storage
from distseg.errors import StorageError
from distseg.storage import join, s3_client, s3_multipart
from tests.conftest import free_port, use_s3_at

# ---- large, many, threads, processes


def test_multipart(moto_s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3_multipart, "PART_BYTES", 5 << 20)
    (tmp_path / "in").write_bytes(data := os.urandom((10 << 20) + 3))
    uri = join(moto_s3, "large")
    storage.upload(tmp_path / "in", uri)
    assert storage.read_bytes(uri) == data
    head = s3_client._connection().client.head_object(Bucket=moto_s3[5:], Key="large")
    assert head["ETag"].endswith('-3"')


def test_listing_pages_and_deletes_in_batches(moto_s3: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: storage.write_bytes(join(moto_s3, "many", f"{i:04}"), b""), range(1003)))
    found = [entry.uri for entry in storage.list_files(join(moto_s3, "many"))]
    assert found == [join(moto_s3, "many", f"{i:04}") for i in range(1003)]
    storage.delete_tree(join(moto_s3, "many"))
    assert list(storage.list_files(moto_s3)) == []


def test_a_forked_child_has_its_own_client(moto_s3: str) -> None:
    uri = join(moto_s3, "k")
    storage.write_bytes(uri, b"from the parent")
    ours = s3_client._connection()
    program = """
import os, sys, warnings
from distseg import storage
from distseg.storage import s3_client
uri = sys.argv[1]
storage.read_bytes(uri)
ours = s3_client._connection()
lock = s3_client._connecting[os.getpid()]
lock.acquire()
warnings.simplefilter('ignore')
child = os.fork()
if child == 0:
    good = storage.read_bytes(uri) == b'from the parent' and s3_client._connection() is not ours
    os._exit(0 if good else 1)
lock.release()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", program, uri], check=True, timeout=300)
    with ThreadPoolExecutor(16) as pool:
        assert {id(c) for c in pool.map(lambda _: s3_client._connection(), range(64))} == {id(ours)}


# ---- faults


class FlakyS3:
    """Holds one object for GET with ranges and PUT; meets each request with the next fault, if there is one.

    Faults: a status to answer with; 'reset' before the answer; 'cut' in the middle of the body; 'stall' in it.
    """

    def __init__(self) -> None:
        self.data = b""
        self.etag = '"1"'
        self.faults: deque[str | int] = deque()
        self.requests: list[str] = []  # method and range
        self.num_connections = 0
        self.released = threading.Event()
        handler = type("Handler", (FlakyHandler,), {"flaky": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class FlakyHandler(BaseHTTPRequestHandler):
    flaky: FlakyS3  # set by a class of its own for each server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.flaky.num_connections += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.meet_fault():
            return
        self.flaky.data = data
        self.answer(200, b"", ETag=self.flaky.etag)

    def do_GET(self) -> None:
        if self.meet_fault():
            return
        size = len(self.flaky.data)
        if self.headers["If-Match"] not in (None, self.flaky.etag):
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        first, last = self.byte_range(size)
        headers = {"ETag": self.flaky.etag, "Content-Range": f"bytes {first}-{last}/{size}"}
        self.answer(206, self.flaky.data[first : last + 1], **headers)

    def byte_range(self, size: int) -> tuple[int, int]:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "bytes=0-")
        assert found
        return int(found[1]), min(int(found[2] or size), size - 1)

    def meet_fault(self) -> bool:
        self.flaky.requests.append(f"{self.command} {self.headers['Range'] or ''}".strip())
        fault = self.flaky.faults.popleft() if self.flaky.faults else None
        self.spoil = fault if fault in ("cut", "stall") else None
        if fault == "reset":
            self.close_connection = True
        elif isinstance(fault, int):
            self.answer(fault, b"<Error><Code>SlowDown</Code></Error>" if fault == 503 else b"")
        return fault is not None and self.spoil is None

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if getattr(self, "spoil", None):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if self.spoil == "stall":
                self.flaky.released.wait(20)
            self.close_connection = True
            return
        self.wfile.write(body)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    server = FlakyS3()
    use_s3_at(server.endpoint, monkeypatch)
    yield server
    server.close()


URI = "s3://bucket/key"


def test_one_connection_for_many_reads(flaky: FlakyS3) -> None:
    flaky.data = os.urandom(300_000)
    for start in range(0, 300_000, 10_000):
        assert storage.read_bytes(URI, start, 10_000) == flaky.data[start : start + 10_000]
    assert flaky.num_connections == 1
    assert len(flaky.requests) == 30


def test_a_truncated_range_is_read_from_where_it_broke(flaky: FlakyS3) -> None:
    flaky.data = os.urandom(4 << 20)
    flaky.faults.extend(["cut", "cut"])
    assert storage.read_bytes(URI, 100, 3 << 20) == flaky.data[100 : 100 + (3 << 20)]
    starts = [int(request.split("=")[1].split("-")[0]) for request in flaky.requests]
    assert starts[0] == 100
    assert starts[0] < starts[1] < starts[2]
    assert all(request.endswith(f"-{100 + (3 << 20) - 1}") for request in flaky.requests)


@pytest.mark.parametrize("faults", [["cut"], ["reset", "cut", 500, "cut", 503], [500, 500, 500]])
def test_a_stream_survives(flaky: FlakyS3, faults: list[str | int]) -> None:
    flaky.data = os.urandom(5 << 20)
    flaky.faults.extend(faults)
    with storage.open_read(URI) as stream:
        parts = list(iter(lambda: stream.read(700_001), b""))
    assert b"".join(parts) == flaky.data
    assert not flaky.faults


def test_a_changed_object_is_refused(flaky: FlakyS3) -> None:
    flaky.data = os.urandom(4 << 20)
    flaky.faults.append("cut")
    with storage.open_read(URI) as stream:
        stream.read(1000)
        flaky.etag = '"2"'
        with pytest.raises(StorageError, match=r"s3://bucket/key: changed while it was being read"):
            stream.read()


def test_a_stalled_body_is_given_up_and_resumed(flaky: FlakyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.5)
    flaky.data = os.urandom(1 << 20)
    flaky.faults.append("stall")
    assert storage.read_bytes(URI) == flaky.data
    assert len(flaky.requests) == 2


def test_a_put_is_repeated(flaky: FlakyS3) -> None:
    flaky.faults.extend([500, "reset", 503])
    storage.write_bytes(URI, b"data")
    assert flaky.data == b"data"
    assert len(flaky.requests) == 4


def test_the_deadline_ends_retries(flaky: FlakyS3) -> None:
    flaky.faults.extend([503] * 1000)
    with pytest.raises(StorageError, match=r"s3://bucket/key: .*SlowDown.*tried for 2 s") as caught:
        storage.read_bytes(URI, deadline_s=2)
    assert "secret" not in str(caught.value)
    assert "Signature" not in str(caught.value)


def test_permanent_errors_are_not_repeated(flaky: FlakyS3) -> None:
    flaky.faults.extend([403] * 10)
    with pytest.raises(StorageError, match="access denied"):
        storage.read_bytes(URI)
    assert len(flaky.requests) == 1


def test_a_server_that_comes_back_is_waited_for(flaky: FlakyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky.data = b"there"
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    late: list[ThreadingHTTPServer] = []

    def start_late() -> None:
        late.append(ThreadingHTTPServer(("127.0.0.1", port), flaky.server.RequestHandlerClass))
        late[0].daemon_threads = True
        late[0].serve_forever(0.05)

    timer = threading.Timer(1.0, start_late)
    timer.start()
    try:
        assert storage.read_bytes(URI) == b"there"
    finally:
        timer.cancel()
        if late:
            late[0].shutdown()
            late[0].server_close()
        timer.join()


# ---- one clear line each


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, r"cannot reach http://127.0.0.1:1 \(connection refused\)"),
        ({"AWS_ENDPOINT_URL": "http://no-host.invalid"}, r"cannot reach http://no-host.invalid \(unknown host name\)"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, "AWS settings cannot be used: Invalid endpoint"),
        ({"AWS_ENDPOINT_URL": "http://user:hidden@127.0.0.1:1"}, "cannot reach http://127.0.0.1:1 "),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials; set AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "missing: AWS_SECRET_ACCESS_KEY"),
        ({"AWS_PROFILE": "none"}, "profile .none. could not be found"),
    ],
)
def test_settings(moto_s3: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(StorageError, match=expected) as caught:
        storage.read_bytes("s3://bucket/key", deadline_s=0.5)
    message = str(caught.value)
    assert message.startswith("s3://bucket/key: ")
    assert "\n" not in message
    assert "hidden" not in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_no_bucket_is_told_from_no_key(moto_s3: str) -> None:
    for call in (storage.read_bytes, storage.exists, storage.num_bytes, storage.check_writable, storage.delete_tree):
        with pytest.raises(StorageError, match="no such bucket at http://"):
            call("s3://no-such-bucket/key")
    with pytest.raises(StorageError, match="no such bucket"):
        list(storage.list_files("s3://no-such-bucket"))
    with pytest.raises(StorageError, match="not a valid bucket name"):
        storage.read_bytes("s3://Bad_Bucket!/key")
    with pytest.raises(StorageError, match="names a directory"):
        storage.read_bytes(moto_s3 + "/dir/")
