import subprocess
import sys
from pathlib import Path

import pytest

from distseg import storage
from distseg.errors import StorageError
from distseg.storage.local_files import local_errors, replacing


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


def test_a_full_disk_is_named() -> None:
    full_disk = pytest.raises(StorageError, match="/dev/full: the disk is full")
    with full_disk, local_errors("/dev/full"), open("/dev/full", "wb", buffering=0) as file:
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
    with pytest.raises(ZeroDivisionError), replacing(str(path)) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    with replacing(str(tmp_path / "f")) as file:
        file.write(b"x")
        assert list(storage.list_files(str(tmp_path))) == []
    assert [entry.num_bytes for entry in storage.list_files(str(tmp_path))] == [1]


def test_files_get_the_usual_mode(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "ours"), b"")
    (tmp_path / "usual").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_check_writable_leaves_no_directory_that_it_made(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    storage.check_writable(str(there))
    storage.check_writable(str(tmp_path / "not" / "there"))
    assert list(tmp_path.iterdir()) == [there]


def test_the_lock_of_an_editor_is_no_file_and_another_broken_link_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / ".#a.png").symlink_to("somebody@host.12:1700000000")
    assert [entry.uri for entry in storage.list_files(str(tmp_path))] == [str(tmp_path / "a.png")]
    (tmp_path / "b.png").symlink_to("gone.png")
    with pytest.raises(StorageError, match=r"b\.png"):
        list(storage.list_files(str(tmp_path)))
