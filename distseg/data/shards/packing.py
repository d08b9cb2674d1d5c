"""Packing: samples -> tar shards, their indices, the manifest. The module `manifest` describes the files.

The bytes depend on the samples, the seed and the size limits alone, not on where or by how many processes they are
packed. Samples are grouped by (split, condition, site), sorted by key, shuffled within a group and cut into tasks of
nearly equal length. A task is one shard, or several where it would exceed a shard's bytes. The module `writer` does the
tasks, anywhere, and each leaves a receipt. The manifest is written last, from the results of the tasks. So a pack that
was stopped continues where it was.
"""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distseg import storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data import (
    MANIFEST_NAME,
    MAX_KEY_LENGTH,
    RECEIPTS,
    LabelSpace,
    Progress,
    Runner,
    Sample,
    in_processes,
    raw,
)
from distseg.data.shards.formats import SizeRange
from distseg.data.shards.manifest import Manifest, load_manifest, seal
from distseg.data.shards.writer import (
    Job,
    Packed,
    Task,
    pack_task,
    read_receipt,
    receipt_uri,
    size_range,
    sources_of,
)
from distseg.errors import DataError, StorageError
from distseg.strict_json import NAME

_log = logging.getLogger(__name__)

MAX_SAMPLES_PER_SHARD = 64  # small shards mix better in training, and samples are read by ranges anyway
MAX_BYTES_PER_SHARD = 256 << 20
_SHARD_FILE = re.compile(r"[A-Za-z0-9_-]+-[A-Za-z0-9_-]+-\d{5,}\.(tar|index\.json)")
_NUM_RECEIPT_READERS = 16


def pack(
    samples: Mapping[str, Iterable[Sample]],
    label_space: LabelSpace,
    out_uri: str,
    *,
    dataset: str,
    seed: int = 0,
    run: Runner | None = None,
    max_samples_per_shard: int = MAX_SAMPLES_PER_SHARD,
    max_bytes_per_shard: int = MAX_BYTES_PER_SHARD,
    jpeg_quality: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    labels_drawn_on: raw.DrawnOn | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Packs the samples of each split below `out_uri` and returns the manifest. `run`: by default, in this process.

    If `out_uri` holds an unfinished pack of the same samples and options, it is continued: the finished shards stay,
    except those of local files that were changed since. Other stores do not say: there, sources must not have changed.
    If it holds any other pack, that is a DataError, or, with `overwrite`, it is
    removed first, its manifest before all else.
    """
    if min(max_samples_per_shard, max_bytes_per_shard) < 1:
        raise ValueError("the limits of a shard must be at least 1")
    job = Job(
        out_uri=out_uri,
        label_space=label_space,
        max_bytes=max_bytes_per_shard,
        jpeg_quality=jpeg_quality,
        max_megapixels=max_megapixels,
        labels_drawn_on=labels_drawn_on,
    )
    tasks = _tasks(samples, seed, max_samples_per_shard)
    is_new = not storage.folder_exists(out_uri)
    storage.check_writable(out_uri)
    _make_room(job, tasks, list(samples), overwrite)
    try:
        packed = _run_tasks(job, tasks, run or in_processes(1), progress)
    except BaseException:
        _tidy(out_uri, list(samples), is_new)
        raise
    manifest = write_manifest(out_uri, dataset, label_space, packed)
    storage.delete_tree(storage.join(out_uri, RECEIPTS))
    for split in manifest.splits:
        storage.delete_unfinished(storage.join(out_uri, split))
    return manifest


def write_manifest(out_uri: str, dataset: str, label_space: LabelSpace, packed: Sequence[Packed]) -> Manifest:
    manifest, data = seal(
        Manifest(
            uri=out_uri,
            dataset=dataset,
            label_space=dataclasses.replace(label_space, id_map={}),
            shards=tuple(done.shard for done in packed),
            class_pixels=_class_pixels(packed),
            image_sizes=_image_sizes(packed),
            digest="",
            void_pixels=_void_pixels(packed),
        )
    )
    storage.write_bytes(storage.join(out_uri, MANIFEST_NAME), data)
    return manifest


def _run_tasks(job: Job, tasks: Sequence[Task], run: Runner, progress: Progress | None) -> list[Packed]:
    """Does the tasks. Returns what each shard adds to the manifest, in the order of the splits and of the names."""
    finished = _finished(job, tasks)
    results = run(functools.partial(pack_task, job=job), [task for task in tasks if task.number not in finished])
    num_samples = sum(len(task.samples) for task in tasks)
    num_done = 0
    packed: list[Packed] = []
    for task in tasks:
        packed += finished[task.number] if task.number in finished else next(results)
        num_done += len(task.samples)
        if progress:
            progress(num_done, num_samples)
    splits = list(dict.fromkeys(task.split for task in tasks))
    return sorted(packed, key=lambda done: (splits.index(done.shard.split), done.shard.name))


# ---- which samples form a task


def _tasks(samples: Mapping[str, Iterable[Sample]], seed: int, max_samples: int) -> list[Task]:
    """The tasks in the order of their shards. Raises DataError for an unusable name and for an empty split."""
    tasks: list[Task] = []
    for split, of_split in samples.items():
        groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        for sample in of_split:
            groups[sample.condition, sample.site].append(sample)
        if not groups:
            raise DataError(f"split {split!r} has no samples; check the data set's folder, or leave the split out")
        _check_names(split, groups)
        for (condition, site), members in sorted(groups.items()):
            members.sort(key=lambda sample: sample.key)
            stream = zlib.crc32(f"{split}/{condition}/{site}".encode())
            order = np.random.default_rng([seed, stream]).permutation(len(members))
            parts = np.array_split(order, -(-len(members) // max_samples))
            tasks += [
                Task(
                    number=len(tasks) + number,
                    split=split,
                    condition=condition,
                    site=site,
                    samples=tuple(members[i] for i in part),
                    shard=number,
                    stride=len(parts),
                )
                for number, part in enumerate(parts)
            ]
    return tasks


def _check_names(split: str, groups: Mapping[tuple[str, str], Sequence[Sample]]) -> None:
    prefixes = Counter(f"{condition}-{site}" for condition, site in groups)
    for prefix, count in prefixes.items():
        if count > 1:
            raise DataError(f"split {split!r}: {count} pairs of condition and site are called {prefix}; rename one")
    for name in {split} | {part for group in groups for part in group}:
        if not NAME.fullmatch(name):
            raise DataError(f"{name!r} names files of the shards: use letters, digits, '-' and '_' only")
    seen: dict[str, Sample] = {}
    for sample in (sample for members in groups.values() for sample in members):
        if not NAME.fullmatch(sample.key) or len(sample.key) > MAX_KEY_LENGTH:
            problem = f"use letters, digits, '-' and '_' only, {MAX_KEY_LENGTH} at most"
            raise DataError(f"{sample.source}: key {sample.key!r} cannot name a member of a tar; {problem}")
        if sample.key in seen:
            sources = f"{seen[sample.key].source} and {sample.source}"
            raise DataError(f"key {sample.key!r} occurs twice in split {split!r}: {sources}")
        seen[sample.key] = sample


# ---- the place that is packed into


def _make_room(job: Job, tasks: Sequence[Task], splits: Sequence[str], overwrite: bool) -> None:
    """Raises DataError if another pack is there. With `overwrite` removes it: files named like shards, nothing else.

    What the samples are read from is never removed: that is a DataError, and nothing is.
    """
    manifest_uri = storage.join(job.out_uri, MANIFEST_NAME)
    has_manifest = storage.exists(manifest_uri)
    if has_manifest:
        if not overwrite:
            raise DataError(f"{job.out_uri} already holds a packed data set; choose another place, or --overwrite")
        with contextlib.suppress(DataError):  # a damaged manifest can be replaced, too
            splits = [*splits, *load_manifest(job.out_uri).splits]
    digest_uri = storage.join(job.out_uri, RECEIPTS, "job.sha256")
    digest = _digest(job, tasks)
    if not overwrite and storage.exists(digest_uri) and storage.read_bytes(digest_uri) == digest:
        return
    files = [entry.uri for split in dict.fromkeys(splits) for entry in _shard_files(job.out_uri, split)]
    every = (file for task in tasks for sample in task.samples for file in sample.files)
    read = set(map(_resolved, every)) if files else set()
    for uri in files:
        if _resolved(uri) in read:
            raise DataError(f"{uri}: the packing reads it, and would put its own shards there; choose another --out")
        if not overwrite:
            raise DataError(
                f"{uri} is of a pack of other data or options that did not finish; choose another place, or --overwrite"
            )
    if has_manifest:
        storage.delete(manifest_uri)
    for uri in files:
        storage.delete(uri)
    storage.delete_tree(storage.join(job.out_uri, RECEIPTS))
    storage.write_bytes(digest_uri, digest)


def _shard_files(out_uri: str, split: str) -> list[storage.Entry]:
    entries = storage.list_files(storage.join(out_uri, split))
    return [entry for entry in entries if _SHARD_FILE.fullmatch(entry.uri.rpartition("/")[2])]


def _resolved(uri: str) -> tuple[str, str]:
    folder, _, name = uri.rpartition("/")
    if storage.is_remote(uri):
        return folder, name
    if Path(uri).is_symlink():
        real = Path(uri).resolve()
        return str(real.parent), real.name
    return _resolved_folder(folder), name


@functools.cache
def _resolved_folder(folder: str) -> str:
    return str(Path(folder).resolve())


def _finished(job: Job, tasks: Sequence[Task]) -> dict[int, list[Packed]]:
    """Results of the tasks that an earlier run finished, by number: they have a receipt, their shards exist, and the
    files that they were made of are the same."""
    receipts = {entry.uri for entry in storage.list_files(storage.join(job.out_uri, RECEIPTS))}
    done = [task for task in tasks if receipt_uri(job.out_uri, task) in receipts]
    if not done:
        return {}
    there = {
        entry.uri: entry.num_bytes
        for split in {task.split for task in done}
        for entry in storage.list_files(storage.join(job.out_uri, split))
    }

    def in_place(packed: Packed) -> bool:
        name = storage.join(job.out_uri, packed.shard.name)
        return there.get(name) == packed.shard.num_bytes and storage.join(job.out_uri, packed.shard.index_name) in there

    with ThreadPoolExecutor(_NUM_RECEIPT_READERS) as threads:
        results = threads.map(lambda task: read_receipt(job.out_uri, task), done)
        found = {task.number: packed for task, packed in zip(done, results, strict=True) if all(map(in_place, packed))}
        sources = dict(zip((task.number for task in done), threads.map(sources_of, done), strict=True))
    # Receipts of an earlier version have no sources, and count as unchanged.
    changed = [n for n, packed in found.items() if any(each.sources not in ("", sources[n]) for each in packed)]
    if changed:
        _log.info("%d shards are packed again: their files have changed", sum(len(found[n]) for n in changed))
    for number in changed:
        for packed in found.pop(number):  # perhaps it will be fewer shards
            for name in (packed.shard.name, packed.shard.index_name):
                storage.delete(storage.join(job.out_uri, name))
    if found:
        num_kept = sum(len(task.samples) for task in done if task.number in found)
        _log.info("%d samples that were packed before the stop are kept; --overwrite packs them again", num_kept)
    return found


def _tidy(out_uri: str, splits: Sequence[str], is_new: bool) -> None:
    """After a failure: finished tasks stay, to be continued from; if there are none, empty folders are removed."""
    receipts = storage.join(out_uri, RECEIPTS)
    with contextlib.suppress(StorageError):  # the failure itself is what the user must see
        if not any(entry.uri.endswith(".json") for entry in storage.list_files(receipts)):
            storage.delete_tree(receipts)
            for split in splits:
                storage.delete_empty(storage.join(out_uri, split))
            if is_new:
                storage.delete_empty(out_uri)


def _digest(job: Job, tasks: Sequence[Task]) -> bytes:
    """Of everything that decides the bytes of the shards, except the content of the sources."""
    drawn_on = (job.labels_drawn_on,) if job.labels_drawn_on else ()
    options = (job.label_space, job.max_bytes, job.jpeg_quality, *drawn_on)
    digest = hashlib.sha256(repr(options).encode())
    for task in tasks:
        digest.update(repr((task.split, task.condition, task.site, task.shard, task.stride)).encode())
        for sample in task.samples:
            digest.update(repr((sample, _described(sample.load))).encode())
    return digest.hexdigest().encode()


def _described(value: object) -> object:
    """A sample's `load`, a partial of a function, as a value whose repr has no addresses of objects in memory."""
    if isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.items())
        return tuple(_described(part) for part in parts)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_described(part) for part in value)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return getattr(value, "__qualname__", value)


# ---- what the manifest says about the content


def _class_pixels(packed: Sequence[Packed]) -> dict[str, dict[str, tuple[int, ...]]]:
    totals: dict[str, dict[str, npt.NDArray[np.int64]]] = {}
    for done in packed:
        of_split = totals.setdefault(done.shard.split, {})
        of_split[done.shard.condition] = of_split.get(done.shard.condition, 0) + np.array(done.class_pixels)
    return {
        split: {condition: tuple(pixels.tolist()) for condition, pixels in of_split.items()}
        for split, of_split in totals.items()
    }


def _void_pixels(packed: Sequence[Packed]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for done in packed:
        totals[done.shard.split] += done.void_pixels
    return dict(totals)


def _image_sizes(packed: Sequence[Packed]) -> dict[str, SizeRange]:
    sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for done in packed:
        sizes[done.shard.split] += done.sizes
    return {split: size_range(sizes_hw) for split, sizes_hw in sizes.items()}
