"""Writes shards in a packing process: loads, checks and encodes samples into plain USTAR WebDataset tars.

Input: samples in their final order. Output: `Part`s, finished tars in a local folder that have no final name yet.
Same samples, same bytes: members have a fixed time, owner and mode.
"""

import functools
import hashlib
import io
import json
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from distseg.data.manifest import IndexEntry, Member, SizeRange
from distseg.data.sample import IGNORE_INDEX, LabelledImage, LabelSpace, Sample
from distseg.errors import DataError

_PIL_FORMATS = {"jpg": "JPEG", "png": "PNG"}


class Part(NamedTuple):
    path: str
    num_bytes: int
    sha256: str
    entries: tuple[IndexEntry, ...]
    class_pixels: npt.NDArray[np.int64]  # (num_classes,)
    sizes: SizeRange


class _Encoded(NamedTuple):
    """A sample as it will stand in the tar."""

    key: str
    files: dict[str, bytes]  # by extension, in the order of the tar
    class_pixels: npt.NDArray[np.int64]
    size_hw: tuple[int, int]

    @property
    def tar_bytes(self) -> int:
        return sum(tarfile.BLOCKSIZE + _rounded_up(len(data), tarfile.BLOCKSIZE) for data in self.files.values())


def write_parts(samples: Sequence[Sample], label_space: LabelSpace, max_bytes: int, folder: str) -> list[Part]:
    """One tar, or several if it would exceed max_bytes (one sample alone may). Raises DataError naming the source."""
    parts: list[Part] = []
    batch: list[_Encoded] = []
    for sample in samples:
        encoded = _encode(sample, label_space)
        if batch and _file_bytes([*batch, encoded]) > max_bytes:
            parts.append(_write(batch, folder))
            batch = []
        batch.append(encoded)
    return [*parts, _write(batch, folder)]


def _encode(sample: Sample, label_space: LabelSpace) -> _Encoded:
    loaded = sample.load()
    height, width = _image_size(loaded, sample)
    if loaded.label_HW.shape != (height, width) or loaded.label_HW.dtype != np.uint8:
        found = f"{loaded.label_HW.dtype} {loaded.label_HW.shape}"
        raise DataError(f"{sample.source}: the label map is {found}, its image needs uint8 ({height}, {width})")
    pixels = np.bincount(loaded.label_HW.ravel(), minlength=256)
    if pixels[label_space.num_classes : IGNORE_INDEX].any():
        outside = [i for i in range(label_space.num_classes, IGNORE_INDEX) if pixels[i]]
        raise DataError(f"{sample.source}: label ids {outside[:8]} are outside the label space {label_space.name}")
    meta = {name: getattr(sample, name) for name in ("condition", "site", "sequence", "split", "source")}
    files = {
        loaded.image_format: loaded.image,
        "json": json.dumps(meta, sort_keys=True).encode(),
        "label.png": _label_png(loaded.label_HW),
    }
    class_pixels = pixels[: label_space.num_classes].astype(np.int64)
    return _Encoded(sample.key, dict(sorted(files.items())), class_pixels, (height, width))


def _image_size(loaded: LabelledImage, sample: Sample) -> tuple[int, int]:
    """(height, width), from the header of an image that is what it says it is."""
    try:
        with Image.open(io.BytesIO(loaded.image)) as image:
            found, size = (image.format, image.mode), image.size
    except OSError as error:
        raise DataError(f"{sample.source}: not a readable image ({error})") from error
    expected = (_PIL_FORMATS[loaded.image_format], "RGB")
    if found != expected:
        raise DataError(f"{sample.source}: the image is {found[0]} {found[1]}, a shard needs {' '.join(expected)}")
    return size[1], size[0]


def _label_png(label_HW: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(label_HW).save(buffer, format="PNG")
    return buffer.getvalue()


def _write(batch: Sequence[_Encoded], folder: str) -> Part:
    from webdataset import TarWriter  # packing needs it, reading does not

    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tar", delete=False) as file:
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
            for encoded in batch:
                tar.write({"__key__": encoded.key, **encoded.files})
        file.flush()
        path = Path(file.name)
    with path.open("rb") as written:
        sha256 = hashlib.file_digest(written, "sha256").hexdigest()
    return Part(
        path=str(path),
        num_bytes=path.stat().st_size,
        sha256=sha256,
        entries=_entries(path, batch),
        class_pixels=functools.reduce(np.add, (encoded.class_pixels for encoded in batch)),
        sizes=size_range([encoded.size_hw for encoded in batch]),
    )


def _entries(path: Path, batch: Sequence[_Encoded]) -> tuple[IndexEntry, ...]:
    with tarfile.open(path) as tar:
        infos = {info.name: info for info in tar}

    def member(encoded: _Encoded, extension: str) -> Member:
        info = infos[f"{encoded.key}.{extension}"]
        return Member(extension, info.offset_data, info.size, zlib.crc32(encoded.files[extension]))

    return tuple(
        IndexEntry(
            encoded.key,
            image=member(encoded, "jpg" if "jpg" in encoded.files else "png"),
            label=member(encoded, "label.png"),
            meta=member(encoded, "json"),
        )
        for encoded in batch
    )


def size_range(sizes_hw: Sequence[tuple[int, int]]) -> SizeRange:
    heights, widths = zip(*sizes_hw, strict=True)
    return SizeRange((min(heights), min(widths)), (max(heights), max(widths)))


def _file_bytes(batch: Sequence[_Encoded]) -> int:
    end = 2 * tarfile.BLOCKSIZE  # two empty blocks end a tar
    return _rounded_up(sum(encoded.tar_bytes for encoded in batch) + end, tarfile.RECORDSIZE)


def _rounded_up(num_bytes: int, unit: int) -> int:
    return -(-num_bytes // unit) * unit
