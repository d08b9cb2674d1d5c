"""What an object store must do: the class `Store`, the same contract for local files, S3 and whatever is added.

A store of your own is one class: derive from `Store`, write the seven methods that have no default, and override a
default where the server can do better. The contract, which tests/unit/storage/test_contract.py checks for every store:

    uri       `scheme://bucket/key`, as the user gave it; only local paths have no scheme
    files     appear whole or not at all; writing over a file replaces it; directories need not be made
    listings  are sorted by full name; of a directory that does not exist they are empty
    deleting  what does not exist is no error
    errors    StorageError with one line that begins with the uri: what is wrong, and what to do
    deadline  what may pass is tried again, until `deadline_s` seconds have gone by without progress
    threads   several may call one store at once; processes that were forked as well
"""

import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from distseg.errors import StorageError
from distseg.storage.local_files import CHUNK_BYTES, local_errors, replacing

DEADLINE_S = 300.0
SETTLED_S = 2.0  # after so long, who writes at the same time has written


class Entry(NamedTuple):
    """One file of a listing."""

    uri: str
    num_bytes: int


class Store(ABC):
    """One instance per scheme and process, made without arguments when a URI of the scheme is first used."""

    # ---- what every store must write

    @abstractmethod
    def read_bytes(self, uri: str, start: int, length: int | None, deadline_s: float) -> bytes:
        """Bytes [start, start + length) of a file; fewer where it ends; without `length`, all that follow `start`."""

    @abstractmethod
    def open_read(self, uri: str, deadline_s: float) -> BinaryIO:
        """A stream from the start of the file. Raises StorageError if the file is replaced while it is read."""

    @abstractmethod
    def exists(self, uri: str, deadline_s: float) -> bool:
        """Whether there is a file of this name. A directory is none; an unknown bucket raises StorageError."""

    @abstractmethod
    def num_bytes(self, uri: str, deadline_s: float) -> int:
        """The size of a file."""

    @abstractmethod
    def list_files(self, uri: str, deadline_s: float) -> Iterator[Entry]:
        """All files below a directory, however deep, sorted by full name."""

    @abstractmethod
    def write_bytes(self, uri: str, data: bytes, deadline_s: float) -> None:
        """Writes a file whole."""

    @abstractmethod
    def delete(self, uri: str, deadline_s: float) -> None:
        """Removes a file, if it exists."""

    # ---- defaults

    def read_into(self, view: memoryview, uri: str, start: int, deadline_s: float) -> int:
        """Reads into `view`, as many bytes as it holds; returns how many were read, fewer where the file ends."""
        data = self.read_bytes(uri, start, len(view), deadline_s)
        view[: len(data)] = data
        return len(data)

    def stamp(self, uri: str) -> str:
        """Another text once the file has been changed; "", as by this default, where only reading it would tell."""
        return ""

    def create(self, uri: str, data: bytes, deadline_s: float) -> bool:
        """Writes a file whole, unless there is one that is not `data`; of several who do it at once one gets True.

        This default writes, waits for the others, and looks whose file is there.
        """
        if self.exists(uri, deadline_s) and self.read_bytes(uri, 0, None, deadline_s) != data:
            return False
        self.write_bytes(uri, data, deadline_s)
        time.sleep(SETTLED_S)
        return self.read_bytes(uri, 0, None, deadline_s) == data

    def folder_exists(self, uri: str, deadline_s: float) -> bool:
        return next(self.list_files(uri, deadline_s), None) is not None

    def list_folders(self, uri: str, deadline_s: float) -> list[str]:
        """The names of the directories right below a directory, sorted."""
        below = len(uri.rstrip("/")) + 1
        inside = (entry.uri[below:].partition("/") for entry in self.list_files(uri, deadline_s))
        return sorted({name for name, slash, _ in inside if slash})

    def upload(self, path: Path, uri: str, deadline_s: float) -> None:
        """Copies a local file. This default holds it in memory; override it for files of many gigabytes."""
        with local_errors(str(path)):
            data = path.read_bytes()
        self.write_bytes(uri, data, deadline_s)

    def download(self, uri: str, path: Path, deadline_s: float) -> None:
        """Copies to a local file, which appears whole or not at all."""
        with self.open_read(uri, deadline_s) as source, replacing(str(path)) as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)

    def delete_tree(self, uri: str, deadline_s: float) -> None:
        """Removes a directory and all below it; refuses a whole bucket."""
        refuse_whole_bucket(uri)
        for entry in list(self.list_files(uri, deadline_s)):
            self.delete(entry.uri, deadline_s)

    def delete_unfinished(self, uri: str) -> None:
        """Removes what killed writers left below a directory. Nothing, where unfinished files are not visible."""
        return

    def delete_empty(self, uri: str) -> None:
        """Removes a directory if it is empty. Nothing, where a directory is no more than a part of a file's name."""
        return

    def check_writable(self, uri: str, deadline_s: float) -> None:
        """Writes and removes a tiny file below `uri`."""
        probe = join(uri, f".distseg-writable-{uuid.uuid4().hex[:12]}")
        self.write_bytes(probe, b"", deadline_s)
        self.delete(probe, deadline_s)

    def check_file_writable(self, uri: str, deadline_s: float) -> None:
        """Writes and removes a tiny file beside `uri`, which must not name a directory."""
        refuse_directory(uri)
        self.check_writable(uri.rpartition("/")[0], deadline_s)


# ---- names


def join(uri: str, *parts: str) -> str:
    """`uri` and `parts` with one slash between each; the same for all stores."""
    tail = [part.strip("/") for part in parts if part.strip("/")]
    if not uri or not tail:
        return "/".join(tail) or uri
    return "/".join([uri.rstrip("/"), *tail])


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The parts of `scheme://bucket/key`."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def refuse_directory(uri: str) -> None:
    """Raises StorageError if `uri` cannot name a file: it is a bucket, or ends with a slash."""
    if not bucket_and_key(uri)[1] or uri.endswith("/"):
        raise StorageError(f"{uri}: names a directory, but a file is expected here")


def refuse_whole_bucket(uri: str) -> None:
    if not bucket_and_key(uri)[1].strip("/"):
        raise StorageError(f"{uri}: refusing to delete a whole bucket; name a prefix in it")
