"""Packing: samples -> tar shards, their indices, the manifest. `distseg.data.manifest` states the layout.

What comes out depends on the samples, the seed and the size limits alone, not on the number of processes: same input,
same bytes. Samples are sorted by key, grouped by (split, condition, site), shuffled within a group, cut into shards of
nearly equal length, and cut further where a shard would exceed its bytes. Shards are made in a temporary directory
(a few at a time) and uploaded under their final names; the manifest is written last.

Everything that reads shards is offered here too: `load_manifest`, `read_index`, `read_sample`, `verify`, `inspect`,
`contact_sheet`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
import re
import tempfile
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distseg import storage
from distseg.data.inspection import Summary, contact_sheet, inspect, verify
from distseg.data.manifest import (
    MANIFEST_NAME,
    Index,
    IndexEntry,
    Manifest,
    Member,
    SampleFiles,
    Shard,
    SizeRange,
    index_json,
    load_manifest,
    read_index,
    read_sample,
    seal,
)
from distseg.data.sample import LabelSpace, Sample
from distseg.data.shard_writer import Part, size_range, write_parts
from distseg.errors import DataError, ResourceError

__all__ = [
    "Index",
    "IndexEntry",
    "Manifest",
    "Member",
    "SampleFiles",
    "Shard",
    "SizeRange",
    "Summary",
    "contact_sheet",
    "inspect",
    "load_manifest",
    "pack",
    "read_index",
    "read_sample",
    "verify",
]

MAX_SAMPLES_PER_SHARD = 64  # small shards mix better (distseg.data.plan), and reading goes by ranges anyway
MAX_BYTES_PER_SHARD = 256 << 20
MAX_KEY_LENGTH = 90  # a USTAR name has 100 bytes, ".label.png" takes 10
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SHARD_FILE = re.compile(r"[A-Za-z0-9_-]+-[A-Za-z0-9_-]+-\d{5,}\.(tar|index\.json)")
_NUM_UPLOADS = 4

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all) as packing goes on."""


def pack(
    samples: Mapping[str, Iterable[Sample]],
    label_space: LabelSpace,
    out_uri: str,
    *,
    dataset: str,
    seed: int = 0,
    num_processes: int = 1,
    max_samples_per_shard: int = MAX_SAMPLES_PER_SHARD,
    max_bytes_per_shard: int = MAX_BYTES_PER_SHARD,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Packs the samples of each split below `out_uri` and returns the manifest.

    Refuses a place that already holds shards, finished or not, unless `overwrite`: then they are removed first,
    the manifest before all else. Needs a `__main__` that can be imported if num_processes > 1 (they are spawned).
    """
    if min(num_processes, max_samples_per_shard, max_bytes_per_shard) < 1:
        raise ValueError("num_processes and the limits of a shard must be at least 1")
    tasks = [task for split in samples for task in _tasks(split, samples[split], seed, max_samples_per_shard)]
    storage.check_writable(out_uri)
    _make_room(out_uri, list(samples), overwrite)
    shards, parts = _write_shards(tasks, label_space, out_uri, num_processes, max_bytes_per_shard, progress)
    manifest, data = seal(
        Manifest(
            uri=out_uri,
            dataset=dataset,
            label_space=dataclasses.replace(label_space, id_map={}),
            shards=tuple(shards),
            class_pixels=_class_pixels(shards, parts),
            image_sizes=_image_sizes(shards, parts),
            digest="",
        )
    )
    storage.write_bytes(storage.join(out_uri, MANIFEST_NAME), data)
    return manifest


# ---- what goes where


@dataclass(frozen=True)
class _Task:
    """Samples that become one shard, or several if they exceed the limit of bytes."""

    split: str
    condition: str
    site: str
    samples: tuple[Sample, ...]


def _tasks(split: str, samples: Iterable[Sample], seed: int, max_samples: int) -> Iterator[_Task]:
    """The shards of a split, in order. Raises DataError for names that cannot be packed and for an empty split."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.condition, sample.site].append(sample)
    if not groups:
        raise DataError(f"split {split!r} has no samples; check the data set's folder, or leave the split out")
    _check_names(split, groups)
    for (condition, site), members in sorted(groups.items()):
        members.sort(key=lambda sample: sample.key)
        stream = zlib.crc32(f"{split}/{condition}/{site}".encode())
        order = np.random.default_rng([seed, stream]).permutation(len(members))
        for part in np.array_split(order, -(-len(members) // max_samples)):
            yield _Task(split, condition, site, tuple(members[i] for i in part))


def _check_names(split: str, groups: Mapping[tuple[str, str], Sequence[Sample]]) -> None:
    prefixes = Counter(f"{condition}-{site}" for condition, site in groups)
    for prefix, count in prefixes.items():
        if count > 1:
            raise DataError(f"split {split!r}: {count} pairs of condition and site are called {prefix}; rename one")
    for name in {split} | {part for group in groups for part in group}:
        if not _PLAIN_NAME.fullmatch(name):
            raise DataError(f"{name!r} names files of the shards: use letters, digits, '-' and '_' only")
    seen: dict[str, Sample] = {}
    for sample in (sample for members in groups.values() for sample in members):
        if not _PLAIN_NAME.fullmatch(sample.key) or len(sample.key) > MAX_KEY_LENGTH:
            problem = f"use letters, digits, '-' and '_' only, {MAX_KEY_LENGTH} at most"
            raise DataError(f"{sample.source}: key {sample.key!r} cannot name a member of a tar; {problem}")
        if sample.key in seen:
            sources = f"{seen[sample.key].source} and {sample.source}"
            raise DataError(f"key {sample.key!r} occurs twice in split {split!r}: {sources}")
        seen[sample.key] = sample


def _make_room(out_uri: str, splits: Sequence[str], overwrite: bool) -> None:
    """Refuses to mix with an earlier pack, or removes it: files that are named like shards, nothing else."""
    manifest_uri = storage.join(out_uri, MANIFEST_NAME)
    if storage.exists(manifest_uri):
        if not overwrite:
            raise DataError(f"{out_uri} already holds a packed data set; choose another place, or --overwrite")
        with contextlib.suppress(DataError):  # a damaged manifest must not be in the way of its replacement
            splits = [*splits, *load_manifest(out_uri).splits]
        storage.delete(manifest_uri)
    for split in dict.fromkeys(splits):
        for entry in list(storage.list_files(storage.join(out_uri, split))):
            if not _SHARD_FILE.fullmatch(entry.uri.rpartition("/")[2]):
                continue
            if not overwrite:
                raise DataError(f"{entry.uri} is of a pack that did not finish; choose another place, or --overwrite")
            storage.delete(entry.uri)


# ---- writing


def _write_shards(
    tasks: Sequence[_Task],
    label_space: LabelSpace,
    out_uri: str,
    num_processes: int,
    max_bytes: int,
    progress: Progress | None,
) -> tuple[list[Shard], list[Part]]:
    shards: list[Shard] = []
    written: list[Part] = []
    numbers: Counter[tuple[str, str, str]] = Counter()
    num_samples = sum(len(task.samples) for task in tasks)
    num_done = 0
    with tempfile.TemporaryDirectory(prefix="distseg-pack-") as folder, _Uploads() as uploads:
        write = functools.partial(_write_task, label_space=label_space, max_bytes=max_bytes, folder=folder)
        for task, parts in zip(tasks, _in_order(write, tasks, num_processes), strict=True):
            for part in parts:
                group = (task.split, task.condition, task.site)
                shards.append(_shard(task, part, numbers[group]))
                written.append(part)
                numbers[group] += 1
                uploads.submit(functools.partial(_publish, part, shards[-1], out_uri))
            num_done += len(task.samples)
            if progress:
                progress(num_done, num_samples)
    return shards, written


def _in_order(write: Callable[[_Task], list[Part]], tasks: Sequence[_Task], num_processes: int) -> Iterator[list[Part]]:
    """`map(write, tasks)` over processes, running ahead by a few tasks only."""
    num_processes = min(num_processes, len(tasks))
    if num_processes == 1:
        yield from map(write, tasks)
        return
    pool = ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn"))
    pending: deque[Future[list[Part]]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(write, task))
            if len(pending) > 2 * num_processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a packing process was killed, perhaps for memory; use fewer with --num_processes"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Uploads:
    """A few uploads at a time; `submit` waits for the oldest when there are too many, and raises its error."""

    def __init__(self) -> None:
        self._pool: Executor = ThreadPoolExecutor(_NUM_UPLOADS)
        self._pending: deque[Future[None]] = deque()

    def submit(self, upload: Callable[[], None]) -> None:
        self._pending.append(self._pool.submit(upload))
        if len(self._pending) > 2 * _NUM_UPLOADS:
            self._pending.popleft().result()

    def __enter__(self) -> "_Uploads":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error_type is not None)
        if error_type is None:
            for upload in self._pending:
                upload.result()


def _publish(part: Part, shard: Shard, out_uri: str) -> None:
    storage.upload(part.path, storage.join(out_uri, shard.name))
    storage.write_bytes(storage.join(out_uri, shard.index_name), index_json(shard.name, part.entries))
    Path(part.path).unlink()


def _shard(task: _Task, part: Part, number: int) -> Shard:
    name = f"{task.split}/{task.condition}-{task.site}-{number:05d}.tar"
    return Shard(
        name=name,
        split=task.split,
        condition=task.condition,
        site=task.site,
        num_samples=len(part.entries),
        num_bytes=part.num_bytes,
        sha256=part.sha256,
        index_sha256=hashlib.sha256(index_json(name, part.entries)).hexdigest(),
    )


def _write_task(task: _Task, *, label_space: LabelSpace, max_bytes: int, folder: str) -> list[Part]:
    """Runs in a packing process."""
    return write_parts(task.samples, label_space, max_bytes, folder)


# ---- what the manifest says of the content


def _class_pixels(shards: Sequence[Shard], parts: Sequence[Part]) -> dict[str, dict[str, tuple[int, ...]]]:
    totals: dict[str, dict[str, npt.NDArray[np.int64]]] = {}
    for shard, part in zip(shards, parts, strict=True):
        of_split = totals.setdefault(shard.split, {})
        of_split[shard.condition] = of_split.get(shard.condition, 0) + part.class_pixels
    return {
        split: {condition: tuple(pixels.tolist()) for condition, pixels in of_split.items()}
        for split, of_split in totals.items()
    }


def _image_sizes(shards: Sequence[Shard], parts: Sequence[Part]) -> dict[str, SizeRange]:
    sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for shard, part in zip(shards, parts, strict=True):
        sizes[shard.split] += part.sizes
    return {split: size_range(sizes_hw) for split, sizes_hw in sizes.items()}
