import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def test_what_is_no_file_of_a_disk_is_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    storage.check_file_writable(str(pipe))
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        storage.write_bytes(str(pipe), b"through it")
        assert read.result() == b"through it"
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
    storage.check_file_writable("/dev/null")
    storage.write_bytes("/dev/null", b"gone")
    assert Path("/dev/null").is_char_device()


def test_a_programs_own_output_is_written_to_be_it_a_file_or_a_pipe(tmp_path: Path) -> None:
    code = "from distseg import storage; storage.write_bytes('/dev/stdout', b'one')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"one"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"one"
    assert Path("/dev/stdout").is_symlink()


def test_a_file_that_is_replaced_keeps_its_mode_and_a_link_is_replaced(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_bytes(b"old")
    private.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(private)
    storage.write_bytes(str(private), b"new")
    assert private.stat().st_mode & 0o777 == 0o600
    storage.write_bytes(str(link), b"newer")
    assert (private.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"new", b"newer", False)


def test_check_file_writable_takes_no_directory_and_leaves_nothing(tmp_path: Path) -> None:
    storage.check_file_writable(str(tmp_path / "a" / "b.json"))
    assert list(tmp_path.iterdir()) == []
    for name in (str(tmp_path), f"{tmp_path}/b.json/"):
        with pytest.raises(StorageError, match="is a directory, but a file is expected here"):
            storage.check_file_writable(name)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"a file stands where a directory is needed|a part of it, is a file"):
        storage.check_file_writable(str(tmp_path / "file" / "b.json"))


def test_pipes_are_not_listed_since_who_opens_one_waits_for_its_writer(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    os.mkfifo(tmp_path / "b.jpg")
    assert list(storage.list_files(str(tmp_path))) == [storage.Entry(f"{tmp_path}/a.jpg", 5)]


def test_a_file_that_is_removed_while_others_are_listed_is_not_there(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    listing = storage.list_files(str(tmp_path))
    assert next(listing).uri == f"{tmp_path}/a"
    (tmp_path / "b").unlink()
    assert [entry.uri for entry in listing] == [f"{tmp_path}/c"]


def test_a_place_is_within_another_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photographs")
    photographs = str(tmp_path / "photographs")
    for uri in (photographs, f"{photographs}/out", f"{tmp_path}/x/../photographs/out", f"{tmp_path}/link/out"):
        assert storage.is_within(uri, photographs) and storage.is_within(uri, f"{photographs}/")
    assert not storage.is_within(f"{photographs}-2/out", photographs)
    assert storage.is_within("s3://b/p/out", "s3://b/p/") and not storage.is_within("s3://b/p2", "s3://b/p")
