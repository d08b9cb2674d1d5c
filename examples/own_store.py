"""An object store of your own in one class. This one keeps files in memory; a real one calls its server's client.

    export DISTSEG_STORES=mem=own_store:MemoryStore             scheme=module:Class; several are separated by commas

A URI such as `mem://bucket/town` may then be given wherever an `s3://` URI may, except as checkpoint.uri of a training
over Ray, which writes checkpoints itself. On a cluster all processes need the variable and the module. (The files of
this example are seen by one process only.)

`storage.Store` says what each method must do. Those below have no default; override a default where the server can do
better, such as `upload` for large files. Try again what may pass, for at most `deadline_s` seconds without progress.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

from distseg import storage
from distseg.errors import StorageError


class MemoryStore(storage.Store):
    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}  # by URI

    def read_bytes(self, uri: str, start: int, length: int | None, deadline_s: float) -> bytes:
        data = self._get(uri)
        return data[start:] if length is None else data[start : start + length]

    def open_read(self, uri: str, deadline_s: float) -> BinaryIO:
        return io.BytesIO(self._get(uri))

    def exists(self, uri: str, deadline_s: float) -> bool:
        return uri in self._files

    def num_bytes(self, uri: str, deadline_s: float) -> int:
        return len(self._get(uri))

    def list_files(self, uri: str, deadline_s: float) -> Iterator[storage.Entry]:
        folder = uri.rstrip("/") + "/"
        return (storage.Entry(name, len(self._files[name])) for name in sorted(self._files) if name.startswith(folder))

    def write_bytes(self, uri: str, data: bytes, deadline_s: float) -> None:
        storage.refuse_directory(uri)
        self._files[uri] = data

    def delete(self, uri: str, deadline_s: float) -> None:
        storage.refuse_directory(uri)
        self._files.pop(uri, None)

    def _get(self, uri: str) -> bytes:
        storage.refuse_directory(uri)
        if uri not in self._files:
            raise StorageError(f"{uri}: no such key in the bucket")
        return self._files[uri]
