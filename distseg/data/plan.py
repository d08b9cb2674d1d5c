"""Which sample, when, on which rank: the only place where that is decided. Pure functions of numbers; no I/O.

Training reads an endless stream: the N samples of epoch 0 in some order, then those of epoch 1, …; each epoch holds
every sample once. The stream is cut into global batches of B, which may straddle epochs. Stream position s is slot
s % B of batch s // B, and slot i of all batches together is *lane* i.

In each epoch the shards are put in a random order and laid end to end. That sequence is dealt to the lanes as
contiguous runs, lane 0's first, each as long as the lane has positions in the epoch (N / B, rounded down or up);
within its run a lane shuffles inside windows. So

- a batch has one sample from each of B places of the data set: it is spread over shards, thus over conditions;
- a shard is read by one lane, or by those whose border it spans;
- the sample at any position follows from (shard lengths, seed, B, window) alone, in O(window): no state to save,
  no dependence on the number of ranks. A rank owns a contiguous block of lanes.

Memory is O(number of shards): 100,000 shards of 1,000 samples are no burden.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_SHARDS, _WINDOW = 1, 2  # which of the seed's streams of random numbers


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One sample of the stream: number `index` of shard `shard`, at stream position `position` in epoch `epoch`."""

    shard: int
    index: int
    epoch: int
    position: int


class _Epoch(NamedTuple):
    shard_order: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]  # ends[j]: where the j-th shard of this order ends in the epoch's sequence

    def locate(self, offset: int) -> tuple[int, int]:
        """(shard, index within it) of the sample at `offset` of the epoch's sequence."""
        j = int(np.searchsorted(self.ends, offset, side="right"))
        start = int(self.ends[j - 1]) if j else 0
        return int(self.shard_order[j]), offset - start


class TrainPlan:
    def __init__(self, shard_lengths: Sequence[int], *, batch_size: int, seed: int, shuffle_window: int) -> None:
        self._lengths = _checked(shard_lengths)
        self.num_samples = int(self._lengths.sum())
        if self.num_samples == 0:
            raise ValueError("a plan needs at least one sample")
        if batch_size < 1 or shuffle_window < 1:
            raise ValueError(f"batch_size {batch_size} and shuffle_window {shuffle_window} must be at least 1")
        self.batch_size = batch_size
        self._seed = seed
        self._window = shuffle_window
        self._epoch = functools.lru_cache(maxsize=4)(self._make_epoch)
        self._permutation = functools.lru_cache(maxsize=2 * batch_size)(self._make_permutation)

    def batch(self, b: int, lanes: range | None = None) -> list[SampleRef]:
        """The samples of global batch b, slot by slot; only those of `lanes` if given."""
        lanes = range(self.batch_size) if lanes is None else lanes
        return [self.at(b * self.batch_size + lane) for lane in lanes]

    def at(self, position: int) -> SampleRef:
        """The sample at a position of the stream."""
        epoch, p = divmod(position, self.num_samples)
        turn, first = divmod(p, self.batch_size)  # the lane's turn in this epoch; its first position in it
        lane = position % self.batch_size
        num_turns = (self.num_samples - 1 - first) // self.batch_size + 1
        window, turn_in_window = divmod(turn, self._window)
        window_length = min(self._window, num_turns - window * self._window)
        shuffled = self._permutation(epoch, lane, window, window_length)[turn_in_window]
        offset = self._run_start(epoch, lane) + window * self._window + int(shuffled)
        shard, index = self._epoch(epoch).locate(offset)
        return SampleRef(shard, index, epoch, position)

    def _run_start(self, epoch: int, lane: int) -> int:
        """Samples dealt to the lanes before this one in this epoch.

        With N = q·B + r every lane has q positions, and r lanes one more: those from the first slot on, cyclically.
        """
        q, r = divmod(self.num_samples, self.batch_size)
        first_slot = epoch * self.num_samples % self.batch_size
        longer = max(0, min(lane, first_slot + r) - first_slot) + max(0, min(lane, first_slot + r - self.batch_size))
        return lane * q + longer

    def _make_epoch(self, epoch: int) -> _Epoch:
        order = np.random.default_rng([self._seed, _SHARDS, epoch]).permutation(len(self._lengths))
        return _Epoch(order, np.cumsum(self._lengths[order]))

    def _make_permutation(self, epoch: int, lane: int, window: int, length: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self._seed, _WINDOW, epoch, lane, window]).permutation(length)


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
    lengths = _checked(shard_lengths)
    num_samples = int(lengths.sum())
    epoch = _Epoch(np.arange(len(lengths)), np.cumsum(lengths))
    for position in range(rank * num_samples // world, (rank + 1) * num_samples // world):
        shard, index = epoch.locate(position)
        yield SampleRef(shard, index, 0, position)


def _checked(shard_lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    lengths = np.asarray(shard_lengths, dtype=np.int64)
    if (lengths < 0).any():
        raise ValueError("a shard cannot have a negative length")
    return lengths
