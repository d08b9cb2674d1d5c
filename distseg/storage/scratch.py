"""Temporary directories on this machine that a killed process does not leave there for ever.

Each process has one directory below the system's for temporary files, and holds its lock. A process that begins removes
those of this user whose lock nobody holds: their processes are dead. Locks of files (flock) end with their process, and
hold between containers that share the directory.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from distseg.storage.local_files import local_errors

_LOCK_FILE = ".lock"
_NEW_LOCK_FILE = ".lock.new"
_UNLOCKED_S = 60.0  # so long may a new directory be without its lock

_own: dict[int, tuple[Path, int]] = {}  # by process, as it may be forked: its directory, and the handle of the lock


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new directory, removed at the end of the block."""
    folder = new_scratch_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_scratch_folder() -> Path:
    """A new directory, which whoever needs it removes. Raises StorageError, as on a full disk."""
    with local_errors(tempfile.gettempdir()):
        return Path(tempfile.mkdtemp(dir=_own_folder()))


def _own_folder() -> Path:
    known = _own.get(os.getpid())
    if known is not None and known[0].is_dir() and known[0].parent == Path(tempfile.gettempdir()):
        return known[0]
    prefix = f"distseg-{os.getuid()}-"
    _remove_left(prefix)
    path = Path(tempfile.mkdtemp(prefix=prefix))
    handle = os.open(path / _NEW_LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    (path / _NEW_LOCK_FILE).rename(path / _LOCK_FILE)  # held when it gets its name: another process may look just then
    _own[os.getpid()] = path, handle
    atexit.register(_remove_own, os.getpid())
    return path


def _remove_own(process: int) -> None:
    if process == os.getpid() and process in _own:
        shutil.rmtree(_own[process][0], ignore_errors=True)


def _remove_left(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid() and not folder.is_symlink() and not _is_held(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_held(folder: Path) -> bool:
    try:
        handle = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime < _UNLOCKED_S
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
