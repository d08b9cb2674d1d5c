"""Sampling strategies: which samples are drawn as one stream, and how often.

A *stream* is endless: its N samples of epoch 0 in some order, then the same N of epoch 1, …; each epoch holds every
sample of the stream once. A strategy decides the streams of one data set, which all get equal shares of the batches:

    each        one stream of all samples: every sample once per epoch
    condition   one stream for each condition: each batch shows all conditions alike
    class       one stream for each class, of the samples that show it: a rare class is drawn as often as a frequent one
                (class-uniform sampling: Rota Bulò et al. 2018, Zhu et al. 2019). A sample is in as many streams as it
                shows classes

In a mixture of data sets, the shares of a data set's streams add up to the data set's share. A short stream begins its
epochs more often than a long one, and none ever skips a sample.

A new strategy is a function below, of shards, and its name in `STRATEGIES` (and in `distseg.config.Sampling`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distseg.config import Sampling
from distseg.errors import DataError


class ShardCounts(Protocol):
    """What a strategy needs to know of a shard; a `distseg.data.shards.Shard` is one."""

    @property
    def condition(self) -> str: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def class_samples(self) -> tuple[int, ...]: ...


class Group(NamedTuple):
    """Samples of one data set that are drawn as one stream."""

    lengths: npt.NDArray[np.int32]  # of each shard of the data set: how many of its samples belong to the group
    target_class: int | None = None  # if not None: they are those that show this class


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples that are drawn as one: each once, then each once again, …"""

    lengths: npt.ArrayLike  # of these shards: how many samples of each belong to the stream
    shards: npt.ArrayLike | None = None  # their numbers in the data set; None: 0, 1, 2, …
    share: float = 1.0  # of the slots, relative to the other streams'
    dataset: int = 0
    target_class: int | None = None  # the samples are those that show this class


def each_sample(shards: Sequence[ShardCounts]) -> Iterator[Group]:
    yield Group(_lengths(shards))


def by_condition(shards: Sequence[ShardCounts]) -> Iterator[Group]:
    lengths = _lengths(shards)
    conditions = np.array([shard.condition for shard in shards])
    for condition in dict.fromkeys(conditions.tolist()):
        yield Group(np.where(conditions == condition, lengths, 0))


def by_class(shards: Sequence[ShardCounts]) -> Iterator[Group]:
    lengths_KN = np.array([shard.class_samples for shard in shards], dtype=np.int32).T
    for target_class, lengths in enumerate(lengths_KN):
        yield Group(lengths, target_class)


STRATEGIES: dict[Sampling, Callable[[Sequence[ShardCounts]], Iterator[Group]]] = {
    "each": each_sample,
    "condition": by_condition,
    "class": by_class,
}


def streams_of(
    datasets: Sequence[Sequence[ShardCounts]], sampling: Sampling, shares: Sequence[float] = ()
) -> list[Stream]:
    """The streams of a mixture of data sets; `shares` of the data sets are by default their numbers of samples."""
    shares = shares or [sum(shard.num_samples for shard in shards) for shards in datasets]
    streams = []
    for dataset, (shards, share) in enumerate(zip(datasets, shares, strict=True)):
        groups = [group for group in STRATEGIES[sampling](shards) if group.lengths.any()]
        if not groups:
            raise DataError(f"data.sampling {sampling!r}: no sample to draw; is every label map void?")
        for lengths, target_class in groups:
            in_use = np.flatnonzero(lengths).astype(np.int32)
            streams.append(Stream(lengths[lengths > 0], in_use, share / len(groups), dataset, target_class))
    return streams


def _lengths(shards: Sequence[ShardCounts]) -> npt.NDArray[np.int32]:
    return np.array([shard.num_samples for shard in shards], dtype=np.int32)
