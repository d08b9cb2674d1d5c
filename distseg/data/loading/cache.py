"""Keeps remote shards as whole files on a node's disk, each fetched once for all ranks of the node.

    cache = ShardCache(folder, max_bytes)
    cache.fetch(manifest, shard)                            fetches it in the background, unless it is there
    cache.read_bytes(manifest, shard, uri, start, length)   from the file if it is there; else from its store
    cache.hold(), cache.go_on_after(futures)                pauses fetching until the futures are done
    cache.is_far_ahead()                                    enough is fetched, or will be, that was not read yet

Reading never waits for the cache: a range that is not on the disk yet is read from its store. So neither the first
batches nor a full disk delay a training.

A shard is fetched into `<SHA-256>.part`, which is renamed to `<SHA-256>.tar` when it is complete. The process that
holds the lock of the `.part` downloads it; the others skip it. A killed process loses its lock (flock) and leaves at
most a `.part`, which is written anew. Readers verify the CRC of each sample, so damage of any age is found; `forget`
then removes the file.

Disk: all processes of a node together use at most max_bytes, and at most half of what was free, `.part`s included. The
files unused for longest are removed first, but none used within KEPT_S: if all are in use, nothing more is fetched. The
space of a removed file that another process has open is free when that process reads again; each process has at most
128 files open. Memory: NUM_FETCHING buffers of PIECE_BYTES.
"""

import contextlib
import fcntl
import logging
import math
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from distseg import storage
from distseg.data.loading.threads import DaemonThreads
from distseg.data.shards import Manifest, ReadRange, Shard
from distseg.errors import StorageError

PIECE_BYTES = 4 << 20
NUM_FETCHING = 4  # shards at a time; more would slow down the decoding of samples that are needed now
AHEAD_SHARE = 1 / 16  # of max_bytes: what one rank may fetch before it is read; of eight ranks that is half of it
KEPT_S = 60.0
_TOUCHED_S = 5.0  # the time of last use is written to a file at most this often
_MAX_OPEN = 128  # files
_NOT_AGAIN_S = 5.0  # a shard that another process fetches, or that had no room, is not tried again before this

_log = logging.getLogger(__name__)


class ShardCache:
    """Owns threads, so it must be closed."""

    def __init__(self, folder: str, max_bytes: int, *, deadline_s: float = storage.DEADLINE_S) -> None:
        """`folder`: if empty, one for this user in the system's directory for temporary files."""
        self._folder = Path(folder or Path(tempfile.gettempdir()) / f"distseg-shards-{os.getuid()}")
        self._folder_name = str(self._folder)  # joining a Path takes longer than opening the file
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._files = storage.OpenFiles(_MAX_OPEN)
        self._open_since_s = (
            time.monotonic()
        )  # open files are closed now and then, so that removed ones free their space
        self._not_before_s: dict[str, float] = {}  # by SHA-256: when fetching may be tried
        self._touched_s: dict[str, float] = {}
        self._unread: dict[str, int] = {}  # SHA-256 -> bytes: shards that this process asked for and has not read yet
        self._buffers: deque[bytearray] = deque()  # of PIECE_BYTES, used again: new memory costs a fault per page
        self._lock = threading.Lock()
        self._is_closed = False
        self._may_fetch = threading.Event()
        self._may_fetch.set()
        self._threads = DaemonThreads(NUM_FETCHING, name="distseg-cache")
        weakref.finalize(self, self._threads.close)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._folder.stat().st_uid != os.getuid():  # others can write there, too
                raise StorageError(f"data.cache_dir {self._folder}: belongs to another user; give another")
            free = shutil.disk_usage(self._folder).free + sum(file.num_bytes for file in self._held())
        except OSError as error:
            problem = f"{error.strerror}; give another, or data.cache_bytes 0"
            raise StorageError(f"data.cache_dir {self._folder}: {problem}") from None
        self._max_bytes = min(max_bytes, free // 2)

    def close(self) -> None:
        self._is_closed = True
        self._may_fetch.set()
        self._threads.close()

    def hold(self) -> None:
        """Fetches nothing until `go_on_after` says so. For the first batches, which need the network themselves."""
        self._may_fetch.clear()

    def go_on_after(self, needed: Sequence[Future[Any]]) -> None:
        """Fetches again as soon as all of these are done, with a result or an error."""

        def look(_: object) -> None:
            if all(future.done() for future in needed):
                self._may_fetch.set()

        for future in needed:
            future.add_done_callback(look)
        look(None)

    def read_bytes(
        self,
        manifest: Manifest,
        shard: Shard,
        uri: str,
        start: int,
        length: int,
        *,
        deadline_s: float,
        otherwise: ReadRange | None = None,
    ) -> bytes:
        """As `storage.read_bytes`. `otherwise` reads what the cache does not have; by default `storage.read_bytes`."""
        self._unread.pop(shard.sha256, None)
        data = self._files.read_if_there(path := f"{self._folder_name}/{shard.sha256}.tar", start, length)
        if data is not None:
            self._touch(shard, path)
            return data
        self.fetch(manifest, shard)
        self._unread.pop(shard.sha256, None)
        return (otherwise or storage.read_bytes)(uri, start, length, deadline_s=deadline_s)

    def fetch(self, manifest: Manifest, shard: Shard) -> None:
        if (now_s := time.monotonic()) < self._not_before_s.get(shard.sha256, 0.0):
            return
        with self._lock:
            if now_s < self._not_before_s.get(shard.sha256, 0.0):
                return
            is_there = self._path(shard).exists()
            self._not_before_s[shard.sha256] = now_s + _NOT_AGAIN_S if is_there else math.inf
        if is_there:
            return
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._unread[shard.sha256] = shard.num_bytes
            self._threads.submit(self._try_to_fetch, manifest, shard)

    def is_far_ahead(self) -> bool:
        """Whether fetching more, on all ranks of a node, could remove shards from the cache before they are read."""
        return sum(tuple(self._unread.values())) > self._max_bytes * AHEAD_SHARE

    def forget(self, shard: Shard) -> None:
        """Removes a shard's file, because it is damaged."""
        self._path(shard).unlink(missing_ok=True)
        self._files.close()

    def _path(self, shard: Shard) -> Path:
        return self._folder / f"{shard.sha256}.tar"

    def _touch(self, shard: Shard, path: str) -> None:
        now_s = time.monotonic()
        if now_s - self._touched_s.get(shard.sha256, -math.inf) > _TOUCHED_S:
            self._touched_s[shard.sha256] = now_s
            with contextlib.suppress(FileNotFoundError):  # removed by hand
                os.utime(path)
        if now_s - self._open_since_s > KEPT_S / 2:
            self._open_since_s = now_s
            self._files.close()

    # ---- fetching, by threads

    def _try_to_fetch(self, manifest: Manifest, shard: Shard) -> None:
        self._may_fetch.wait()
        try:
            self._fetch(manifest, shard)
            self._not_before_s[shard.sha256] = time.monotonic() + _NOT_AGAIN_S
        except (OSError, StorageError) as error:  # a reader that needs the shard gets the error, too, and reports it
            if not self._is_closed:
                _log.warning("%s: left out of the cache in %s: %s", shard.name, self._folder, error)

    def _fetch(self, manifest: Manifest, shard: Shard) -> None:
        path = self._path(shard)
        part = path.with_suffix(".part")
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _locked(handle) or not _is_still(part, handle):
                return  # another process fetches it, or has just done so
            if not path.exists() and self._make_room(handle, shard.num_bytes):
                self._fill(handle, storage.join(manifest.uri, shard.name), shard)
                with self._one_process():
                    if _is_still(part, handle):
                        part.rename(path)
            part.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def _fill(self, handle: int, uri: str, shard: Shard) -> None:
        buffer = self._buffers.pop() if self._buffers else bytearray(PIECE_BYTES)
        for start in range(0, shard.num_bytes, PIECE_BYTES):
            if self._is_closed:
                raise StorageError("closed")
            view = memoryview(buffer)[: shard.num_bytes - start]
            piece = view[: storage.read_into(view, uri, start, deadline_s=self._deadline_s)]
            if len(piece) < len(view):
                raise StorageError("shorter than when it was packed; python -m distseg.pack verify tells more")
            os.pwrite(handle, piece, start)
        self._buffers.append(buffer)

    def _make_room(self, handle: int, num_bytes: int) -> bool:
        """Gives the open `.part` its full size, which other processes then count as used. False: there is no room.

        The lock file holds an upper bound of the bytes in use. Only when that leaves no room are the files counted, and
        old ones removed: listing them each time would take as long as fetching a shard.
        """
        if num_bytes > self._max_bytes:
            return False
        with self._one_process() as ledger:
            os.ftruncate(handle, 0)  # a killed process may have left its size
            noted = ledger.read()
            taken = int(noted) if noted.isdigit() else self._max_bytes
            if taken + num_bytes > self._max_bytes:
                held = self._held()
                taken = sum(file.num_bytes for file in held)
                if (surplus := taken + num_bytes - self._max_bytes) > 0:
                    taken -= self._thrown_out(held, surplus + self._max_bytes // num_bytes // 32 * num_bytes)
            has_room = taken + num_bytes <= self._max_bytes
            ledger.seek(0)
            ledger.truncate()
            ledger.write(str(taken + num_bytes * has_room))
            if has_room:
                os.ftruncate(handle, num_bytes)
            return has_room

    def _thrown_out(self, held: list["_Held"], num_bytes: int) -> int:
        """Removes the files unused for longest, until `num_bytes` are freed or all others are in use. Returns bytes."""
        removed, now_s = 0, time.time()
        # Used in the future: before the clock was set back, and not since.
        unused_s = {file: now_s - file.used_s if file.used_s <= now_s else math.inf for file in held}
        for file in sorted(held, key=lambda file: -unused_s[file]):
            if removed >= num_bytes or unused_s[file] <= KEPT_S:
                break
            Path(file.path).unlink(missing_ok=True)
            removed += file.num_bytes
        return removed

    @contextlib.contextmanager
    def _one_process(self) -> Iterator[TextIO]:
        with (self._folder / "lock").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file

    def _held(self) -> list["_Held"]:
        found = []
        with os.scandir(self._folder) as files:
            for file in files:
                if not file.name.endswith((".tar", ".part")):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat()
                    found.append(_Held(file.path, status.st_size, status.st_mtime))
        return found


class _Held(NamedTuple):
    path: str
    num_bytes: int
    used_s: float  # time of last use


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, handle: int) -> bool:
    """Whether the path still names the open file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False
