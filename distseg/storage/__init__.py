"""The only door to files and S3. A `uri` is `s3://bucket/key` or a local path; a `path` is always local.

The same calls do the same on both, with S3's rules where they differ: writing makes missing directories, a file appears
whole or not at all, deleting what is not there is no error, a listing is sorted by full name and of nothing is empty.

Credentials and the server come from the usual AWS environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, a profile, a role).
What can pass is retried until `deadline_s` seconds have gone without progress (`distseg.s3` says what can).
Every failure is a StorageError of one line: the uri, what is wrong, what to do. Without S3, boto3 is not needed.
"""

import contextlib
import errno
import functools
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from distseg.errors import StorageError
from distseg.storage import s3

DEADLINE_S = 300.0
_UNFINISHED = ".distseg-part"  # suffix of a local file still being written
_CHUNK_BYTES = 1 << 20


class Entry(NamedTuple):
    """One file of a listing."""

    uri: str
    num_bytes: int


# ---- names


def is_s3(uri: str) -> bool:
    """True for s3://bucket…, False for a local path; raises StorageError for anything else with a scheme."""
    scheme, colon, rest = uri.partition(":")
    if scheme == "s3" and colon:
        if rest.startswith("//") and rest[2:3] not in ("", "/"):
            return True
        raise StorageError(f"{uri}: not a place in S3; write s3://bucket/key")
    if colon and rest.startswith("/") and scheme.isalnum():
        raise StorageError(f"{uri}: cannot be read or written here; use s3://bucket/key or a local path")
    return False


def join(uri: str, *parts: str) -> str:
    """`uri` and `parts` with one slash between each; the same for S3 and local paths."""
    tail = [part.strip("/") for part in parts if part.strip("/")]
    if not uri or not tail:
        return "/".join(tail) or uri
    return "/".join([uri.rstrip("/"), *tail])


def absolute(uri: str) -> str:
    """What a path means here, for those who work elsewhere. S3 uris stay as they are, without a slash at the end."""
    return uri.rstrip("/") if is_s3(uri) else str(Path(uri).absolute())


# ---- reading


def read_bytes(uri: str, start: int = 0, length: int | None = None, *, deadline_s: float = DEADLINE_S) -> bytes:
    """Bytes [start, start + length) of a file, or to its end; fewer only where the file ends."""
    if is_s3(uri):
        with s3.S3File(uri, start, length, deadline_s) as source:
            return source.readall()
    with _local_errors(uri), Path(uri).open("rb") as file:
        file.seek(start)
        return file.read(-1 if length is None else length)


def read_into(view: memoryview, uri: str, start: int = 0, *, deadline_s: float = DEADLINE_S) -> int:
    """As `read_bytes`, to memory that is there: as many bytes as it holds; how many they were."""
    if is_s3(uri):
        with s3.S3File(uri, start, len(view), deadline_s) as source:
            return source.fill(view)
    with _local_errors(uri), Path(uri).open("rb", buffering=0) as file:
        file.seek(start)
        done = 0
        while done < len(view) and (num_read := file.readinto(view[done:])):
            done += num_read
        return done


class OpenFiles:
    """Ranges of local files, of which those used last stay open: to open one costs more than to read a sample.

    May be used by several threads. A file that is replaced meanwhile is read as it was, until `close`.
    """

    def __init__(self, max_open: int) -> None:
        self._open = functools.lru_cache(max_open)(_OpenFile)

    def read_bytes(self, uri: str, start: int, length: int, *, deadline_s: float = DEADLINE_S) -> bytes:
        """As the function of that name."""
        data = self.read_if_there(uri, start, length)
        if data is None or len(data) < length:
            return read_bytes(uri, start, length, deadline_s=deadline_s)
        return data

    def read_if_there(self, path: str, start: int, length: int) -> bytes | None:
        """Perhaps less than is asked for; None if the file cannot be opened or read."""
        try:
            return self._open(path).read(start, length)
        except OSError:
            return None

    def close(self) -> None:
        """Closes what no thread is reading; the next read opens it anew."""
        self._open.cache_clear()


class _OpenFile:
    """Closed when nothing refers to it, which a thread that reads does."""

    def __init__(self, path: str) -> None:
        self._handle = -1
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, start: int, length: int) -> bytes:
        """Perhaps less than is asked for. Without a file object, which costs training more than the read itself."""
        return os.pread(self._handle, length, start)

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)


def open_read(uri: str, *, deadline_s: float = DEADLINE_S) -> BinaryIO:
    """A stream from the start of the file. A broken connection is resumed; a changed object raises StorageError."""
    if is_s3(uri):
        return cast(BinaryIO, io.BufferedReader(s3.S3File(uri, 0, None, deadline_s), _CHUNK_BYTES))
    with _local_errors(uri):
        return Path(uri).open("rb")


def exists(uri: str, *, deadline_s: float = DEADLINE_S) -> bool:
    """Is there a file (not a directory) of this name? A bucket that is not there is an error, not a no."""
    if is_s3(uri):
        return s3.num_bytes(uri, deadline_s) is not None
    with _local_errors(uri):
        return Path(uri).is_file()


def folder_exists(uri: str, *, deadline_s: float = DEADLINE_S) -> bool:
    """Is there a directory of this name? In S3 it is what has files below it."""
    if is_s3(uri):
        return next(list_files(uri, deadline_s=deadline_s), None) is not None
    with _local_errors(uri):
        return Path(uri).is_dir()


def num_bytes(uri: str, *, deadline_s: float = DEADLINE_S) -> int:
    """The size of a file."""
    if is_s3(uri):
        size = s3.num_bytes(uri, deadline_s)
        if size is None:
            raise StorageError(f"{uri}: no such key in the bucket")
        return size
    with _local_errors(uri):
        _refuse_directory(Path(uri))
        return Path(uri).stat().st_size


def list_files(uri: str, *, deadline_s: float = DEADLINE_S) -> Iterator[Entry]:
    """All files below a directory, however deep, sorted by full name; none if the directory is not there."""
    if is_s3(uri):
        return (Entry(*found) for found in s3.list_objects(uri, deadline_s))
    return _list_local(uri)


def _list_local(uri: str) -> Iterator[Entry]:
    with _local_errors(uri):
        try:
            found = list(os.scandir(uri or "."))
        except FileNotFoundError:
            return
        # As S3 sorts: a directory by its name with the slash, so that `a-b` comes before `a/x`.
        found.sort(key=lambda entry: entry.name + "/" * entry.is_dir())
    for entry in found:
        if entry.is_dir():
            yield from _list_local(join(uri, entry.name))
        elif not entry.name.endswith(_UNFINISHED):
            with _local_errors(entry.path):
                size = entry.stat().st_size
            yield Entry(join(uri, entry.name), size)


def list_folders(uri: str, *, deadline_s: float = DEADLINE_S) -> list[str]:
    """The names of the directories right below a directory, sorted; none if the directory is not there."""
    if is_s3(uri):
        return sorted(s3.list_prefixes(uri, deadline_s))
    with _local_errors(uri), contextlib.suppress(FileNotFoundError):
        return sorted(entry.name for entry in os.scandir(uri or ".") if entry.is_dir())
    return []


# ---- writing


def write_bytes(uri: str, data: bytes, *, deadline_s: float = DEADLINE_S) -> None:
    """Writes a small file whole (an S3 put; locally a temporary file renamed over the name)."""
    if is_s3(uri):
        s3.put(uri, data, deadline_s)
        return
    with _replacing(uri) as file:
        file.write(data)


def upload(path: str | os.PathLike[str], uri: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Copies a local file to `uri`, in parts if it is large; a failed upload leaves nothing behind."""
    to_s3 = is_s3(uri)
    with _local_errors(str(path)), Path(path).open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        if not to_s3:
            with _replacing(uri) as file:
                shutil.copyfileobj(source, file, _CHUNK_BYTES)
        elif size <= s3.PART_BYTES:
            s3.put(uri, source.read(), deadline_s)
        else:
            s3.put_in_parts(uri, source.fileno(), size, deadline_s)


def download(uri: str, path: str | os.PathLike[str], *, deadline_s: float = DEADLINE_S) -> None:
    """Copies `uri` to a local file, which appears whole or not at all."""
    with open_read(uri, deadline_s=deadline_s) as source, _replacing(str(path)) as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)


def delete(uri: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Removes a file, if it is there."""
    if is_s3(uri):
        s3.delete(uri, deadline_s)
        return
    with _local_errors(uri):
        _refuse_directory(Path(uri))
        Path(uri).unlink(missing_ok=True)


def delete_tree(uri: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Removes a directory and all below it, if it is there; refuses a whole bucket and the root directory."""
    if is_s3(uri):
        s3.delete_prefix(uri, deadline_s)
        return
    if not uri or Path(uri).resolve() == Path("/"):
        raise StorageError(f"{uri!r}: refusing to delete this; name a directory")
    with _local_errors(uri), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(uri)


def delete_unfinished(uri: str) -> None:
    """Removes what killed writers left below a directory, where nobody may be writing now. S3 shows no such files."""
    if is_s3(uri):
        return
    with _local_errors(uri):
        for part in Path(uri).rglob(f".*{_UNFINISHED}"):
            part.unlink(missing_ok=True)


def delete_empty(uri: str) -> None:
    """Removes a directory if it is empty. S3 has none."""
    if not is_s3(uri):
        with contextlib.suppress(OSError):
            Path(uri).rmdir()


def check_writable(uri: str, *, deadline_s: float = s3.FIRST_CONTACT_S) -> None:
    """Writes and removes a tiny file below `uri`, so that what would fail after hours of work fails now."""
    is_s3(uri)  # a bad one is named as it was given
    probe = join(uri, f".distseg-writable-{uuid.uuid4().hex[:12]}")
    write_bytes(probe, b"", deadline_s=deadline_s)
    delete(probe, deadline_s=deadline_s)


# ---- local files


@contextlib.contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    """Turns an OSError into a StorageError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{uri}: {_PROBLEMS.get(error.errno or 0, error.strerror or error)}") from error


_PROBLEMS = {
    errno.ENOENT: "no such file",
    errno.EACCES: "permission denied; check the owner and mode of the file and its directory",
    errno.EPERM: "operation not permitted here",
    errno.EROFS: "the file system is read-only; choose another directory",
    errno.EISDIR: "is a directory, but a file is expected here",
    errno.ENOTDIR: "this path, or a part of it, is a file where a directory is expected",
    errno.EEXIST: "a file stands where a directory is needed",
    errno.ENOSPC: "the disk is full; free some space or choose another directory",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another directory",
}


def _refuse_directory(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "directory")


@contextlib.contextmanager
def _replacing(uri: str) -> Iterator[BinaryIO]:
    """A new file that takes the name `uri` once it is complete and on disk; readers see the old one or the new one."""
    path = Path(uri)
    part = path.parent / f".{uuid.uuid4().hex}{_UNFINISHED}"  # same directory, so that the rename is atomic
    with _local_errors(uri):
        _refuse_directory(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Without this, a power cut may forget the rename."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
