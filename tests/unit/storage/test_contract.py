"""One contract for every store: local files, S3, and a store of a user's own."""

import os
import re
from pathlib import Path

import pytest

from distseg import storage
from distseg.errors import StorageError
from distseg.storage import Entry, join


@pytest.fixture(params=["local", "s3", "own"])
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A directory in which nothing is; a new store is tested by one line more."""
    if request.param == "local":
        return str(tmp_path / "store")
    if request.param == "s3":
        return join(request.getfixturevalue("moto_s3"), "store")
    monkeypatch.setenv("DISTSEG_STORES", "mem=examples.own_store:MemoryStore")
    return f"mem://{tmp_path.name}/store"


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


def test_delete_tree_refuses_too_much(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTSEG_STORES", "mem=examples.own_store:MemoryStore")
    for uri in ("/", "", "/tmp/..", moto_s3, moto_s3 + "/", "mem://bucket", "mem://bucket/"):
        with pytest.raises(StorageError, match="refusing to delete"):
            storage.delete_tree(uri)
