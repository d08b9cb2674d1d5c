import os
from pathlib import Path

import pytest

from distseg import storage
from distseg.errors import StorageError


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
