"""What an imitation cannot show: a real server's checks of credentials, its large uploads, its restart."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from distseg import storage
from distseg.errors import StorageError
from distseg.runs import lease
from distseg.storage import bucket_and_key, join, s3_multipart
from tests.conftest import free_port, run_script, short_directory, sourced, use_environment

pytestmark = pytest.mark.servers


def test_round_trip(s3_uri: str) -> None:
    storage.check_writable(s3_uri)
    for name in ("a/x", "a-b", "ä ö+%&?.txt", "empty"):
        storage.write_bytes(join(s3_uri, name), b"" if name == "empty" else name.encode())
    names = sorted(["a/x", "a-b", "ä ö+%&?.txt", "empty"])
    assert [entry.uri for entry in storage.list_files(s3_uri)] == [join(s3_uri, name) for name in names]
    assert storage.read_bytes(join(s3_uri, "ä ö+%&?.txt"), 1) == "ä ö+%&?.txt".encode()[1:]
    assert storage.num_bytes(join(s3_uri, "empty")) == 0
    assert storage.read_bytes(join(s3_uri, "empty"), 0, 9) == storage.read_bytes(join(s3_uri, "a-b"), 3, 9) == b""
    assert not storage.exists(join(s3_uri, "a"))
    storage.delete(join(s3_uri, "empty"))
    storage.delete_tree(join(s3_uri, "a"))
    assert len(list(storage.list_files(s3_uri))) == 2


def test_multipart_upload_and_ranges_by_threads(s3_uri: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(data := os.urandom((33 << 20) + 7))
    uri = join(s3_uri, "large")
    storage.upload(tmp_path / "in", uri)
    storage.download(uri, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    starts = range(0, len(data), 999_983)
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(lambda start: storage.read_bytes(uri, start, 999_983), starts))
    assert b"".join(parts) == data


def test_a_failed_upload_leaves_no_parts(s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(b"x" * (17 << 20))
    monkeypatch.setattr(s3_multipart, "PART_BYTES", 1 << 20)  # too small for S3, which refuses to complete it
    with pytest.raises(StorageError, match="EntityTooSmall"):
        storage.upload(tmp_path / "in", join(s3_uri, "large"))
    bucket, _ = bucket_and_key(s3_uri)
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)
    assert not storage.exists(join(s3_uri, "large"))


def test_an_object_replaced_while_it_is_read(s3_uri: str) -> None:
    uri = join(s3_uri, "k")
    storage.write_bytes(uri, b"a" * (8 << 20))
    with storage.open_read(uri) as stream:
        stream.read(1000)
        storage.write_bytes(uri, b"b" * (8 << 20))
        stream.raw._body.close()  # type: ignore[attr-defined]  # as if the connection broke
        stream.raw._body = None  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match="changed while it was being read"):
            stream.read()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "wrong credentials for http://.*AWS_SECRET_ACCESS_KEY does not belong"),
        ("AWS_ACCESS_KEY_ID", "wrong", "does not know the key id; check AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_credentials(s3_uri: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    uri = join(s3_uri, "k")
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv(name, value)
    for call in (storage.read_bytes, storage.exists, storage.num_bytes, storage.check_writable):
        with pytest.raises(StorageError, match=expected) as caught:
            call(uri)
        assert secret not in str(caught.value)
    with pytest.raises(StorageError, match=expected):
        list(storage.list_files(s3_uri))


def test_access_denied_and_what_is_not_there(s3_uri: str) -> None:
    bucket, _ = bucket_and_key(s3_uri)
    denial = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:*Object",'
    boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=f'{denial}"Resource":"arn:aws:s3:::{bucket}/no/*"}}]}}')
    with pytest.raises(StorageError, match="access denied by http://"):
        storage.write_bytes(join(s3_uri, "no", "k"), b"")
    with pytest.raises(StorageError, match=re.escape(join(s3_uri, "none")) + ": no such key"):
        storage.read_bytes(join(s3_uri, "none"))
    with pytest.raises(StorageError, match="no such bucket"):
        storage.exists(f"s3://{bucket}-not/k")


@pytest.fixture(scope="module")
def own_server() -> Iterator[dict[str, str]]:
    """S3_STATE and S3_PORT of a server that tests may stop; its environment is in the state directory."""
    parent = short_directory()
    settings = {"S3_STATE": str(parent / "s"), "S3_PORT": str(free_port(2))}
    try:
        run_script("infra/s3_server.sh", "start", env=settings)
        yield settings
    finally:
        run_script("infra/s3_server.sh", "wipe", env=settings)
        parent.rmdir()


def test_a_restarted_server_keeps_data_and_readers(
    monkeypatch: pytest.MonkeyPatch, own_server: dict[str, str], s3_server: dict[str, str]
) -> None:
    use_environment(sourced(Path(own_server["S3_STATE"]) / "env"), monkeypatch)
    storage.write_bytes("s3://distseg/k", data := os.urandom(64 << 20))
    with storage.open_read("s3://distseg/k") as stream:
        head = stream.read(1000)
        run_script("infra/s3_server.sh", "stop", env=own_server)
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(stream.read)
            run_script("infra/s3_server.sh", "start", env=own_server)
            assert head + rest.result(timeout=300) == data


def write_and_delete(uri: str) -> None:
    storage.write_bytes(join(uri, "new", "a"), b"a")
    storage.upload(__file__, join(uri, "new", "b"))
    storage.delete_unfinished(join(uri, "new"))
    storage.delete_tree(join(uri, "new"))
    assert not storage.exists(join(uri, "new", "a"))


def overwrite(uri: str) -> None:
    storage.write_bytes(join(uri, "kept"), b"by another")


def delete(uri: str) -> None:
    storage.delete(join(uri, "kept"))


def delete_several(uri: str) -> None:
    storage.delete_tree(uri)


def read(uri: str) -> None:
    assert storage.read_bytes(join(uri, "kept")) == b"kept"
    assert [entry.uri for entry in storage.list_files(uri)] == [join(uri, "kept")]


PLACES = ("data", "runs", "else")
WRITES = {"packer": ("data",), "trainer": ("runs",), "reviewer": ()}
READS = {"packer": ("data",), "trainer": ("data", "runs"), "reviewer": ("data", "runs")}


@pytest.mark.parametrize("role", WRITES)
def test_a_role_may_do_what_its_policy_says_and_nothing_else(
    role: str, own_server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Path(own_server["S3_STATE"])
    use_environment(sourced(state / "env"), monkeypatch)
    for place in PLACES:
        storage.write_bytes(f"s3://distseg/{place}/kept", b"kept")
    run_script("infra/s3_server.sh", "roles", "distseg", env=own_server)
    use_environment(sourced(state / f"{role}.env"), monkeypatch)
    for place in PLACES:
        uri = f"s3://distseg/{place}"
        if place in READS[role]:
            read(uri)
        if place in WRITES[role]:
            write_and_delete(uri)
        refused = [] if place in READS[role] else [read]
        refused += [] if place in WRITES[role] else [overwrite, delete, delete_several]
        for call in refused:
            with pytest.raises(StorageError, match=r"(?i)access ?denied"):
                call(uri)
    client = boto3.Session().client("s3")
    forbidden: list[Callable[[], object]] = [
        lambda: client.list_objects_v2(Bucket="mlflow"),
        lambda: client.create_bucket(Bucket=f"of-{role}"),
        lambda: client.put_bucket_policy(Bucket="distseg", Policy="{}"),
        lambda: client.delete_bucket(Bucket="distseg"),
    ]
    for ask in forbidden:
        with pytest.raises(ClientError, match=r"AccessDenied|TooManyBuckets"):
            ask()
    use_environment(sourced(state / "env"), monkeypatch)
    assert [storage.read_bytes(f"s3://distseg/{place}/kept") for place in PLACES] == [b"kept"] * 3


def test_of_many_that_create_a_file_at_once_one_does(s3_uri: str) -> None:
    """What the lock of a run rests on: conditional writes, which not every server of S3 has."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            uri = f"{s3_uri}/{number}/lock.json"
            made = list(pool.map(storage.create, [uri] * 8, [str(i).encode() for i in range(8)]))
            assert sum(made) == 1
            assert storage.read_bytes(uri) == str(made.index(True)).encode()


def test_a_second_process_on_a_run_in_s3_is_refused(s3_uri: str) -> None:
    with lease.taken(f"{s3_uri}/run", "is training it"):
        code = f"from distseg.runs import lease\nwith lease.taken({s3_uri + '/run'!r}, 'is training it'): pass"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert f"process {os.getpid()} on" in other.stderr.splitlines()[-1]
        assert "TrainingError" in other.stderr.splitlines()[-1]
    assert not storage.exists(f"{s3_uri}/run/{lease.FILE}")
