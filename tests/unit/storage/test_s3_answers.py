"""Answers that are not those of AWS: of other S3 servers, of proxies, and of what is no S3 server at all."""

import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from botocore.response import StreamingBody
from urllib3.exceptions import SSLError

from distseg import storage
from distseg.errors import StorageError
from distseg.storage import retries, s3_client
from tests.conftest import use_environment, use_s3_at

URI = "s3://bucket/folder/key"


class Answer(NamedTuple):
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


Script = Callable[[BaseHTTPRequestHandler, bytes], Answer]


def error(code: str, status: int = 400) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>said so</Message></Error>".encode())


def page(status: int, **headers: str) -> Answer:
    return Answer(status, b"<html><body>a page of the web</body></html>", {"Content-Type": "text/html", **headers})


class Server:
    """Answers each request by `script`, and notes method, path and query."""

    def __init__(self) -> None:
        self.script: Script = lambda request, body: Answer(200)
        self.requests: list[str] = []
        handler = type("Handler", (Handler,), {"server_of_test": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,))
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    server_of_test: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server_of_test.requests.append(f"{self.command} {self.path}")
        answer = self.server_of_test.script(self, body)
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    use_s3_at(server.address, monkeypatch)
    yield server
    server.close()


CALLS: dict[str, Callable[[], object]] = {
    "read": lambda: storage.read_bytes(URI, 0, 10, deadline_s=1),
    "exists": lambda: storage.exists(URI, deadline_s=1),
    "list": lambda: list(storage.list_files("s3://bucket/folder", deadline_s=1)),
    "write": lambda: storage.write_bytes(URI, b"data", deadline_s=1),
}


# ---- what is no S3 server


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("call", CALLS)
def test_a_redirect_to_another_server_is_named(server: Server, call: str, status: int) -> None:
    """A proxy that wants https, a page of login: boto3 asks for the bucket's region until Python's stack is full."""
    server.script = lambda request, body: page(status, Location="https://store.example/login?token=hidden")
    with pytest.raises(
        StorageError, match=r"sends requests on to https://store.example; set AWS_ENDPOINT_URL"
    ) as caught:
        CALLS[call]()
    assert "hidden" not in str(caught.value)
    assert len(server.requests) == 1


def test_a_bucket_in_another_region_is_still_found(server: Server) -> None:
    """As AWS answers: the redirect names the region."""

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if request.command == "HEAD" or "/us-east-1/" in request.headers["Authorization"]:
            return Answer(301, error("PermanentRedirect").body, {"x-amz-bucket-region": "eu-west-1"})
        return Answer(206, b"0123456789", {"ETag": '"1"', "Content-Range": "bytes 0-9/10"})

    server.script = answer
    assert CALLS["read"]() == b"0123456789"


@pytest.mark.parametrize(
    ("call", "answer", "expected"),
    [
        ("list", page(200), "what answers a listing is no S3 server; is AWS_ENDPOINT_URL right"),
        ("list", page(404), r"is http://127.* \(AWS_ENDPOINT_URL\) an S3 server"),
        ("read", page(404), r"is http://127.* \(AWS_ENDPOINT_URL\) an S3 server"),
        ("write", page(405), "answered 405, and not as S3 does; is AWS_ENDPOINT_URL right"),
        ("write", page(413), "too large for http://127.*, or for a proxy before it; raise its limit"),
        ("read", page(400), "answered 400, and not as S3 does; is AWS_ENDPOINT_URL right"),
        ("write", error("NotImplemented", 501), r"answered NotImplemented \(said so\)$"),
        ("read", page(403), "access denied by http://127"),
        ("read", page(200), "does not do range reads"),
        ("exists", page(200), "does not do range reads"),
        ("read", Answer(206, b"0", {"Content-Range": "bytes 0-0/1"}), "sends no ETag"),
    ],
)
def test_what_is_no_s3_server_is_said(server: Server, call: str, answer: Answer, expected: str) -> None:
    server.script = lambda request, body: answer
    with pytest.raises(StorageError, match=expected) as caught:
        CALLS[call]()
    assert "\n" not in str(caught.value)


# ---- other S3 servers


def test_an_empty_object_may_come_without_a_range(server: Server) -> None:
    server.script = lambda request, body: Answer(200, b"", {"ETag": '"1"'})
    assert storage.exists(URI)
    assert storage.num_bytes(URI) == 0
    assert storage.read_bytes(URI, 0, 10) == b""


def test_a_listing_that_cannot_be_continued_is_refused(server: Server) -> None:
    """By a server of the first version of listings; the names after the first thousand would be left out."""
    listed = b"<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>folder/a</Key><Size>1</Size></Contents>"
    server.script = lambda request, body: Answer(200, listed + b"</ListBucketResult>")
    with pytest.raises(StorageError, match="the server lists only the first names"):
        CALLS["list"]()


def test_too_many_requests_pass_whatever_they_are_called(server: Server) -> None:
    answers = iter([error("TooManyRequests", 429), error("Slower", 429)])
    whole = Answer(206, b"0123456789", {"ETag": '"1"', "Content-Range": "bytes 0-9/10"})
    server.script = lambda request, body: next(answers, whole)
    assert storage.read_bytes(URI, 0, 10) == b"0123456789"


def test_deleting_what_is_not_there_is_no_error(server: Server) -> None:
    """Google's store answers so."""
    server.script = lambda request, body: error("NoSuchKey", 404)
    storage.delete(URI)


LISTED = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>folder/a</Key><Size>1</Size></Contents>"
    b"<Contents><Key>folder/b</Key><Size>1</Size></Contents></ListBucketResult>"
)
BUSY = b"<DeleteResult><Error><Key>folder/b</Key><Code>SlowDown</Code></Error></DeleteResult>"


@pytest.mark.parametrize(
    ("answer", "deleted"),
    [
        (error("MissingContentMD5"), ["a", "b"]),
        (error("NotImplemented", 501), ["a", "b"]),
        (Answer(200, BUSY), ["b"]),
    ],
)
def test_what_is_not_deleted_at_once_is_deleted_singly(server: Server, answer: Answer, deleted: list[str]) -> None:
    def script(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        return {"GET": Answer(200, LISTED), "POST": answer, "DELETE": Answer(204)}[request.command]

    server.script = script
    storage.delete_tree("s3://bucket/folder")
    assert [r for r in server.requests if r.startswith("DELETE")] == [f"DELETE /bucket/folder/{n}" for n in deleted]


def test_a_refused_deletion_is_said(server: Server) -> None:
    refused = b"<DeleteResult><Error><Key>folder/b</Key><Code>AccessDenied</Code></Error></DeleteResult>"
    answers = {"GET": Answer(200, LISTED), "POST": Answer(200, refused), "DELETE": error("AccessDenied", 403)}
    server.script = lambda request, body: answers[request.command]
    with pytest.raises(StorageError, match="s3://bucket/folder/b: access denied by http://"):
        storage.delete_tree("s3://bucket/folder")


def test_a_connection_whose_encryption_breaks_is_resumed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore passes urllib3's error on as it is."""
    faults = [SSLError("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")]
    read = StreamingBody.readinto

    def readinto(self: StreamingBody, view: Any) -> Any:
        if faults:
            raise faults.pop()
        return read(self, view)

    monkeypatch.setattr(StreamingBody, "readinto", readinto)
    server.script = lambda request, body: Answer(206, b"0123456789", {"ETag": '"1"', "Content-Range": "bytes 0-9/10"})
    assert storage.read_bytes(URI, 0, 10) == b"0123456789"
    assert len(server.requests) == 2


# ---- credentials, and ways to the server


def token(folder: Path) -> str:
    (folder / "token").write_text("a.web.token")
    return str(folder / "token")


ROLE = "arn:aws:iam::123456789012:role/trainer"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (error("AccessDenied", 403), r"no credentials: AssumeRoleWithWebIdentity answered AccessDenied \(said so\)"),
        (error("ExpiredTokenException"), r"answered ExpiredTokenException .*AWS_WEB_IDENTITY_TOKEN_FILE.*tried for"),
    ],
)
def test_a_refused_role_is_not_taken_for_s3s_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Answer, expected: str
) -> None:
    server.script = lambda request, body: Answer(answer.status, b"<ErrorResponse>" + answer.body + b"</ErrorResponse>")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token(tmp_path))
    with pytest.raises(StorageError, match=expected):
        CALLS["read"]()


def test_credentials_that_come_a_moment_later_are_taken(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that fetches them failed once, as when the server of them is busy."""
    monkeypatch.setattr(retries, "FIRST_CONTACT_S", 200.0)  # also where the machine is busy
    given = '{"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "s"}'
    script = f"test -e {tmp_path}/again && echo '{given}' || {{ touch {tmp_path}/again; exit 1; }}"
    (tmp_path / "fetch").write_text(script)
    (tmp_path / "config").write_text(f"[profile late]\ncredential_process = /bin/sh {tmp_path}/fetch\n")
    use_environment({"AWS_ENDPOINT_URL": server.address, "AWS_PROFILE": "late"}, monkeypatch)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    server.script = lambda request, body: Answer(206, b"0123456789", {"ETag": '"1"', "Content-Range": "bytes 0-9/10"})
    assert storage.read_bytes(URI, 0, 10) == b"0123456789"


@pytest.mark.parametrize(
    ("settings", "config", "expected"),
    [
        (
            {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "/no/token"},
            "",
            "settings cannot be used: .*/no/token",
        ),
        ({"AWS_PROFILE": "p"}, "credential_process = /no/program", "settings cannot be used: .*/no/program"),
        (
            {"AWS_PROFILE": "p"},
            "credential_process = /bin/sh -c 'echo broken >&2; exit 3'",
            "no credentials: .*: broken;",
        ),
        (
            {"HTTP_PROXY": "http://u:hidden@127.0.0.1:1", "KEY": "k"},
            "",
            r"cannot reach the proxy http://127.0.0.1:1 \(co",
        ),
        ({"KEY": "k\n"}, "", "holds an end of line; set AWS_ACCESS_KEY_ID"),
        ({"KEY": "k", "HTTPS": "yes"}, "", "does not answer in TLS; give AWS_ENDPOINT_URL with http://"),
        (
            {"KEY": "k", "HTTPS": "yes", "AWS_CA_BUNDLE": "/no/file"},
            "",
            "AWS_CA_BUNDLE .* names no file of certificates",
        ),
    ],
)
def test_settings_that_lead_nowhere(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: dict[str, str],
    config: str,
    expected: str,
) -> None:
    settings = {**settings, "AWS_ENDPOINT_URL": server.address}
    if key := settings.pop("KEY", ""):
        settings |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "very-secret"}
    if settings.pop("HTTPS", ""):
        settings["AWS_ENDPOINT_URL"] = server.address.replace("http:", "https:")
    (tmp_path / "config").write_text(f"[profile p]\n{config}\n")
    use_environment(settings, monkeypatch)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(StorageError, match=expected) as caught:
        storage.read_bytes(URI, 0, 10, deadline_s=0.5)
    assert "\n" not in str(caught.value)
    assert not {"hidden", "secret"} & set(str(caught.value).replace(":", " ").split())


@pytest.mark.parametrize(("config", "style"), [("", "path"), ("s3 =\n  addressing_style = virtual\n", "virtual")])
def test_the_addressing_style_of_the_config_file_counts(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str, style: str
) -> None:
    """Some stores answer to host names of buckets alone."""
    (tmp_path / "config").write_text(f"[default]\n{config}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert s3_client._connection().client.meta.config.s3["addressing_style"] == style
