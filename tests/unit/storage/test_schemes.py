"""Which store a URI belongs to, and how a user's own is named."""

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distseg import storage
from distseg.config import CheckpointConfig, RunConfig
from distseg.data.shards import pack
from distseg.data.shards.inspection import verify
from distseg.errors import ConfigError, StorageError
from distseg.orchestration import check_resources
from distseg.storage import join
from tests.readers import train_reader
from tests.toy_data import LABELS, toy_samples


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


def test_boto3_is_imported_when_s3_is_used(moto_s3: str, tmp_path: Path) -> None:
    program = """
import sys
from distseg import storage
storage.write_bytes(f"{sys.argv[1]}/f", b"x")
assert storage.OpenFiles(1).read_bytes(f"{sys.argv[1]}/f", 0, 1) == b"x"
assert not {"boto3", "botocore", "distseg.storage.stores.s3"} & sys.modules.keys()
storage.write_bytes(f"{sys.argv[2]}/f", b"x")
assert {"boto3", "botocore", "distseg.storage.stores.s3"} <= sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program, tmp_path, moto_s3], check=True)


def test_local_paths_need_no_boto3(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['boto3'] = sys.modules['botocore'] = None\n"
        f"from distseg import storage; storage.write_bytes({str(tmp_path / 'f')!r}, b'x')\n"
        f"assert storage.read_bytes({str(tmp_path / 'f')!r}) == b'x'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- a store of one's own


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the working directory."""
    name = f"stores_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from distseg.storage import Store\nnumber = 3\nclass Half(Store):\n    delete = print\n"
    )
    monkeypatch.chdir(tmp_path)
    return name


def test_a_store_of_ones_own_is_made_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="mem://bucket/f: cannot be read or written here"):
        storage.exists("mem://bucket/f")
    monkeypatch.setenv("DISTSEG_STORES", "other=nowhere:Store, mem=examples.own_store:MemoryStore")
    storage.write_bytes("mem://bucket/f", b"data")
    assert storage.read_bytes("mem://bucket/f") == b"data"
    assert storage.is_remote("mem://bucket/f") and not storage.is_s3("mem://bucket/f")
    assert storage.absolute("mem://bucket/d/") == "mem://bucket/d"
    with pytest.raises(StorageError, match="mem:/f: not a place in MEM; write mem://bucket/key"):
        storage.exists("mem:/f")


def test_it_takes_precedence_over_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTSEG_STORES", "s3=examples.own_store:MemoryStore")
    storage.write_bytes("s3://no-server/f", b"data")
    assert storage.read_bytes("s3://no-server/f") == b"data"
    assert storage.is_s3("s3://no-server/f")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("mem", "DISTSEG_STORES = 'mem': give scheme=module:Class, separated by commas"),
        ("a-b=m:C", "DISTSEG_STORES = 'a-b=m:C': give scheme=module:Class"),
        ("mem=MODULE", "DISTSEG_STORES mem 'MODULE': give it as module:class"),
        ("mem=nowhere:Store", "DISTSEG_STORES mem 'nowhere:Store': cannot import nowhere ("),
        ("mem=MODULE:Haff", "DISTSEG_STORES mem 'MODULE:Haff': MODULE has no class Haff; did you mean 'Half'?"),
        ("mem=MODULE:number", "DISTSEG_STORES mem: 3 is not a class derived from distseg.storage.Store"),
        (
            "mem=MODULE:Half",
            "DISTSEG_STORES mem: Half lacks exists, list_files, num_bytes, open_read",
        ),
    ],
)
def test_what_cannot_be_a_store_is_named(
    module: str, named: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTSEG_STORES", named.replace("MODULE", module))
    with pytest.raises(ConfigError, match=re.escape(expected.replace("MODULE", module))) as caught:
        storage.exists("mem://bucket/f")
    assert "\n" not in str(caught.value)


def test_local_paths_and_s3_do_not_ask_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moto_s3: str) -> None:
    monkeypatch.setenv("DISTSEG_STORES", "mem=nowhere:Store")
    assert not storage.exists(str(tmp_path / "a:b"))
    assert not storage.exists(join(moto_s3, "f"))


def test_a_data_set_is_packed_and_read_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISTSEG_STORES", "mem=examples.own_store:MemoryStore")
    local, remote = (
        pack({"train": toy_samples(12)}, LABELS, uri, dataset="toy", max_samples_per_shard=4)
        for uri in (str(tmp_path / "packed"), f"mem://{tmp_path.name}/packed")
    )
    assert remote.digest == local.digest
    assert verify(remote.uri) == []
    batches = []
    for manifest, cache_bytes in ((local, 0), (remote, 0), (remote, 1 << 20)):
        with train_reader(
            manifest,
            manifest.shards,
            batch_size=4,
            crop_px=(20, 20),
            augment=None,
            seed=0,
            shuffle_window=4,
            cache_dir=str(tmp_path / "cache"),
            cache_bytes=cache_bytes,
        ) as reader:
            batches.append([batch.keys for batch in itertools.islice(reader, 6)])
        has_kept = any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
        assert has_kept == bool(cache_bytes), "as with any store, shards are kept on this machine's disk if they may be"
    assert batches[0] == batches[1] == batches[2]


def test_checkpoints_cannot_be_kept_there_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTSEG_STORES", "mem=examples.own_store:MemoryStore")
    config = RunConfig(name="r", checkpoint=CheckpointConfig(uri="mem://bucket/runs"))
    with pytest.raises(ConfigError, match=r"checkpoint.uri = mem://bucket/runs: Ray keeps checkpoints in directories"):
        check_resources(config)
