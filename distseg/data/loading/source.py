"""Reads single samples of one packed data set: index -> byte range -> arrays. From disk, S3 or the node's cache.

A damaged sample (short range, wrong CRC, image that cannot be decoded, label id outside the label space, label map of
another size than its image) is read a second time; if it is still damaged, a DataError names shard and key.
"""

import contextlib
import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from distseg import storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data.loading.cache import ShardCache
from distseg.data.loading.decoding import decode_ids, decode_rgb
from distseg.data.loading.plan import SampleRef, number_in_shard
from distseg.data.loading.threads import DaemonThreads
from distseg.data.shards import Index, IndexEntry, Manifest, ReadRange, SampleViews, Shard, read_index, view_sample
from distseg.errors import DataError, StorageError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_MAX_OPEN_FILES = 128  # of a data set on disk


class Decoded(NamedTuple):
    key: str  # "<shard name>/<key>"
    shard: Shard
    image_HW3: npt.NDArray[np.uint8]
    label_HW: npt.NDArray[np.uint8]  # train ids, checked
    meta: bytes  # its .json, as packed


Out = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Arrays (H, W, 3) and (H, W) that image and label map are decoded into, if they have that size."""


class Source:
    """Reads and decodes single samples. `threads` call it; while one waits for a server, another takes its turn."""

    def __init__(
        self,
        manifest: Manifest,
        shards: Sequence[Shard],
        num_indices: int,
        threads: DaemonThreads,
        deadline_s: float,
        cache: ShardCache | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        self._manifest = manifest
        self._shards = shards
        self._deadline_s = deadline_s
        self._max_megapixels = max_megapixels
        self._indices = IndexCache(manifest, num_indices, deadline_s)
        self._fetching: set[str] = set()  # names of shards whose index is being fetched
        self._threads = threads
        is_remote = storage.is_remote(manifest.uri)
        self._cache = cache if is_remote else None
        self._files = None if is_remote else storage.OpenFiles(_MAX_OPEN_FILES)

    def fetch(self, ref: SampleRef) -> None:
        """Starts to fetch the shard of a sample and its index into the caches, in the background."""
        if not self._cache:
            return
        shard = self._shards[ref.shard]
        self._cache.fetch(self._manifest, shard)
        if shard.name not in self._fetching and not self._indices.at_hand(shard):
            self._fetching.add(shard.name)
            self._threads.submit(self._fetch_index, shard)

    def _fetch_index(self, shard: Shard) -> None:
        """Errors are ignored here: the thread that reads a sample of the shard tries again and reports them."""
        with contextlib.suppress(DataError, StorageError), self._threads.while_waiting():
            self._indices.get(shard)
        self._fetching.discard(shard.name)

    def read(self, ref: SampleRef, out: Out | None = None) -> Decoded:
        """The arrays of `out` are used where image and label map have their size."""
        shard = self._shards[ref.shard]
        index = self._indices.at_hand(shard)
        if index is None:
            with self._threads.while_waiting():
                index = _twice(functools.partial(self._indices.get, shard))
        return _twice(functools.partial(self._read, shard, _entry(ref, shard, index), out))

    def _read(self, shard: Shard, entry: IndexEntry, out: Out | None) -> Decoded:
        files = self._read_files(shard, entry)
        key = f"{shard.name}/{entry.key}"
        out_HW3, out_HW = out or (None, None)
        image_HW3 = decode_rgb(files.image, key, out_HW3, self._max_megapixels)
        num_classes = self._manifest.label_space.num_classes
        label_HW = decode_ids(files.label, num_classes, key, out_HW, self._max_megapixels)
        if image_HW3.shape[:2] != label_HW.shape:
            (height, width), (label_height, label_width) = image_HW3.shape[:2], label_HW.shape
            sizes = f"{width}x{height} pixels, its label {label_width}x{label_height}"
            raise DataError(f"{key}: the image is {sizes}")
        return Decoded(key, shard, image_HW3, label_HW, bytes(files.meta))

    def _read_files(self, shard: Shard, entry: IndexEntry) -> SampleViews:
        try:
            return view_sample(self._manifest, shard, entry, deadline_s=self._deadline_s, read=self._ranges_of(shard))
        except DataError:  # the file may have been repaired, or only its copy in the cache be damaged: open it anew
            if self._cache:
                self._cache.forget(shard)
            if self._files:
                self._files.close()
            raise

    def _ranges_of(self, shard: Shard) -> ReadRange:
        if self._files:
            return self._files.read_bytes
        if self._cache:
            return functools.partial(self._cache.read_bytes, self._manifest, shard, otherwise=self._wait_for)
        return self._wait_for

    def _wait_for(self, uri: str, start: int, length: int, *, deadline_s: float) -> bytes:
        with self._threads.while_waiting():
            return storage.read_bytes(uri, start, length, deadline_s=deadline_s)

    def key_or_number(self, ref: SampleRef) -> str:
        """Names a sample that cannot be read: by its key, or by its number if the index cannot be read either."""
        shard = self._shards[ref.shard]
        try:
            return f"{shard.name}/{_entry(ref, shard, self._indices.get(shard)).key}"
        except DataError:
            return f"{shard.name}/#{ref.index}"


def _entry(ref: SampleRef, shard: Shard, index: Index) -> IndexEntry:
    try:
        return index.entries[number_in_shard(ref, index.entries.class_pixels_NK)]
    except IndexError:
        shown = "samples" if ref.target_class is None else f"samples that show class {ref.target_class}"
        raise DataError(
            f"{shard.name}: fewer {shown} in its index than in the manifest; pack the data set again"
        ) from None


def _twice(read: Callable[[], _T]) -> _T:
    """Reads again after a DataError: data damaged in transfer are sound the second time, damaged files are not."""
    try:
        return read()
    except DataError as error:
        _log.warning("reading again: %s", error)
        return read()


class IndexCache:
    """Indices of the shards used last. One thread reads an index that is asked for; others that need it wait."""

    def __init__(self, manifest: Manifest, capacity: int, deadline_s: float) -> None:
        self._manifest = manifest
        self._capacity = capacity
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._indices: OrderedDict[str, Future[Index]] = OrderedDict()

    def at_hand(self, shard: Shard) -> Index | None:
        """The index if it has been read, without waiting; else None."""
        index = self._indices.get(shard.name)
        if index is None or not index.done() or index.exception():
            return None
        with contextlib.suppress(KeyError):  # another thread has just removed it
            self._indices.move_to_end(shard.name)
        return index.result()

    def get(self, shard: Shard) -> Index:
        with self._lock:
            index = self._indices.get(shard.name)
            is_mine = index is None
            if index is None:
                index = self._indices[shard.name] = Future()
            self._indices.move_to_end(shard.name)
            if len(self._indices) > self._capacity:
                self._indices.popitem(last=False)
        if is_mine:
            self._load(shard, index)
        return index.result()

    def _load(self, shard: Shard, index: Future[Index]) -> None:
        try:
            index.set_result(read_index(self._manifest, shard, deadline_s=self._deadline_s))
        except BaseException as error:  # noqa: BLE001 — the threads that wait for the index must get the error
            with self._lock:
                self._indices.pop(shard.name, None)
            index.set_exception(error)
