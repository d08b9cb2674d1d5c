"""Ray Train's way to a run in an object store: names that mean something else in an address are names there."""

import pickle

import pytest
from pyarrow import fs

from distseg import storage
from distseg.errors import ConfigError
from distseg.orchestration import remote_files

ODD = ("a b", "grün", "100%", "a%20b", "a#b", "a?b=c", "a+b&c", "x=y;z", "[a]", "'q'")


@pytest.mark.parametrize("prefix", ODD)
def test_what_ray_writes_lies_where_distseg_writes(moto_s3: str, prefix: str) -> None:
    place = storage.join(moto_s3, prefix, "run")
    files = pickle.loads(pickle.dumps(remote_files.file_system(place)))  # as it goes to Ray's processes
    root = remote_files.path_in(place)
    files.create_dir(root)
    with files.open_output_stream(f"{root}/note.json") as stream:
        stream.write(b"{}")
    storage.write_bytes(storage.join(place, "checkpoint", "weights"), b"123")
    assert sorted(entry.uri for entry in storage.list_files(moto_s3)) == [
        f"{place}/checkpoint/weights",
        f"{place}/note.json",
    ]
    with files.open_input_stream(f"{root}/checkpoint/weights") as stream:
        assert stream.read() == b"123"
    found = {
        info.path.removeprefix(f"{root}/"): (info.type, info.size)
        for info in files.get_file_info(fs.FileSelector(root))
    }
    assert found == {"note.json": (fs.FileType.File, 2), "checkpoint": (fs.FileType.Directory, None)}
    kinds = [files.get_file_info(f"{root}{name}").type for name in ("", "/note.json", "/not")]
    assert kinds == [fs.FileType.Directory, fs.FileType.File, fs.FileType.NotFound]
    files.delete_dir(f"{root}/checkpoint")
    assert [entry.uri for entry in storage.list_files(moto_s3)] == [f"{place}/note.json"]


def test_a_directory_is_left_to_ray(tmp_path: object) -> None:
    assert remote_files.file_system(str(tmp_path)) is None
    assert remote_files.path_in("/a/b") == "/a/b"


@pytest.mark.parametrize("uri", ["s3://b//x", "s3://b/x/../y", "s3://b/./x", "s3://b/x//y"])
def test_a_place_that_ray_would_call_otherwise_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.uri = .*: leave out doubled slashes"):
        remote_files.check_name("checkpoint.uri", uri)
    for sound in ("s3://b", "s3://b/a b#c/", "/a//b"):
        remote_files.check_name("checkpoint.uri", sound)
