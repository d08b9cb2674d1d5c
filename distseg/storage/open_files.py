"""Reading ranges of local files that stay open: opening a file costs more than reading a sample from it."""

import functools
import os

from distseg.storage.schemes import store_of
from distseg.storage.store import DEADLINE_S


class OpenFiles:
    """Reads ranges of local files and keeps the most recently used ones open.

    May be used by several threads. A file that is replaced meanwhile is read as it was, until `close`.
    """

    def __init__(self, max_open: int) -> None:
        self._open = functools.lru_cache(max_open)(_OpenFile)

    def read_bytes(self, uri: str, start: int, length: int, *, deadline_s: float = DEADLINE_S) -> bytes:
        """As `storage.read_bytes`."""
        data = self.read_if_there(uri, start, length)
        if data is None or len(data) < length:
            return store_of(uri).read_bytes(uri, start, length, deadline_s)
        return data

    def read_if_there(self, path: str, start: int, length: int) -> bytes | None:
        """May return fewer bytes than `length`; None if the file cannot be opened or read."""
        try:
            return self._open(path).read(start, length)
        except OSError:
            return None

    def close(self) -> None:
        """Closes all files that no thread is reading; the next read opens its file again."""
        self._open.cache_clear()


class _OpenFile:
    """Closed once nothing refers to it; a thread that reads does."""

    def __init__(self, path: str) -> None:
        self._handle = -1
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, start: int, length: int) -> bytes:
        """May return fewer bytes. Uses no file object, which would cost training more than the read itself."""
        return os.pread(self._handle, length, start)

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
