"""A run's place as Ray Train takes it: a file system of pyarrow over `distseg.storage`, and a note of checkpoints.

Ray Train would make a file system of its own from the URI. That reads `s3://bucket/a b#c` as an address, in which '%',
'#', '?' and spaces mean something else than in the name of an object, and it finds server and credentials in other
places. So all that is written goes through one client, with one set of settings.

The note is a JSON file of Ray Train's beside the checkpoints, which it reads when the run goes on. distseg keeps and
chooses checkpoints itself. It only has to remove a note that would mislead Ray Train.
"""

import contextlib
import io
import tempfile
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import ray
from pyarrow import fs

from distseg import storage, strict_json
from distseg.errors import ConfigError, DataError
from distseg.orchestration import compat
from distseg.strict_json import Name
from distseg.training import checkpoint

_SCHEME = "://"


def file_system(uri: str) -> Any:
    """The file system that `uri` is in; None for a directory of this machine, which Ray Train has itself."""
    return fs.PyFileSystem(_ObjectStore(uri.partition(_SCHEME)[0])) if storage.is_remote(uri) else None


def path_in(uri: str) -> str:
    """`uri` as a path of `file_system(uri)`."""
    return uri.partition(_SCHEME)[2] if storage.is_remote(uri) else uri


def check_name(field: str, uri: str) -> None:
    """Raises ConfigError for a remote place that Ray Train would call by another name: it joins paths as of files."""
    path = path_in(uri).rstrip("/")
    if storage.is_remote(uri) and (PurePosixPath(path).as_posix() != path or ".." in path.split("/")):
        raise ConfigError(f"{field} = {uri}: leave out doubled slashes, '.' and '..' between them")


# ---- the note


def forget_checkpoints(run_uri: str) -> None:
    """Removes the note of a stopped run whose checkpoints are about to be replaced: Ray Train would look for the old
    ones."""
    storage.delete(_note_uri(run_uri))


def forget_if_broken(run_uri: str) -> None:
    """Removes the note if it names a checkpoint that is gone, or was written by another version of Ray."""
    uri = _note_uri(run_uri)
    if not storage.exists(uri):
        return
    try:
        noted: dict[str, Any] = storage.read_json(dict[str, Any], uri, DataError, "it is removed")
        results = [*noted["checkpoint_results"], *noted["pending_training_results"]]
        names = [strict_json.build(Name, result["checkpoint_dir_name"], "checkpoint_dir_name") for result in results]
        files = [storage.join(run_uri, name, checkpoint.META_FILE) for name in names]
        is_sound = noted["ray_version"] == ray.__version__ and all(map(storage.exists, files))
    except (DataError, ConfigError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        storage.delete(uri)


def _note_uri(run_uri: str) -> str:
    return storage.join(run_uri, compat.checkpoint_snapshot_name())


# ---- the file system


class _ObjectStore(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """A path is `bucket/key`. It is sent to Ray's processes, so it holds nothing but the scheme."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ObjectStore) and other.scheme == self.scheme

    def __hash__(self) -> int:
        return hash(self.scheme)

    def _uri(self, path: str) -> str:
        return f"{self.scheme}{_SCHEME}{path}"

    def get_type_name(self) -> str:
        return f"distseg+{self.scheme}"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[Any]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> Any:
        uri = self._uri(path.rstrip("/"))
        if storage.bucket_and_key(uri)[1] and storage.exists(uri):
            return fs.FileInfo(path, fs.FileType.File, size=storage.num_bytes(uri))
        kind = fs.FileType.Directory if storage.folder_exists(uri) else fs.FileType.NotFound
        return fs.FileInfo(path, kind)

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        base = selector.base_dir.rstrip("/")
        found: list[Any] = []
        folders: set[str] = set()
        for entry in storage.list_files(self._uri(base)):
            path = path_in(entry.uri)
            inside = path.removeprefix(f"{base}/").split("/")
            folders |= {f"{base}/{'/'.join(inside[:n])}" for n in range(1, len(inside))}
            if selector.recursive or len(inside) == 1:
                found.append(fs.FileInfo(path, fs.FileType.File, size=entry.num_bytes))
        if not found and not folders and not selector.allow_not_found:
            raise FileNotFoundError(self._uri(base))
        shown = (
            folders if selector.recursive else {path for path in folders if "/" not in path.removeprefix(f"{base}/")}
        )
        return found + [fs.FileInfo(path, fs.FileType.Directory) for path in sorted(shown)]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: a folder is a part of the names of its files."""

    def delete_dir(self, path: str) -> None:
        storage.delete_tree(self._uri(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        storage.delete_tree(self._uri(path))

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("a store is never emptied")

    def delete_file(self, path: str) -> None:
        storage.delete(self._uri(path))

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        storage.write_bytes(self._uri(dest), storage.read_bytes(self._uri(src)))

    def open_input_stream(self, path: str) -> Any:
        return pa.PythonFile(storage.open_read(self._uri(path)), mode="r")

    def open_input_file(self, path: str) -> Any:
        return pa.BufferReader(storage.read_bytes(self._uri(path)))

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return pa.PythonFile(_Upload(self._uri(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError("an object cannot be appended to")


class _Upload(io.RawIOBase):
    """A file that is sent when it is closed."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._file: IO[bytes] = tempfile.NamedTemporaryFile(prefix="distseg-upload-")  # noqa: SIM115 — closed by close

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        with contextlib.closing(self._file):
            self._file.flush()
            storage.upload(self._file.name, self._uri)
