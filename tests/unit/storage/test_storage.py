"""Both storages keep one contract; faults are provoked on a small server of our own, not mocked."""

import os
import pickle
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distseg import storage
from distseg.errors import StorageError
from distseg.storage import Entry, join, s3
from tests.conftest import free_port, use_environment


@pytest.fixture(params=["local", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    return join(request.getfixturevalue("moto_s3"), "store")


# ---- names


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("s3://b", True), ("s3://b/k", True), ("a/b", False), ("/a", False), ("a:b", False), ("", False)],
)
def test_is_s3(uri: str, expected: bool) -> None:
    assert storage.is_s3(uri) is expected


@pytest.mark.parametrize(
    "uri", ["s3:/x", "s3://", "s3:///k", "s3:b/k", "http://h/x", "gs://b/k", "file:///x", "S3://b"]
)
def test_bad_uri_is_refused_by_every_call(uri: str, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.read_bytes(uri),
        lambda: storage.open_read(uri),
        lambda: storage.list_files(uri),
        lambda: storage.list_folders(uri),
        lambda: storage.exists(uri),
        lambda: storage.num_bytes(uri),
        lambda: storage.write_bytes(uri, b""),
        lambda: storage.upload(__file__, uri),
        lambda: storage.download(uri, tmp_path / "x"),
        lambda: storage.delete(uri),
        lambda: storage.delete_tree(uri),
        lambda: storage.check_writable(uri),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="s3://bucket/key") as caught:
            call()
        assert str(caught.value).startswith(f"{uri}")


def test_join() -> None:
    assert join("s3://b", "a", "c") == join("s3://b/", "/a/", "c") == "s3://b/a/c"
    assert join("/", "a") == "/a"
    assert join("d/", "", "a") == "d/a"
    assert join("", "a") == "a"
    assert join("d") == "d"


@given(st.lists(st.text("ab.-_", min_size=1), min_size=1), st.sampled_from(["s3://bucket", "/root", "relative"]))
def test_join_is_associative(parts: list[str], head: str) -> None:
    assert join(head, *parts) == join(join(head, *parts[:1]), *parts[1:]) == head + "/" + "/".join(parts)


# ---- one contract, both storages


def test_what_is_written_is_read(base: str) -> None:
    uri = join(base, "deep", "er", "file")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"0123456789")
    assert storage.exists(uri)
    assert storage.num_bytes(uri) == 10
    assert storage.read_bytes(uri) == b"0123456789"
    storage.write_bytes(uri, b"new")
    with storage.open_read(uri) as stream:
        assert (stream.read(2), stream.read(), stream.read()) == (b"ne", b"w", b"")


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 4, b"0123"), (3, 4, b"3456"), (8, 5, b"89"), (4, None, b"456789"), (10, 1, b""), (99, 1, b""), (5, 0, b"")],
)
def test_ranges(base: str, start: int, length: int | None, expected: bytes) -> None:
    uri = join(base, "digits")
    storage.write_bytes(uri, b"0123456789")
    assert storage.read_bytes(uri, start, length) == expected


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 4, b"0123"), (6, 4, b"6789"), (8, 5, b"89"), (10, 1, b""), (99, 1, b""), (5, 0, b"")],
)
def test_ranges_to_memory_that_is_there(base: str, start: int, length: int, expected: bytes) -> None:
    uri = join(base, "digits")
    storage.write_bytes(uri, b"0123456789")
    memory = bytearray(length)
    assert storage.read_into(memoryview(memory), uri, start) == len(expected)
    assert memory == expected.ljust(length, b"\0")


def test_open_files_read_what_was_opened_until_they_are_closed(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abc"]
    for path in paths:
        storage.write_bytes(path, b"0123456789")
    files = storage.OpenFiles(2)
    assert [files.read_bytes(path, 3, 4) for path in paths * 2] == [b"3456"] * 6
    storage.write_bytes(paths[2], b"abcdefghij")  # a new file of the same name
    assert files.read_bytes(paths[2], 3, 4) == b"3456"
    files.close()
    assert files.read_bytes(paths[2], 3, 4) == b"defg"
    assert files.read_bytes(paths[2], 8, 5) == b"ij"
    with pytest.raises(StorageError, match="d: no such file"):
        files.read_bytes(str(tmp_path / "d"), 0, 1)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc, which Linux has")
def test_open_files_are_closed_when_unused(tmp_path: Path) -> None:
    def num_open() -> int:
        return sum(os.path.realpath(link).startswith(str(tmp_path)) for link in Path("/proc/self/fd").iterdir())

    files = storage.OpenFiles(2)
    for name in "abcd":
        storage.write_bytes(str(tmp_path / name), b"0")
        files.read_bytes(str(tmp_path / name), 0, 1)
    assert num_open() == 2
    del files
    assert num_open() == 0


def test_an_empty_file(base: str) -> None:
    uri = join(base, "empty")
    storage.write_bytes(uri, b"")
    assert storage.exists(uri)
    assert storage.num_bytes(uri) == 0
    assert storage.read_bytes(uri) == storage.read_bytes(uri, 0, 5) == b""
    with storage.open_read(uri) as stream:
        assert stream.read() == b""


def test_listing_is_recursive_and_sorted_alike(base: str) -> None:
    names = ["a/x", "a-b", "a.b", "a/b/c", "b", "Z", "ä"]
    for name in names:
        storage.write_bytes(join(base, name), name.encode())
    storage.write_bytes(f"{base}-beside", b"")
    expected = [Entry(join(base, name), len(name.encode())) for name in sorted(names)]
    assert list(storage.list_files(base)) == list(storage.list_files(base + "/")) == expected
    assert list(storage.list_files(join(base, "a"))) == [e for e in expected if "/a/" in e.uri]
    assert list(storage.list_files(join(base, "none"))) == []


def test_folders_right_below(base: str) -> None:
    for name in ("b/x", "a-b/x", "a/x", "a/b/c", "file"):
        storage.write_bytes(join(base, name), b"")
    storage.write_bytes(f"{base}-beside/x", b"")
    assert storage.list_folders(base) == storage.list_folders(base + "/") == ["a", "a-b", "b"]
    assert storage.list_folders(join(base, "a")) == ["b"]
    assert storage.list_folders(join(base, "b")) == storage.list_folders(join(base, "none")) == []


def test_deleting(base: str) -> None:
    for name in ("t/a", "t/b/c", "t2"):
        storage.write_bytes(join(base, name), b"")
    storage.delete(join(base, "t/a"))
    storage.delete(join(base, "t/a"))
    assert not storage.exists(join(base, "t/a"))
    storage.delete_tree(join(base, "t"))
    storage.delete_tree(join(base, "t"))
    assert [entry.uri for entry in storage.list_files(base)] == [join(base, "t2")]


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_upload_and_download(base: str, size: int, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data := os.urandom(size))
    storage.upload(tmp_path / "in", join(base, "up"))
    storage.download(join(base, "up"), tmp_path / "new" / "out")
    assert (tmp_path / "new" / "out").read_bytes() == data


def test_check_writable_leaves_nothing(base: str) -> None:
    storage.check_writable(base)
    assert list(storage.list_files(base)) == []


def test_a_missing_file_is_named(base: str, tmp_path: Path) -> None:
    uri = join(base, "none")
    for call in (
        storage.read_bytes,
        storage.open_read,
        storage.num_bytes,
        lambda u: storage.download(u, tmp_path / "x"),
    ):
        with pytest.raises(StorageError, match=re.escape(uri) + ": no such (file|key)"):
            call(uri)
    assert not (tmp_path / "x").exists()


# ---- local


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    for call in (storage.read_bytes, storage.open_read, storage.num_bytes, storage.delete):
        with pytest.raises(StorageError, match="is a directory"):
            call(str(tmp_path))
    with pytest.raises(StorageError, match="is a directory"):
        storage.write_bytes(str(tmp_path), b"")
    assert not storage.exists(str(tmp_path))


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    inside = str(tmp_path / "f" / "x")
    for call in (
        storage.read_bytes,
        lambda u: storage.write_bytes(u, b""),
        lambda u: list(storage.list_files(f"{u}/..")),
    ):
        with pytest.raises(StorageError, match=r"a file (stands )?where"):
            call(inside)


def test_delete_tree_refuses_too_much(moto_s3: str) -> None:
    for uri in ("/", "", "/tmp/..", moto_s3, moto_s3 + "/"):
        with pytest.raises(StorageError, match="refusing to delete"):
            storage.delete_tree(uri)


def test_a_full_disk_is_named() -> None:
    full_disk = pytest.raises(StorageError, match="/dev/full: the disk is full")
    with full_disk, storage._local_errors("/dev/full"), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def test_permission_denied_as_another_user(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom distseg import storage\nfrom distseg.errors import StorageError\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: storage.check_writable(sys.argv[1])\nexcept StorageError as error: print(error)\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o555)
    done = subprocess.run([sys.executable, "-c", program, closed], capture_output=True, text=True, check=True)
    assert "permission denied" in done.stdout


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), storage._replacing(str(path)) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    with storage._replacing(str(tmp_path / "f")) as file:
        file.write(b"x")
        assert list(storage.list_files(str(tmp_path))) == []
    assert [entry.num_bytes for entry in storage.list_files(str(tmp_path))] == [1]


def test_files_get_the_usual_mode(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "ours"), b"")
    (tmp_path / "usual").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_local_paths_need_no_boto3(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['boto3'] = sys.modules['botocore'] = None\n"
        f"from distseg import storage; storage.write_bytes({str(tmp_path / 'f')!r}, b'x')\n"
        f"assert storage.read_bytes({str(tmp_path / 'f')!r}) == b'x'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- S3: large, many, threads, processes


def test_multipart(moto_s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    (tmp_path / "in").write_bytes(data := os.urandom((10 << 20) + 3))
    uri = join(moto_s3, "large")
    storage.upload(tmp_path / "in", uri)
    assert storage.read_bytes(uri) == data
    head = s3._connection().client.head_object(Bucket=moto_s3[5:], Key="large")
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
    ours = s3._connection()
    program = (
        "import os, sys, threading, warnings\nfrom distseg import storage\nfrom distseg.storage import s3\n"
        "uri = sys.argv[1]\n"
        "storage.read_bytes(uri)\nours = s3._connection()\nlock = s3._connecting[os.getpid()]\nlock.acquire()\n"
        "warnings.simplefilter('ignore')\nchild = os.fork()\n"
        "if child == 0:\n    good = storage.read_bytes(uri) == b'from the parent' and s3._connection() is not ours\n"
        "    os._exit(0 if good else 1)\n"
        "lock.release()\nsys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program, uri], check=True, timeout=60)
    with ThreadPoolExecutor(16) as pool:
        assert {id(c) for c in pool.map(lambda _: s3._connection(), range(64))} == {id(ours)}


# ---- S3: faults


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
        flaky = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                flaky.num_connections += 1

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_PUT(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.meet_fault():
                    return
                flaky.data = data
                self.answer(200, b"", ETag=flaky.etag)

            def do_GET(self) -> None:
                if self.meet_fault():
                    return
                size = len(flaky.data)
                if self.headers["If-Match"] not in (None, flaky.etag):
                    self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                    return
                first, last = self.byte_range(size)
                headers = {"ETag": flaky.etag, "Content-Range": f"bytes {first}-{last}/{size}"}
                self.answer(206, flaky.data[first : last + 1], **headers)

            def byte_range(self, size: int) -> tuple[int, int]:
                found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "bytes=0-")
                assert found
                return int(found[1]), min(int(found[2] or size), size - 1)

            def meet_fault(self) -> bool:
                flaky.requests.append(f"{self.command} {self.headers['Range'] or ''}".strip())
                fault = flaky.faults.popleft() if flaky.faults else None
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
                        flaky.released.wait(20)
                    self.close_connection = True
                    return
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    server = FlakyS3()
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "very-secret"}
    use_environment({"AWS_ENDPOINT_URL": server.endpoint, **keys}, monkeypatch)
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
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 0.5)
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


# ---- S3: one clear line each


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
