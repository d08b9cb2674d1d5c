"""The only door to files and object stores. A `uri` is `s3://bucket/key` or a local path; a `path` is always local.

The same calls do the same on every store: writing makes missing directories, a file appears whole or not at all,
deleting what does not exist is no error, a listing is sorted by full name, and of a directory that does not exist it
is empty. `Store` is the contract in full; `distseg.storage.schemes` says how to add a store of your own.

What may pass is tried again, with pauses from 0.2 to 30 s, until `deadline_s` seconds have gone by without success.
Every failure is a StorageError of
one line: the uri, what is wrong, what to do. boto3 is imported when S3 is first used.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from distseg import strict_json
from distseg.errors import DistsegError
from distseg.storage.open_files import OpenFiles
from distseg.storage.retries import FIRST_CONTACT_S
from distseg.storage.schemes import is_remote, store_of
from distseg.storage.scratch import new_scratch_folder, scratch_folder
from distseg.storage.store import DEADLINE_S, Entry, Store, bucket_and_key, join, refuse_directory

__all__ = [
    "DEADLINE_S",
    "Entry",
    "OpenFiles",
    "Store",
    "absolute",
    "bucket_and_key",
    "check_file_writable",
    "check_writable",
    "create",
    "delete",
    "delete_empty",
    "delete_tree",
    "delete_unfinished",
    "download",
    "exists",
    "folder_exists",
    "is_remote",
    "is_s3",
    "join",
    "list_files",
    "list_folders",
    "new_scratch_folder",
    "num_bytes",
    "open_read",
    "read_bytes",
    "read_into",
    "read_json",
    "refuse_directory",
    "scratch_folder",
    "stamp",
    "upload",
    "write_bytes",
]

# ---- names; `join` and `is_remote` are among them


def is_s3(uri: str) -> bool:
    """Whether `uri` is in S3, for what is special to S3's protocol; most callers mean `is_remote`."""
    return is_remote(uri) and uri.startswith("s3:")


def absolute(uri: str) -> str:
    """The same place for a process with another working directory. Remote URIs only lose a slash at their end."""
    return uri.rstrip("/") if is_remote(uri) else str(Path(uri).absolute())


def is_same_place(uri: str, other: str) -> bool:
    """Whether both name one directory, however they are written: slashes, `.`, `..`, links."""
    if is_remote(uri) or is_remote(other):
        return absolute(uri) == absolute(other)
    return Path(uri).resolve() == Path(other).resolve()


def is_within(uri: str, folder: str) -> bool:
    """Whether `uri` is that directory or lies below it, however they are written."""
    if is_remote(uri) or is_remote(folder):
        return f"{absolute(uri)}/".startswith(f"{absolute(folder)}/")
    return Path(uri).resolve().is_relative_to(Path(folder).resolve())


# ---- reading


def read_bytes(uri: str, start: int = 0, length: int | None = None, *, deadline_s: float = DEADLINE_S) -> bytes:
    """Bytes [start, start + length) of a file, or to its end; fewer only where the file ends."""
    return store_of(uri).read_bytes(uri, start, length, deadline_s)


def read_json(kind: Any, uri: str, error_class: type[DistsegError], remedy: str, *, is_ours: bool = True) -> Any:
    """A file of JSON as `kind`, by `strict_json.read`, which raises `error_class`. StorageError if it is not there."""
    data = read_bytes(uri, length=strict_json.MAX_BYTES + 1)
    return strict_json.read(kind, data, uri, error_class, remedy, is_ours=is_ours)


def read_into(view: memoryview, uri: str, start: int = 0, *, deadline_s: float = DEADLINE_S) -> int:
    """Reads into the view, as many bytes as it holds; returns the number of bytes, fewer only where the file ends."""
    return store_of(uri).read_into(view, uri, start, deadline_s)


def open_read(uri: str, *, deadline_s: float = DEADLINE_S) -> BinaryIO:
    """A stream from the start of the file. A broken connection is resumed; a changed object raises StorageError."""
    return store_of(uri).open_read(uri, deadline_s)


def exists(uri: str, *, deadline_s: float = DEADLINE_S) -> bool:
    """Whether there is a file (not a directory) of this name. A bucket that does not exist raises StorageError."""
    return store_of(uri).exists(uri, deadline_s)


def folder_exists(uri: str, *, deadline_s: float = DEADLINE_S) -> bool:
    """Whether there is a directory of this name. In an object store it exists if there are files below it."""
    return store_of(uri).folder_exists(uri, deadline_s)


def num_bytes(uri: str, *, deadline_s: float = DEADLINE_S) -> int:
    """The size of a file."""
    return store_of(uri).num_bytes(uri, deadline_s)


def stamp(uri: str) -> str:
    """Another text once the file has been changed; "" where the store cannot tell."""
    return store_of(uri).stamp(uri)


def list_files(uri: str, *, deadline_s: float = DEADLINE_S) -> Iterator[Entry]:
    """All files below a directory, however deep, sorted by full name; none if the directory does not exist."""
    return store_of(uri).list_files(uri, deadline_s)


def list_folders(uri: str, *, deadline_s: float = DEADLINE_S) -> list[str]:
    """The names of the directories right below a directory, sorted; none if the directory does not exist."""
    return store_of(uri).list_folders(uri, deadline_s)


# ---- writing


def write_bytes(uri: str, data: bytes, *, deadline_s: float = DEADLINE_S) -> None:
    """Writes a small file whole (S3: one put; locally: a temporary file that is then renamed)."""
    store_of(uri).write_bytes(uri, data, deadline_s)


def create(uri: str, data: bytes, *, deadline_s: float = DEADLINE_S) -> bool:
    """Writes a small file whole, if there is none of this name; of several who try it together one gets True.

    Each must try it with other bytes. It takes seconds where a store knows no conditional writes.
    """
    return store_of(uri).create(uri, data, deadline_s)


def upload(path: str | os.PathLike[str], uri: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Copies a local file to `uri`, in parts if it is large; a failed upload leaves nothing behind."""
    store_of(uri).upload(Path(path), uri, deadline_s)


def download(uri: str, path: str | os.PathLike[str], *, deadline_s: float = DEADLINE_S) -> None:
    """Copies `uri` to a local file, which appears whole or not at all."""
    store_of(uri).download(uri, Path(path), deadline_s)


def delete(uri: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Removes a file, if it exists."""
    store_of(uri).delete(uri, deadline_s)


def delete_tree(uri: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Removes a directory and all below it, if it exists; refuses a whole bucket and the root directory."""
    store_of(uri).delete_tree(uri, deadline_s)


def delete_unfinished(uri: str) -> None:
    """Removes what killed writers left below a directory. Nobody may be writing there now."""
    store_of(uri).delete_unfinished(uri)


def delete_empty(uri: str) -> None:
    """Removes a directory if it is empty. Object stores have no empty directories."""
    store_of(uri).delete_empty(uri)


def check_writable(uri: str, *, deadline_s: float = FIRST_CONTACT_S) -> None:
    """Writes and removes a tiny file below `uri`, so that what would fail after hours of work fails now."""
    store_of(uri).check_writable(uri, deadline_s)


def check_file_writable(uri: str, *, deadline_s: float = FIRST_CONTACT_S) -> None:
    """As `check_writable`, for one file: of what stands beside it nothing is touched."""
    store_of(uri).check_file_writable(uri, deadline_s)
