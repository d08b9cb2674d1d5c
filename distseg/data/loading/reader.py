"""Executes a plan: samples -> crops -> batches. Threads, bounded prefetch, resumable at any batch.

    TrainReader     this rank's part of global batch start_batch, start_batch + 1, … for ever
    eval_samples    this rank's share of the samples, once, in order

A rank holds prefetch_batches + 1 batches and a bounded number of shard indices, whatever the size of the data set.
Images are uint8 RGB, labels uint8 train ids with 255 for void. What a sample looks like depends on (seed, position) and
its content alone: not on the number of ranks or threads, nor on where training was resumed.

A sample that is damaged is a DataError naming shard and key, or skipped where that was asked for.
"""

import logging
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from distseg import storage
from distseg.config import AugmentConfig, Sampling
from distseg.data import IGNORE_INDEX
from distseg.data.loading.cache import ShardCache
from distseg.data.loading.plan import SampleRef, TrainPlan, eval_share, lanes_of, streams_of
from distseg.data.loading.source import Decoded, Out, Source
from distseg.data.loading.threads import DaemonThreads
from distseg.data.loading.transforms import centre_crop, train_crop
from distseg.data.shards import Manifest, Shard
from distseg.errors import DataError

_log = logging.getLogger(__name__)

_WAITING_THREADS = 8  # beside the decoding ones, so that S3's latency is waited for in parallel
_FETCHED_AHEAD = 256  # batches at most: what they need of S3 is fetched now, whatever epoch they are in
_FETCHED_AT_ONCE = 8  # batches for each that is made: to look for all of those ahead would take the first one's time
_MAX_NEIGHBOURS = 8  # tried in the place of a bad sample


class Batch(NamedTuple):
    images_B3HW: torch.Tensor  # uint8, channels_last
    labels_BHW: torch.Tensor  # uint8
    keys: tuple[str, ...]  # "<shard name>/<key>", in a mixture "<data set's URI>/<shard name>/<key>"
    positions: tuple[int, ...]  # in the training stream
    num_bad: int  # slots whose sample was skipped: a neighbour's image, all labels void


class EvalSample(NamedTuple):
    image_3HW: torch.Tensor  # uint8
    label_HW: torch.Tensor  # uint8
    key: str  # "<shard name>/<key>"
    condition: str
    site: str


class DatasetPart(NamedTuple):
    """What is read of one data set."""

    manifest: Manifest
    shards: Sequence[Shard]


class TrainReader:
    """Iterator of this rank's batches. Close it, or use it as a context manager: it owns threads."""

    def __init__(
        self,
        manifest: Manifest,
        shards: Sequence[Shard],
        *,
        batch_size: int,
        crop_px: tuple[int, int],
        augment: AugmentConfig | None,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start_batch: int = 0,
        shuffle_window: int = 256,
        num_threads: int = 2,
        prefetch_batches: int = 4,
        on_bad_sample: Literal["fail", "skip"] = "fail",
        max_bad_samples: int = 100,
        deadline_s: float = storage.DEADLINE_S,
        sampling: Sampling = "each",
        mix: Sequence[DatasetPart] = (),
        mix_weights: Sequence[float] = (),
        cache_bytes: int = 0,
        cache_dir: str = "",
    ) -> None:
        """batch_size is global. A skipping reader fails after max_bad_samples of its own, since it was made.

        `mix` are further data sets, `mix_weights` the shares of all of them, the first's before the others'.
        With cache_bytes, shards of S3 are kept in cache_dir, which the ranks of a node share.
        """
        parts = [DatasetPart(manifest, shards), *mix]
        streams = streams_of([part.shards for part in parts], sampling, mix_weights)
        self._plan = TrainPlan(streams, batch_size=batch_size, seed=seed, shuffle_window=shuffle_window)
        self._lanes = lanes_of(rank, world, batch_size)
        remote = [part.manifest.uri for part in parts if storage.is_remote(part.manifest.uri)]
        self._cache = ShardCache(cache_dir, cache_bytes, deadline_s=deadline_s) if remote and cache_bytes else None
        self._threads = _threads_for((*remote, manifest.uri)[0], num_threads)
        weakref.finalize(self, self._threads.close)
        self._slots_per_task = 1
        self._sources = [
            Source(*part, self._num_indices(dataset), self._threads, deadline_s, self._cache)
            for dataset, part in enumerate(parts)
        ]
        self._prefixes = [f"{part.manifest.uri}/" for part in parts] if mix else [""]
        self._image_buffers = _Buffers((len(self._lanes), *crop_px, 3))
        self._label_buffers = _Buffers((len(self._lanes), *crop_px))
        self._crop_px = crop_px
        self._augment = augment
        self._seed = seed
        self._skips = on_bad_sample == "skip"
        self._max_bad = max_bad_samples
        self._num_bad = 0
        self.next_batch = start_batch
        """The global batch that `next` will return."""
        self.wait_s = 0.0
        """How long the consumer has waited for batches, in total."""
        # Lanes that come to a new window need its shards all at once: the window before is for fetching them.
        self._fetched_ahead = min(shuffle_window, _FETCHED_AHEAD)
        self._fetched_until = start_batch
        self._pending: deque[_Pending] = deque()
        self._begin(prefetch_batches, num_threads, ranges_only=bool(remote) and self._cache is None)

    def _begin(self, prefetch_batches: int, num_threads: int, *, ranges_only: bool) -> None:
        """Starts on the first batches, each made by all threads together; of S3 each sample is a GET.

        Later a task is as large as leaves two of them for each thread, since each costs a few turns of Python's lock.
        """
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
        """Keeps as far ahead of batch b as it should be; at first it gets there little by little."""
        ahead = max(self._fetched_until, b)
        until = min(b + self._fetched_ahead, ahead + _FETCHED_AT_ONCE)
        while ahead < until and not cache.is_far_ahead():
            for ref in self._plan.batch(ahead, self._lanes):
                self._sources[ref.dataset].fetch(ref)
            ahead += 1
        self._fetched_until = ahead

    def _fill(
        self,
        refs: Sequence[SampleRef],
        images_BHW3: npt.NDArray[np.uint8],
        labels_BHW: npt.NDArray[np.uint8],
        first: int,
    ) -> "list[_Slot]":
        """Runs in a thread: the slots of a batch from `first` on."""
        return [self._fill_slot(ref, images_BHW3, labels_BHW, i) for i, ref in enumerate(refs, first)]

    def _fill_slot(
        self, ref: SampleRef, images_BHW3: npt.NDArray[np.uint8], labels_BHW: npt.NDArray[np.uint8], i: int
    ) -> "_Slot":
        key, problem = "", ""
        image_HW3, label_HW = images_BHW3[i], labels_BHW[i]
        try:
            sample = self._read(ref, (image_HW3, label_HW) if self._augment is None else None)
        except DataError as error:
            if not self._skips:
                raise
            key = self._prefixes[ref.dataset] + self._sources[ref.dataset].key_or_number(ref)
            problem = str(error)
            sample = self._neighbour(ref, error)
        if sample.image_HW3 is image_HW3 and sample.label_HW is label_HW:
            return _Slot(sample.key, ref.position, problem)
        if self._augment is None:
            crop = centre_crop(sample.image_HW3, sample.label_HW, self._crop_px)
        else:
            rng = np.random.default_rng([self._seed, ref.position])
            showing = None if problem else ref.showing
            crop = train_crop(sample.image_HW3, sample.label_HW, self._crop_px, self._augment, rng, showing)
        if sample.image_HW3 is not image_HW3:  # it is not there yet
            image_HW3[...] = crop.image_HW3
        if problem:
            label_HW[...] = IGNORE_INDEX
        elif sample.label_HW is not label_HW:
            label_HW[...] = crop.label_HW
        return _Slot(key or sample.key, ref.position, problem)

    def _read(self, ref: SampleRef, out: Out | None = None) -> Decoded:
        """In a mixture keys and errors say which data set is meant."""
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
        for slot in bad:
            self._num_bad += 1
            _log.warning("skipped bad sample %d of at most %d: %s", self._num_bad, self._max_bad, slot.problem)
            if self._num_bad > self._max_bad:
                limit = f"more than data.max_bad_samples = {self._max_bad} bad samples"
                raise DataError(f"{limit}; the last: {slot.problem}; python -m distseg.pack verify lists the damage")


class _Buffers:
    """uint8 arrays of one shape, used again once nothing refers to them: fresh memory costs a fault per page."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: deque[npt.NDArray[np.uint8]] = deque()

    def take(self) -> npt.NDArray[np.uint8]:
        """Its content is arbitrary. Tensors made of it refer to it, NumPy's views of it do not: pass it on whole."""
        array = self._free.pop() if self._free else np.empty(self._shape, dtype=np.uint8)
        lent = array[...]
        weakref.finalize(lent, self._free.append, array).atexit = False
        return lent


class _Slot(NamedTuple):
    key: str
    position: int
    problem: str  # empty: none


class _Pending(NamedTuple):
    images_BHW3: npt.NDArray[np.uint8]
    labels_BHW: npt.NDArray[np.uint8]
    tasks: list[Future[list[_Slot]]]  # in the order of the slots


def eval_samples(
    manifest: Manifest,
    shards: Sequence[Shard],
    *,
    rank: int = 0,
    world: int = 1,
    num_threads: int = 2,
    prefetch: int = 16,
    deadline_s: float = storage.DEADLINE_S,
) -> Iterator[EvalSample]:
    """This rank's share of all samples, each once, in the order of the shards. Raises DataError for a damaged one."""
    threads = _threads_for(manifest.uri, num_threads)
    source = Source(manifest, shards, 4, threads, deadline_s)
    refs = eval_share([shard.num_samples for shard in shards], rank, world)
    pending: deque[Future[EvalSample]] = deque()
    try:
        for ref in refs:
            pending.append(threads.submit(_eval_sample, source, ref))
            if len(pending) > prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.close()


def _eval_sample(source: Source, ref: SampleRef) -> EvalSample:
    sample = source.read(ref)
    return EvalSample(
        image_3HW=torch.from_numpy(np.require(sample.image_HW3, requirements="W")).permute(2, 0, 1),
        label_HW=torch.from_numpy(np.require(sample.label_HW, requirements="W")),
        key=sample.key,
        condition=sample.shard.condition,
        site=sample.shard.site,
    )


def _threads_for(uri: str, num_threads: int) -> DaemonThreads:
    num_waiting = _WAITING_THREADS if storage.is_remote(uri) else 0
    return DaemonThreads(num_threads, num_waiting=num_waiting, name="distseg-reader")
