"""Reads training batches: `TrainReader` yields this rank's part of each global batch, from any batch on, for ever.

A global batch is one micro-batch over all ranks: `optim.accumulate_steps` of them make a step of the optimiser.

A rank holds prefetch_batches + 1 batches and a bounded number of shard indices, whatever the size of the data set.
Images are uint8 RGB, labels uint8 train ids with 255 for void. What a sample looks like depends on (seed, position) and
its content alone: not on the number of ranks or threads, nor on where training was resumed.

A sample that is damaged is a DataError naming shard and key, or skipped where that was asked for.
"""

import logging
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np
import torch

from distseg import storage
from distseg.config import MAX_MEGAPIXELS, AugmentConfig, Sampling
from distseg.data import IGNORE_INDEX
from distseg.data.loading.cache import ShardCache
from distseg.data.loading.decoding import log_missing_libraries
from distseg.data.loading.plan import SampleRef, TrainPlan, lanes_of
from distseg.data.loading.sampling import streams_of
from distseg.data.loading.source import Decoded, Out, Source
from distseg.data.loading.threads import reading_threads
from distseg.data.loading.transforms import Crop, UInt8Array, centre_crop, train_crop
from distseg.data.shards import Manifest, Shard
from distseg.errors import DataError

_log = logging.getLogger(__name__)

_FETCHED_AHEAD = 256  # batches: the shards of at most so many are fetched before they are needed
_FETCHED_AT_ONCE = 8  # batches looked at for each that is made: to look at all 256 at once would delay the first batch
_MAX_NEIGHBOURS = 8  # tried in the place of a bad sample


class Batch(NamedTuple):
    images_B3HW: torch.Tensor  # uint8, channels_last
    labels_BHW: torch.Tensor  # uint8
    keys: tuple[str, ...]  # "<shard name>/<key>", in a mixture "<data set's URI>/<shard name>/<key>"
    positions: tuple[int, ...]  # in the training stream
    num_bad: int  # slots whose sample was skipped: a neighbour's image, all labels void


class DatasetPart(NamedTuple):
    """What is read of one data set."""

    manifest: Manifest
    shards: Sequence[Shard]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How training data are read. Those up to `on_bad_sample` decide what is in a batch, the others how it is made."""

    batch_size: int  # of a micro-batch, over all ranks
    crop_px: tuple[int, int]  # height, width
    augment: AugmentConfig | None  # None: the centre of the photograph, pixels as they are
    seed: int
    shuffle_window: int = 256  # turns within which a lane shuffles
    sampling: Sampling = "each"
    mix_weights: Sequence[float] = ()  # shares of the data sets; by default their numbers of samples
    on_bad_sample: Literal["fail", "skip"] = "fail"
    max_bad_samples: int = 100  # a skipping reader fails after so many of its own
    max_megapixels: float = MAX_MEGAPIXELS  # of a photograph
    num_threads: int = 2
    prefetch_batches: int = 4
    deadline_s: float = storage.DEADLINE_S
    cache_bytes: int = 0  # 0: shards of an object store are not kept on this node's disk
    cache_dir: str = ""  # shared by the ranks of a node; "": a directory for temporary files
    pin_memory: bool = False  # batches lie in memory that a GPU reads by itself, beside other work of the host


class TrainReader:
    """Iterator of this rank's batches. Close it, or use it as a context manager: it owns threads."""

    def __init__(
        self,
        datasets: Sequence[DatasetPart],
        options: ReadOptions,
        *,
        rank: int = 0,
        world: int = 1,
        start_batch: int = 0,
    ) -> None:
        """Begins to read global batch `start_batch`. Several data sets are a mixture."""
        log_missing_libraries()
        self._options = options
        streams = streams_of([each.shards for each in datasets], options.sampling, options.mix_weights)
        self._plan = TrainPlan(
            streams, batch_size=options.batch_size, seed=options.seed, shuffle_window=options.shuffle_window
        )
        self._lanes = lanes_of(rank, world, options.batch_size)
        uris = [each.manifest.uri for each in datasets]
        remote = [uri for uri in uris if storage.is_remote(uri)]
        self._cache = (
            ShardCache(options.cache_dir, options.cache_bytes, deadline_s=options.deadline_s)
            if remote and options.cache_bytes
            else None
        )
        self._threads = reading_threads((*remote, uris[0])[0], options.num_threads)
        weakref.finalize(self, self._threads.close)
        self._sources = [
            Source(
                *each,
                self._num_indices(dataset),
                self._threads,
                options.deadline_s,
                self._cache,
                options.max_megapixels,
            )
            for dataset, each in enumerate(datasets)
        ]
        self._prefixes = [f"{uri}/" for uri in uris] if len(uris) > 1 else [""]
        size = (len(self._lanes), *options.crop_px)
        self._image_buffers = _Buffers((*size, 3), is_pinned=options.pin_memory)
        self._label_buffers = _Buffers(size, is_pinned=options.pin_memory)
        self._num_bad = 0
        self.next_batch = start_batch
        """The global batch that `next` will return."""
        self.wait_s = 0.0
        """How long the consumer has waited for batches, in total."""
        # A lane that comes to a new window needs the shards of that window all at once, so they are fetched during the
        # window before it.
        self._fetched_ahead = min(options.shuffle_window, _FETCHED_AHEAD)
        self._fetched_until = start_batch
        self._slots_per_task = 1
        self._pending: deque[_Pending] = deque()
        self._begin(ranges_only=bool(remote) and self._cache is None)

    def _begin(self, *, ranges_only: bool) -> None:
        """Starts the first batches. All threads share the work on each of them, so that the first comes soon.

        Later batches are cut into fewer and larger tasks, two for each thread among the batches in work, because each
        task costs some handovers of Python's lock. Where samples are ranges of S3, each sample stays a task of its own.
        """
        num_threads, prefetch_batches = self._options.num_threads, self._options.prefetch_batches
        if self._cache:
            self._cache.hold()
        elif not ranges_only:
            self._slots_per_task = -(-len(self._lanes) // num_threads)
        self._pending.extend(self._start(self.next_batch + ahead) for ahead in range(prefetch_batches))
        if self._cache:
            self._cache.go_on_after(self._pending[0].tasks if self._pending else [])
        if not ranges_only:
            tasks_per_batch = min(num_threads, -(-2 * num_threads // max(1, prefetch_batches)))
            self._slots_per_task = -(-len(self._lanes) // tasks_per_batch)

    def _num_indices(self, dataset: int) -> int:
        """How many indices of a data set to hold: 0.3 MB each, for shards of 1,000 samples."""
        num_windows = 2 if self._cache else 1  # the next one's are fetched
        return min(num_windows * len(self._lanes) * self._plan.open_shards_per_lane(dataset), 1024)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        self._pending.append(self._start(self.next_batch + len(self._pending)))
        pending = self._pending.popleft()
        self.next_batch += 1
        began = time.perf_counter()
        slots = [slot for task in pending.tasks for slot in task.result()]
        self.wait_s += time.perf_counter() - began
        self._count_bad([slot for slot in slots if slot.problem])
        return Batch(
            images_B3HW=torch.from_numpy(pending.images_BHW3).permute(0, 3, 1, 2),
            labels_BHW=torch.from_numpy(pending.labels_BHW),
            keys=tuple(slot.key for slot in slots),
            positions=tuple(slot.position for slot in slots),
            num_bad=sum(bool(slot.problem) for slot in slots),
        )

    def close(self) -> None:
        self._threads.close()
        if self._cache:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, b: int) -> "_Pending":
        refs = self._plan.batch(b, self._lanes)
        images_BHW3, labels_BHW = self._image_buffers.take(), self._label_buffers.take()
        tasks = [
            self._threads.submit(self._fill, refs[i : i + self._slots_per_task], images_BHW3, labels_BHW, i)
            for i in range(0, len(refs), self._slots_per_task)
        ]
        if self._cache:
            self._fetch_ahead(b, self._cache)
        return _Pending(images_BHW3, labels_BHW, tasks)

    def _fetch_ahead(self, b: int, cache: ShardCache) -> None:
        """Fetches the shards of the batches after b, a few batches at each call, until it is far enough ahead."""
        ahead = max(self._fetched_until, b)
        until = min(b + self._fetched_ahead, ahead + _FETCHED_AT_ONCE)
        while ahead < until and not cache.is_far_ahead():
            for ref in self._plan.batch(ahead, self._lanes):
                self._sources[ref.dataset].fetch(ref)
            ahead += 1
        self._fetched_until = ahead

    def _fill(
        self, refs: Sequence[SampleRef], images_BHW3: UInt8Array, labels_BHW: UInt8Array, first: int
    ) -> "list[_Slot]":
        """Runs in a thread: the slots of a batch from `first` on."""
        return [self._fill_slot(ref, images_BHW3[i], labels_BHW[i]) for i, ref in enumerate(refs, first)]

    def _fill_slot(self, ref: SampleRef, image_HW3: UInt8Array, label_HW: UInt8Array) -> "_Slot":
        """Reads a sample, crops it and writes it into the arrays. A bad one becomes its neighbour, all void."""
        key, problem = "", ""
        try:
            sample = self._read(ref, (image_HW3, label_HW) if self._options.augment is None else None)
        except DataError as error:
            if self._options.on_bad_sample == "fail":
                raise
            key = self._prefixes[ref.dataset] + self._sources[ref.dataset].key_or_number(ref)
            problem = str(error)
            sample = self._neighbour(ref, error)
        is_in_place = sample.image_HW3 is image_HW3, sample.label_HW is label_HW  # it had the size of the crop
        if not all(is_in_place):
            crop = self._crop(sample, ref.position, None if problem else ref.target_class)
            if not is_in_place[0]:
                image_HW3[...] = crop.image_HW3
            if not is_in_place[1]:
                label_HW[...] = IGNORE_INDEX if problem else crop.label_HW
        return _Slot(key or sample.key, ref.position, problem)

    def _crop(self, sample: Decoded, position: int, target_class: int | None) -> Crop:
        options = self._options
        if options.augment is None:
            return centre_crop(sample.image_HW3, sample.label_HW, options.crop_px)
        rng = np.random.default_rng([options.seed, position])
        return train_crop(sample.image_HW3, sample.label_HW, options.crop_px, options.augment, rng, target_class)

    def _read(self, ref: SampleRef, out: Out | None = None) -> Decoded:
        """In a mixture, keys and errors begin with the data set's URI."""
        prefix = self._prefixes[ref.dataset]
        try:
            sample = self._sources[ref.dataset].read(ref, out)
        except DataError as error:
            raise DataError(f"in {prefix} {error}") if prefix else error from None
        return sample._replace(key=prefix + sample.key)

    def _neighbour(self, ref: SampleRef, error: DataError) -> Decoded:
        """The next readable sample of the same lane, which is the same for any number of ranks."""
        for turn in range(1, _MAX_NEIGHBOURS + 1):
            try:
                return self._read(self._plan.at(ref.position + turn * self._plan.batch_size))
            except DataError:
                continue
        raise DataError(f"{error}; nor can the {_MAX_NEIGHBOURS} samples after it be read")

    def _count_bad(self, bad: Sequence["_Slot"]) -> None:
        max_bad = self._options.max_bad_samples
        for slot in bad:
            self._num_bad += 1
            _log.warning("skipped bad sample %d of at most %d: %s", self._num_bad, max_bad, slot.problem)
            if self._num_bad > max_bad:
                limit = f"more than data.max_bad_samples = {max_bad} bad samples"
                raise DataError(f"{limit}; the last: {slot.problem}; python -m distseg.pack verify lists the damage")


class _Buffers:
    """uint8 arrays of one shape, used again once nothing refers to them, since new memory costs a fault per page."""

    def __init__(self, shape: tuple[int, ...], *, is_pinned: bool = False) -> None:
        self._shape, self._is_pinned = shape, is_pinned
        self._free: deque[UInt8Array] = deque()

    def take(self) -> UInt8Array:
        """Its content is arbitrary. Keep this array or a tensor of it: NumPy's views do not keep it in use."""
        if self._is_pinned:  # PyTorch uses such memory again by itself, when no copy to a GPU reads it any more
            return torch.empty(self._shape, dtype=torch.uint8, pin_memory=True).numpy()
        array = self._free.pop() if self._free else np.empty(self._shape, dtype=np.uint8)
        lent = array[...]
        weakref.finalize(lent, self._free.append, array).atexit = False
        return lent


class _Slot(NamedTuple):
    key: str
    position: int
    problem: str  # empty: none


class _Pending(NamedTuple):
    images_BHW3: UInt8Array
    labels_BHW: UInt8Array
    tasks: list[Future[list[_Slot]]]  # in the order of the slots
