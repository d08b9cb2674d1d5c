"""Writes shards, in a packing process: loads, checks and encodes samples into plain USTAR WebDataset tars.

    pack_task(task, job)      the samples of a task -> its shards and their indices, in their final place

The same task and job give the same bytes: members have a fixed time, owner and mode, and the names of the shards follow
from the task alone. So a task may run anywhere, and again. When its shards are in place, a receipt is written; a task
with a receipt need not be done again, unless a file that it read has been changed since.
"""

import dataclasses
import hashlib
import io
import json
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distseg import storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data import IGNORE_INDEX, RECEIPTS, LabelledImage, LabelSpace, Sample, images, raw
from distseg.data.shards.formats import IndexEntry, Member, ReceiptRow, Shard, SizeRange
from distseg.data.shards.manifest import index_json
from distseg.errors import DataError

_PIL_FORMATS = {"jpg": "JPEG", "png": "PNG"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Options that all tasks of a data set share."""

    out_uri: str
    label_space: LabelSpace
    max_bytes: int
    jpeg_quality: int | None = None  # PNG images become JPEG of this quality; None: images stay as they are
    max_megapixels: float = MAX_MEGAPIXELS  # of a photograph or label map
    labels_drawn_on: raw.DrawnOn | None = None  # of turned photographs whose sizes do not tell


@dataclass(frozen=True, kw_only=True)
class Task:
    """Samples, in their final order, that become one shard, or several if one would exceed the limit of bytes."""

    number: int  # of the task in its job
    split: str
    condition: str
    site: str
    samples: tuple[Sample, ...]
    shard: int  # number of the first shard in its split, condition and site
    stride: int  # between the numbers of its shards: the number of tasks in that split, condition and site


class Packed(NamedTuple):
    """A finished shard, and what it adds to the manifest."""

    shard: Shard
    class_pixels: tuple[int, ...]  # of each class
    sizes: SizeRange
    void_pixels: int = 0
    sources: str = ""  # `sources_of` its task


def sources_of(task: Task) -> str:
    """A digest that is another one once a file of the task has been changed; "" if no store can tell."""
    stamps = [storage.stamp(uri) for sample in task.samples for uri in sample.files]
    return hashlib.sha256(repr(stamps).encode()).hexdigest() if any(stamps) else ""


def pack_task(task: Task, job: Job) -> list[Packed]:
    """Raises DataError naming the source of a sample that cannot be packed."""
    packed: list[Packed] = []
    sources = sources_of(task)  # before they are read
    with (
        images.limited(job.max_megapixels),
        raw.labels_drawn_on(job.labels_drawn_on),
        storage.scratch_folder() as folder,
    ):
        for batch in _batches(task.samples, job):
            number = task.shard + len(packed) * task.stride
            name = f"{task.split}/{task.condition}-{task.site}-{number:05d}.tar"
            packed.append(_publish(_write(batch, str(folder)), name, task, job)._replace(sources=sources))
    storage.write_bytes(receipt_uri(job.out_uri, task), _receipt_json(packed))
    return packed


def _publish(tar: "_Tar", name: str, task: Task, job: Job) -> Packed:
    index = index_json(name, tar.entries)
    storage.upload(tar.path, storage.join(job.out_uri, name))
    Path(tar.path).unlink()
    class_pixels_NC = np.array([entry.class_pixels for entry in tar.entries])
    shard = Shard(
        name=name,
        split=task.split,
        condition=task.condition,
        site=task.site,
        num_samples=len(tar.entries),
        num_bytes=tar.num_bytes,
        sha256=tar.sha256,
        index_sha256=hashlib.sha256(index).hexdigest(),
        class_samples=tuple((class_pixels_NC > 0).sum(axis=0).tolist()),
    )
    storage.write_bytes(storage.join(job.out_uri, shard.index_name), index)
    return Packed(shard, tuple(class_pixels_NC.sum(axis=0).tolist()), tar.sizes, tar.void_pixels)


# ---- receipts


def receipt_uri(out_uri: str, task: Task) -> str:
    return storage.join(out_uri, RECEIPTS, f"{task.number:06d}.json")


def _receipt_json(packed: Sequence[Packed]) -> bytes:
    rows = [
        {
            "shard": dataclasses.asdict(done.shard),
            "class_pixels": done.class_pixels,
            "sizes": done.sizes,
            "void_pixels": done.void_pixels,
            "sources": done.sources,
        }
        for done in packed
    ]
    return json.dumps(rows).encode()


def read_receipt(out_uri: str, task: Task) -> list[Packed]:
    """The result of `pack_task` for a task done before. Raises DataError if the receipt is damaged."""
    uri = receipt_uri(out_uri, task)
    rows = storage.read_json(tuple[ReceiptRow, ...], uri, DataError, "remove it, and pack again")
    return [Packed(*row) for row in rows]


# ---- samples to tars


class _Tar(NamedTuple):
    """A finished file in a local folder."""

    path: str
    num_bytes: int
    sha256: str
    entries: tuple[IndexEntry, ...]
    sizes: SizeRange
    void_pixels: int


class _Encoded(NamedTuple):
    """A sample as it will stand in the tar."""

    key: str
    files: dict[str, bytes]  # by extension, in the order of the tar
    class_pixels: tuple[int, ...]
    size_hw: tuple[int, int]
    void_pixels: int

    @property
    def tar_bytes(self) -> int:
        return sum(tarfile.BLOCKSIZE + _rounded_up(len(data), tarfile.BLOCKSIZE) for data in self.files.values())


def _batches(samples: Sequence[Sample], job: Job) -> Iterator[list[_Encoded]]:
    """Encoded samples for one tar after another, each of at most job.max_bytes unless a single sample exceeds it."""
    batch: list[_Encoded] = []
    for sample in samples:
        encoded = _encode(sample, job)
        if batch and _file_bytes([*batch, encoded]) > job.max_bytes:
            yield batch
            batch = []
        batch.append(encoded)
    yield batch


def _encode(sample: Sample, job: Job) -> _Encoded:
    label_space = job.label_space
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
    if job.jpeg_quality is not None and loaded.image_format == "png":
        loaded = loaded._replace(image=_jpeg(loaded.image, job.jpeg_quality, sample.source), image_format="jpg")
    files = {
        loaded.image_format: loaded.image,
        "json": json.dumps(meta, sort_keys=True).encode(),
        "label.png": label_png(loaded.label_HW),
    }
    class_pixels = tuple(pixels[: label_space.num_classes].tolist())
    return _Encoded(sample.key, dict(sorted(files.items())), class_pixels, (height, width), int(pixels[IGNORE_INDEX]))


def _image_size(loaded: LabelledImage, sample: Sample) -> tuple[int, int]:
    """(height, width) from the image's header. Raises DataError if it is not the format and mode that it should be."""
    image = images.opened(loaded.image, sample.source)
    found, size = (image.format, image.mode), image.size
    expected = (_PIL_FORMATS[loaded.image_format], "RGB")
    if found != expected:
        raise DataError(f"{sample.source}: the image is {found[0]} {found[1]}, a shard needs {' '.join(expected)}")
    return size[1], size[0]


def _jpeg(png: bytes, quality: int, source: str) -> bytes:
    buffer = io.BytesIO()
    images.decode(png, source).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def label_png(label_HW: npt.NDArray[np.uint8]) -> bytes:
    """An 8-bit grey PNG without row filters. They suit photographs; without them label maps are smaller and decode in
    half the time. Written here because Pillow chooses filters itself (PNG specification, sections 5, 9 and 11.2).
    """
    height, width = label_HW.shape
    rows = np.zeros((height, 1 + width), dtype=np.uint8)  # before each row its filter: 0, none
    rows[:, 1:] = label_HW

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes())), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _write(batch: Sequence[_Encoded], folder: str) -> _Tar:
    from webdataset import TarWriter  # packing needs it, reading does not

    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tar", delete=False) as file:
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
            for encoded in batch:
                tar.write({"__key__": encoded.key, **encoded.files})
        file.flush()
        path = Path(file.name)
    with path.open("rb") as written:
        sha256 = hashlib.file_digest(written, "sha256").hexdigest()
    return _Tar(
        path=str(path),
        num_bytes=path.stat().st_size,
        sha256=sha256,
        entries=_entries(path, batch),
        sizes=size_range([encoded.size_hw for encoded in batch]),
        void_pixels=sum(encoded.void_pixels for encoded in batch),
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
            class_pixels=encoded.class_pixels,
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
