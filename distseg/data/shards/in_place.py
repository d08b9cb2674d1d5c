"""Tars that others wrote, made a packed data set where they are: an index beside each, and the manifest, last.

Nothing is copied, so each tar must be as `pack` would write it: see `distseg.data.datasets.webdataset`. What is not so
is a DataError that names the member. Every sample is decoded once, so that a damaged one is found here.
"""

import functools
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distseg import storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data import MANIFEST_NAME, LabelSpace, Progress, Runner, images, in_processes, raw
from distseg.data.shards.formats import IndexEntry, Member, Shard
from distseg.data.shards.inspection import size_and_sha256
from distseg.data.shards.manifest import Manifest, index_json
from distseg.data.shards.packing import write_manifest
from distseg.data.shards.writer import Packed, size_range
from distseg.errors import DataError

_NAME = re.compile(r"([A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.tar")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_REMEDY = "give another --out, so that the samples are copied"


@dataclass(frozen=True, kw_only=True)
class _Task:
    root: str
    uri: str  # of the tar
    split: str


def pack_in_place(
    root: str,
    tars: Mapping[str, Sequence[str]],
    label_space: LabelSpace,
    *,
    dataset: str,
    label_ending: str = "",
    run: Runner | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Manifest:
    """`tars`: those of each split, below `root`. Writes nothing unless all of them can be used."""
    if storage.exists(storage.join(root, MANIFEST_NAME)) and not overwrite:
        raise DataError(f"{root} already holds a packed data set; choose another place, or --overwrite")
    storage.check_writable(root)
    tasks = [_Task(root=root, uri=uri, split=split) for split, uris in tars.items() for uri in uris]
    function = functools.partial(
        _index_of, label_space=label_space, label_ending=label_ending, max_megapixels=max_megapixels
    )
    packed: list[Packed] = []
    indices: dict[str, bytes] = {}
    keys: dict[tuple[str, str], str] = {}
    for number, (done, index, keys_of_tar) in enumerate((run or in_processes(1))(function, tasks), 1):
        for key in keys_of_tar:
            other = keys.setdefault((done.shard.split, key), done.shard.name)
            if other != done.shard.name:
                raise DataError(
                    f"{root}: key {key!r} is in {other} and in {done.shard.name}, both of split {done.shard.split!r}; "
                    f"{_REMEDY}"
                )
        packed.append(done)
        indices[done.shard.index_name] = index
        if progress:
            progress(number, len(tasks))
    for name, index in indices.items():
        storage.write_bytes(storage.join(root, name), index)
    return write_manifest(root, dataset, label_space, packed)


def _index_of(
    task: _Task, *, label_space: LabelSpace, label_ending: str, max_megapixels: float
) -> tuple[Packed, bytes, tuple[str, ...]]:
    """What a tar adds to the manifest, its index, and its keys."""
    name = task.uri.removeprefix(task.root.rstrip("/") + "/")
    if not _NAME.fullmatch(name):
        raise DataError(f"{task.uri}: name it with letters, digits, '-' and '_', and .tar; or {_REMEDY}")
    samples = raw.tar_samples(task.uri, label_ending)
    if not samples:
        raise DataError(f"{task.uri}: no samples in it; remove it")
    groups = {tuple(raw.plain_key(s.said.get(part) or "all") for part in ("condition", "site")) for s in samples}
    if len(groups) > 1:
        raise DataError(f"{task.uri}: samples of {len(groups)} conditions or sites; {_REMEDY}")
    ((condition, site),) = groups
    with images.limited(max_megapixels):
        read = [_entry(task.uri, sample, label_space) for sample in samples]
    entries = tuple(entry for entry, _, _ in read)
    index = index_json(name, entries)
    class_pixels_NC = np.array([entry.class_pixels for entry in entries])
    num_bytes, sha256 = size_and_sha256(task.uri)
    shard = Shard(
        name=name,
        split=task.split,
        condition=condition,
        site=site,
        num_samples=len(entries),
        num_bytes=num_bytes,
        sha256=sha256,
        index_sha256=hashlib.sha256(index).hexdigest(),
        class_samples=tuple((class_pixels_NC > 0).sum(axis=0).tolist()),
    )
    sizes = size_range([size_hw for _, size_hw, _ in read])
    totals = tuple(class_pixels_NC.sum(axis=0).tolist())
    num_void = sum(num for _, _, num in read)
    return Packed(shard, totals, sizes, num_void), index, tuple(entry.key for entry in entries)


def _entry(uri: str, sample: raw.TarSample, label_space: LabelSpace) -> tuple[IndexEntry, tuple[int, int], int]:
    """(its place, height and width, the number of its void pixels)"""
    source, label_source = f"{uri}/{sample.image.name}", f"{uri}/{sample.label.name}"
    if not _KEY.fullmatch(sample.key):
        raise DataError(f"{source}: key {sample.key!r}: use letters, digits, '-' and '_' only; or {_REMEDY}")
    data, label = (storage.read_bytes(uri, place.offset, place.size) for place in (sample.image, sample.label))
    photograph = raw.read_photograph(data, source)
    if photograph.data != data:
        raise DataError(f"{source}: not JPEG or PNG of 8-bit RGB, or not upright; {_REMEDY}")
    decoded = images.decode(label, label_source)
    loaded = raw.labelled(photograph, raw.ids_of(label, label_source), label_space, label_source)
    stored_HW = np.asarray(decoded)
    if decoded.mode != "L" or not np.array_equal(stored_HW, loaded.label_HW):
        raise DataError(f"{label_source}: not 8-bit grey of 0, 1, 2 … for the classes and 255 for void; {_REMEDY}")
    pixels = np.bincount(stored_HW.ravel(), minlength=256)
    members = (
        _member(sample.image, data, photograph.image_format),
        _member(sample.label, label, "label.png"),
        Member("json", sample.image.offset, 0, 0)  # there is none
        if sample.meta is None
        else _member(sample.meta, storage.read_bytes(uri, sample.meta.offset, sample.meta.size), "json"),
    )
    class_pixels = tuple(pixels[: label_space.num_classes].tolist())
    height, width = stored_HW.shape
    return IndexEntry(sample.key, *members, class_pixels), (height, width), int(pixels[255])


def _member(place: raw.Place, content: bytes, extension: str) -> Member:
    return Member(extension, place.offset, place.size, zlib.crc32(content))
