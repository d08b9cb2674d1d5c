"""The store of local paths."""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from distseg.errors import StorageError
from distseg.storage.local_files import (
    CHUNK_BYTES,
    UNFINISHED,
    is_written_through,
    local_errors,
    refuse_directory,
    replacing,
    write_new,
)
from distseg.storage.store import Entry, Store, join


class LocalStore(Store):
    """Files of this machine, or of a directory that all machines mount. Nothing is retried, so deadlines are unused."""

    def read_bytes(self, uri: str, start: int, length: int | None, deadline_s: float) -> bytes:
        with local_errors(uri), Path(uri).open("rb") as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def read_into(self, view: memoryview, uri: str, start: int, deadline_s: float) -> int:
        with local_errors(uri), Path(uri).open("rb", buffering=0) as file:
            file.seek(start)
            done = 0
            while done < len(view) and (num_read := file.readinto(view[done:])):
                done += num_read
            return done

    def open_read(self, uri: str, deadline_s: float) -> BinaryIO:
        with local_errors(uri):
            return Path(uri).open("rb")

    def exists(self, uri: str, deadline_s: float) -> bool:
        with local_errors(uri):
            return Path(uri).is_file()

    def num_bytes(self, uri: str, deadline_s: float) -> int:
        with local_errors(uri):
            refuse_directory(Path(uri))
            return Path(uri).stat().st_size

    def stamp(self, uri: str) -> str:
        with contextlib.suppress(OSError):  # who reads it says what is wrong
            found = Path(uri).stat()
            return f"{found.st_size}-{found.st_mtime_ns}"
        return ""

    def folder_exists(self, uri: str, deadline_s: float) -> bool:
        with local_errors(uri):
            return Path(uri).is_dir()

    def list_files(self, uri: str, deadline_s: float) -> Iterator[Entry]:
        with local_errors(uri):
            try:
                found = list(os.scandir(uri or "."))
            except FileNotFoundError:
                return
            # As S3 sorts: a directory by its name with the slash, so that `a-b` comes before `a/x`.
            found.sort(key=lambda entry: entry.name + "/" * entry.is_dir())
        for entry in found:
            if entry.is_dir():
                yield from self.list_files(join(uri, entry.name), deadline_s)
            elif not entry.name.endswith(UNFINISHED) and not _is_lock_of_an_editor(entry):
                with local_errors(entry.path):
                    try:
                        found_stat = entry.stat()
                    except FileNotFoundError:
                        if entry.is_symlink():  # that leads nowhere; else somebody has just removed it
                            raise
                        continue
                if stat.S_ISREG(found_stat.st_mode):  # who opens a pipe waits for its writer
                    yield Entry(join(uri, entry.name), found_stat.st_size)

    def list_folders(self, uri: str, deadline_s: float) -> list[str]:
        with local_errors(uri), contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(uri or ".") if entry.is_dir())
        return []

    def write_bytes(self, uri: str, data: bytes, deadline_s: float) -> None:
        with replacing(uri) as file:
            file.write(data)

    def create(self, uri: str, data: bytes, deadline_s: float) -> bool:
        return write_new(uri, data)

    def upload(self, path: Path, uri: str, deadline_s: float) -> None:
        with local_errors(str(path)), path.open("rb") as source, replacing(uri) as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)

    def delete(self, uri: str, deadline_s: float) -> None:
        with local_errors(uri):
            refuse_directory(Path(uri))
            Path(uri).unlink(missing_ok=True)

    def delete_tree(self, uri: str, deadline_s: float) -> None:
        if not uri or Path(uri).resolve() == Path("/"):
            raise StorageError(f"{uri!r}: refusing to delete this; name a directory")
        with local_errors(uri), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(uri)

    def delete_unfinished(self, uri: str) -> None:
        with local_errors(uri):
            for part in Path(uri).rglob(f".*{UNFINISHED}"):
                part.unlink(missing_ok=True)

    def check_writable(self, uri: str, deadline_s: float) -> None:
        folder = Path(uri)
        made = [each for each in (folder, *folder.parents) if not os.path.exists(each)]  # noqa: PTH110 — without permission, too
        try:
            super().check_writable(uri, deadline_s)
        finally:
            for each in made:  # a caller that fails before it writes anything leaves nothing
                self.delete_empty(str(each))

    def check_file_writable(self, uri: str, deadline_s: float) -> None:
        with local_errors(uri):
            if uri.endswith("/"):
                raise IsADirectoryError(errno.EISDIR, "directory")
            refuse_directory(Path(uri))
            if is_written_through(Path(uri)):
                return
        self.check_writable(str(Path(uri).parent), deadline_s)

    def delete_empty(self, uri: str) -> None:
        with contextlib.suppress(OSError):
            Path(uri).rmdir()


def _is_lock_of_an_editor(entry: "os.DirEntry[str]") -> bool:
    """Emacs's `.#name` links to what is no file. Any other link that leads nowhere is a missing file, and an error."""
    return entry.name.startswith(".") and entry.is_symlink() and not Path(entry.path).exists()
