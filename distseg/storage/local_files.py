"""Local files that appear whole or not at all, and operating system errors as one clear line."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from distseg.errors import StorageError

UNFINISHED = ".distseg-part"  # suffix of a file that is still being written
CHUNK_BYTES = 1 << 20  # how much a copy reads at once

_PROBLEMS = {
    errno.ENOENT: "no such file",
    errno.EACCES: "permission denied; check the owner and mode of the file and its directory",
    errno.EPERM: "operation not permitted here",
    errno.EROFS: "the file system is read-only; choose another directory",
    errno.EISDIR: "is a directory, but a file is expected here",
    errno.ENOTDIR: "this path, or a part of it, is a file where a directory is expected",
    errno.EEXIST: "a file stands where a directory is needed",
    errno.ENOSPC: "the disk is full; free some space or choose another directory",
    errno.EFBIG: "the file would be larger than is allowed; raise the limit (ulimit -f)",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another directory",
}


@contextlib.contextmanager
def local_errors(path: str) -> Iterator[None]:
    """Turns an OSError into a StorageError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {_PROBLEMS.get(error.errno or 0, error.strerror or error)}") from error


def refuse_directory(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "directory")


def is_written_through(path: Path) -> bool:
    """Whether it is no file of a disk but a way to somewhere else: a device, a named pipe, /dev/stdout."""
    if str(path.parent) in ("/dev", "/dev/fd", "/proc/self/fd"):
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def replacing(name: str) -> Iterator[BinaryIO]:
    """A new file that gets its name once it is complete and on disk. Readers see the old file or the new one.

    It has the old one's mode. A link is replaced, too: what it leads to may be somebody's original.
    """
    path = Path(name)
    with local_errors(name):
        if is_written_through(path):
            with path.open("wb") as device:
                yield device
            return
    part = path.parent / f".{uuid.uuid4().hex}{UNFINISHED}"  # same directory, so that the rename is atomic
    with local_errors(name):
        refuse_directory(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if path.is_file():
                shutil.copymode(path, part)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def write_new(name: str, data: bytes) -> bool:
    """Makes a file that appears whole, unless there is one: False. A link, unlike a rename, replaces nothing."""
    path = Path(name)
    part = path.parent / f".{uuid.uuid4().hex}{UNFINISHED}"
    with local_errors(name):
        refuse_directory(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(data)
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            return _write_exclusively(path, data)  # a file system without links
        finally:
            part.unlink(missing_ok=True)
    return True


def _write_exclusively(path: Path, data: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _sync_directory(path: Path) -> None:
    """Without this, a power cut may undo the rename."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
