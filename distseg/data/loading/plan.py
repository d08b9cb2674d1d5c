"""Decides which sample is read when, and on which rank. Pure functions of numbers, no I/O; nothing else decides this.

Training is cut into global batches of B, each a micro-batch over all ranks where a step of the optimiser has several.
Slot i of all batches together is *lane* i; a lane has one *turn* in each batch. Position s of a training is slot s % B
of batch s // B. A rank owns a contiguous block of lanes.

The slots are filled from *streams* (`distseg.data.loading.sampling`): endless sequences of samples, each epoch of which
holds every sample of the stream once. `_Shares` says which stream a slot belongs to, `_Walk` which sample of it comes.

Within a stream, the shards of an epoch are put in a random order and laid end to end. That sequence is dealt to the
lanes as contiguous runs, lane 0's first, each as long as the lane has positions in the epoch (N / B, rounded down or
up); within its run a lane shuffles inside windows. So

- a batch has one sample from each of B places of the data set: it is spread over shards, thus over conditions;
- a shard is read by one lane per stream, or by several where a border between lanes falls inside it;
- the sample at any position follows from (shard lengths, shares, seed, B, window) alone, in O(window): no state to
  save, no dependence on the number of ranks.

Memory is O(number of shards · number of streams): 100,000 shards of 1,000 samples are no burden.
"""

import bisect
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distseg.data.loading.sampling import Stream

_SHARDS, _WINDOW, _SHARES = 1, 2, 3  # which of the seed's streams of random numbers
_EVAL_PIECE = 1024  # samples located at a time


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One sample at stream position `position`: number `index` of shard `shard` of data set `dataset`.

    With `target_class`, `index` counts only the shard's samples that show this class: see `number_in_shard`.
    """

    shard: int
    index: int
    epoch: int  # epoch of its stream
    position: int
    dataset: int = 0
    target_class: int | None = None


def number_in_shard(ref: SampleRef, class_pixels_NK: npt.NDArray[Any]) -> int:
    """The number of a drawn sample in its shard, of whose N samples `class_pixels_NK` has the pixels of each class.

    Raises IndexError if fewer samples show the class than the plan was told.
    """
    if ref.target_class is None:
        return ref.index
    return int(np.flatnonzero(class_pixels_NK[:, ref.target_class])[ref.index])


class TrainPlan:
    def __init__(self, streams: Sequence[Stream], *, batch_size: int, seed: int, shuffle_window: int) -> None:
        if batch_size < 1 or shuffle_window < 1:
            raise ValueError(f"batch_size {batch_size} and shuffle_window {shuffle_window} must be at least 1")
        self.batch_size = batch_size
        self._shares = _Shares([stream.share for stream in streams], batch_size, seed)
        self._walks = [_Walk(stream, i, batch_size, seed, shuffle_window) for i, stream in enumerate(streams)]

    def open_shards_per_lane(self, dataset: int = 0) -> int:
        """About how many shards of a data set one lane reads from at the same time."""
        walks = (walk for walk in self._walks if walk.stream.dataset == dataset)
        return sum(walk.window * walk.num_shards // walk.num_samples + 2 for walk in walks)

    def batch(self, b: int, lanes: range | None = None) -> list[SampleRef]:
        """The samples of global batch b, slot by slot; only those of `lanes` if given."""
        lanes = range(self.batch_size) if lanes is None else lanes
        return [self.at(b * self.batch_size + lane) for lane in lanes]

    def at(self, position: int) -> SampleRef:
        """The sample at a position of the training."""
        turn, lane = divmod(position, self.batch_size)
        stream, own_turn = self._shares.at(lane, turn)
        return self._walks[stream].at(own_turn * self.batch_size + lane, position)


class _Shares:
    """Which stream a slot belongs to, and how many turns of the slot's lane belonged to that stream before.

    Take a circle of circumference 1, cut into one arc for each stream, as long as its share. At turn t lane i stands at
    i·q/B + t·φ + start, and its slot belongs to the stream on whose arc it stands.

    - q is coprime to B, so the lanes stand at even distances: each stream has its share of *each batch*, to within one.
    - q/B is about φ, so neighbouring lanes stand far apart: each rank, too, has about each stream's share.
    - φ is the golden ratio, whose multiples fill a circle most evenly: each stream has its share of *each lane*, to
      within a few turns. (Random draws would stray by the root of their number.)

    A lane's turns in a stream are numbered 0, 1, 2, … without a gap: that is why each sample comes exactly once. How
    many there were before turn t is a difference of two sums of floors, in O(log t): no state. All in integers, on a
    circle of B · 2^32 points.
    """

    _GOLDEN = (math.sqrt(5) - 1) / 2

    def __init__(self, shares: Sequence[float], batch_size: int, seed: int) -> None:
        if not shares or min(shares) <= 0:
            raise ValueError(f"a plan needs streams of positive shares, not {list(shares)}")
        self._size = batch_size << 32
        sums = list(itertools.accumulate(map(Fraction, shares)))
        self._ends = [int(self._size * end / sums[-1]) for end in sums]
        self._per_turn = int(self._size * self._GOLDEN) | 1
        q = next(q for q in itertools.count(round(batch_size * self._GOLDEN)) if math.gcd(q, batch_size) == 1)
        self._per_lane = q << 32
        self._start = int(np.random.default_rng([seed, _SHARES]).integers(self._size))

    def at(self, lane: int, turn: int) -> tuple[int, int]:
        """(stream, turns of this lane in this stream before)."""
        if len(self._ends) == 1:
            return 0, turn
        first = (self._start + lane * self._per_lane) % self._size
        stream = bisect.bisect_right(self._ends, (first + turn * self._per_turn) % self._size)
        begin, end = self._ends[stream - 1] if stream else 0, self._ends[stream]
        # The floors of (x - begin) / size and (x - end) / size differ by 1 where x is on the arc, else not.
        own_turn = _floor_sum(turn, self._per_turn, first - begin + self._size, self._size)
        return stream, own_turn - _floor_sum(turn, self._per_turn, first - end + self._size, self._size)


def _floor_sum(n: int, a: int, b: int, m: int) -> int:
    """Σ floor((a·i + b) / m) for i = 0 … n - 1: the lattice points below a line, by columns and by rows in turn."""
    (whole_a, a), (whole_b, b) = divmod(a, m), divmod(b, m)
    whole = whole_a * (n * (n - 1) // 2) + whole_b * n
    height, rest = divmod(a * n + b, m)
    return whole + _floor_sum(height, m, rest, a) if height else whole


class _Epoch(NamedTuple):
    shard_order: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]  # ends[j]: where the j-th shard of this order ends in the epoch's sequence

    def locate(self, offsets: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(shards, indices within them) of the samples at `offsets` of the epoch's sequence."""
        j = np.searchsorted(self.ends, offsets, side="right")
        starts = np.where(j > 0, self.ends[j - 1], 0)
        return self.shard_order[j], (offsets - starts).astype(np.int32)


class _Window(NamedTuple):
    """What a lane's turns in one window of one epoch draw."""

    epoch: int
    number: int  # of the window, in the lane's epoch
    shards: npt.NDArray[np.int32]  # of each turn
    indices: npt.NDArray[np.int32]  # of the sample in its shard


class _Walk:
    """A stream in order: its position p is the turn p // B of lane p % B in it."""

    def __init__(self, stream: Stream, number: int, batch_size: int, seed: int, shuffle_window: int) -> None:
        self.stream = stream
        self._lengths = _checked(stream.lengths)
        self.num_shards, self.num_samples = len(self._lengths), int(self._lengths.sum(dtype=np.int64))
        if self.num_samples == 0:
            raise ValueError("a plan needs at least one sample in each stream")
        self._shards = (
            np.arange(self.num_shards, dtype=np.int32) if stream.shards is None else np.asarray(stream.shards)
        )
        self._batch_size, self._seed = batch_size, seed
        self._salt = [number] if number else []
        # A rare class has few samples in each of many shards. A window as long as usual would span hundreds of them, so
        # it spans only one.
        thin = stream.target_class is not None
        self.window = min(shuffle_window, max(1, self.num_samples // self.num_shards)) if thin else shuffle_window
        self.epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
        self._windows_per_epoch = -(-self.num_samples // (self._batch_size * self.window))
        self._windows: dict[tuple[int, int], _Window] = {}  # the last two of each lane: one is being read, one fetched

    def at(self, own_position: int, position: int) -> SampleRef:
        epoch, p = divmod(own_position, self.num_samples)
        turn = p // self._batch_size  # the lane's in this epoch
        lane = own_position % self._batch_size
        number, turn_in_window = divmod(turn, self.window)
        key = lane, (epoch * self._windows_per_epoch + number) % 2
        window = self._windows.get(key)
        if window is None or window.number != number or window.epoch != epoch:
            num_turns = (self.num_samples - 1 - p % self._batch_size) // self._batch_size + 1
            length = min(self.window, num_turns - number * self.window)
            window = self._windows[key] = self._make_window(epoch, lane, number, length)
        shard, index = window.shards.item(turn_in_window), window.indices.item(turn_in_window)
        return SampleRef(shard, index, epoch, position, self.stream.dataset, self.stream.target_class)

    def run_start(self, epoch: int, lane: int) -> int:
        """Samples dealt to the lanes before this one in this epoch.

        With N = q·B + r every lane has q positions, and r lanes one more: those from the first slot on, cyclically.
        """
        q, r = divmod(self.num_samples, self._batch_size)
        first_slot = epoch * self.num_samples % self._batch_size
        longer = max(0, min(lane, first_slot + r) - first_slot)
        longer += max(0, min(lane, first_slot + r - self._batch_size))
        return lane * q + longer

    def _make_epoch(self, epoch: int) -> _Epoch:
        order = np.random.default_rng([self._seed, _SHARDS, epoch, *self._salt]).permutation(self.num_shards)
        return _Epoch(self._shards[order], np.cumsum(self._lengths[order], dtype=np.int64))

    def _make_window(self, epoch: int, lane: int, number: int, length: int) -> "_Window":
        rng = np.random.default_rng([self._seed, _WINDOW, epoch, lane, number, *self._salt])
        offsets = self.run_start(epoch, lane) + number * self.window + rng.permutation(length)
        return _Window(epoch, number, *self.epoch(epoch).locate(offsets))


def lanes_of(rank: int, world: int, batch_size: int) -> range:
    """The lanes that a rank fills: a contiguous block, of the same size for each."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world}")
    if batch_size % world:
        raise ValueError(f"a batch of {batch_size} cannot be shared by {world} ranks")
    lanes_per_rank = batch_size // world
    return range(rank * lanes_per_rank, (rank + 1) * lanes_per_rank)


def eval_share(shard_lengths: Sequence[int], rank: int, world: int) -> Iterator[SampleRef]:
    """A rank's contiguous share of all samples: every sample once over the ranks, shares differing by at most one."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not one of {world}")
    num_samples = int(_checked(shard_lengths).sum(dtype=np.int64))
    yield from numbered(shard_lengths, range(rank * num_samples // world, (rank + 1) * num_samples // world))


def numbered(shard_lengths: Sequence[int], numbers: Sequence[int]) -> Iterator[SampleRef]:
    """The samples of these numbers, counted over all shards in order."""
    lengths = _checked(shard_lengths)
    epoch = _Epoch(np.arange(len(lengths), dtype=np.int32), np.cumsum(lengths, dtype=np.int64))
    for begin in range(0, len(numbers), _EVAL_PIECE):
        piece = np.asarray(numbers[begin : begin + _EVAL_PIECE], dtype=np.int64)
        for position, shard, index in zip(*(column.tolist() for column in (piece, *epoch.locate(piece))), strict=True):
            yield SampleRef(shard, index, 0, position)


def evenly_spread(num: int, among: int) -> list[int]:
    """`num` of the numbers below `among`, in order and at even distances; all of them if they are no more."""
    num = min(num, among)
    return [(2 * i + 1) * among // (2 * num) for i in range(num)]


def _checked(shard_lengths: npt.ArrayLike) -> npt.NDArray[np.int32]:
    lengths = np.asarray(shard_lengths, dtype=np.int32)
    if (lengths < 0).any():
        raise ValueError("a shard cannot have a negative length")
    return lengths
