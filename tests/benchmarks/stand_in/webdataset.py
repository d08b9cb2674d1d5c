"""As much of webdataset as packing needs, for a machine that has none. gpu.sh puts it on the path only there."""

import io
import tarfile
from collections.abc import Mapping
from typing import IO


class TarWriter:
    def __init__(self, file: IO[bytes], *, encoder: bool, mtime: int, user: str, group: str) -> None:
        assert not encoder
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 — closed below
        self._mtime, self._user, self._group = mtime, user, group

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def write(self, sample: Mapping[str, str | bytes]) -> None:
        key = sample["__key__"]
        assert isinstance(key, str)
        for extension in sorted(name for name in sample if not name.startswith("__")):
            content = sample[extension]
            assert isinstance(content, bytes)
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size, info.mtime, info.mode = len(content), self._mtime, 0o444
            info.uname, info.gname = self._user, self._group
            self._tar.addfile(info, io.BytesIO(content))
