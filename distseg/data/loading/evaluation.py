"""Reads packed samples for evaluation: each once, whole, in the order of the shards. Threads, bounded prefetch.

`spread_samples` reads some of them, evenly spread, and no others.

A damaged sample is a DataError naming shard and key: evaluation leaves nothing out.
"""

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import torch

from distseg import storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data import NO_SEQUENCE
from distseg.data.loading.cache import ShardCache
from distseg.data.loading.plan import SampleRef, eval_share, evenly_spread, numbered
from distseg.data.loading.source import Decoded, Source
from distseg.data.loading.threads import DaemonThreads, reading_threads
from distseg.data.shards import Manifest, Shard


class EvalSample(NamedTuple):
    image_3HW: torch.Tensor  # uint8
    label_HW: torch.Tensor  # uint8
    key: str  # "<shard name>/<key>"
    condition: str
    site: str
    sequence: str = ""  # the drive that it is a frame of; "": not known, or it is a single photograph


def eval_samples(
    manifest: Manifest,
    shards: Sequence[Shard],
    *,
    rank: int = 0,
    world: int = 1,
    num_threads: int = 2,
    prefetch: int = 16,
    deadline_s: float = storage.DEADLINE_S,
    max_megapixels: float = MAX_MEGAPIXELS,
    cache_bytes: int = 0,
    cache_dir: str = "",
) -> Iterator[EvalSample]:
    """This rank's share of all samples, each once, in the order of the shards. Raises DataError for a damaged one.

    `cache_bytes`, `cache_dir`: shards of an object store are fetched whole and kept on disk, where the next evaluation
    finds them.
    """
    lengths = [shard.num_samples for shard in shards]
    refs: Iterable[SampleRef] = eval_share(lengths, rank, world)
    with contextlib.ExitStack() as opened:
        cache = None
        if storage.is_remote(manifest.uri) and cache_bytes:
            cache = ShardCache(cache_dir, cache_bytes, deadline_s=deadline_s)
            opened.callback(cache.close)
            refs = _fetching_ahead(refs, eval_share(lengths, rank, world), cache, manifest, shards)
        threads = reading_threads(manifest.uri, num_threads)
        source = Source(manifest, shards, 4, threads, deadline_s, cache, max_megapixels)
        yield from _read(source, refs, threads, prefetch, _are_frames(manifest))


def _fetching_ahead(
    refs: Iterable[SampleRef],
    same_refs: Iterable[SampleRef],
    cache: ShardCache,
    manifest: Manifest,
    shards: Sequence[Shard],
) -> Iterator[SampleRef]:
    """The same, while the shards after each are fetched as far ahead as the cache allows."""
    coming = (shard for shard, _ in itertools.groupby(ref.shard for ref in same_refs))
    for ref in refs:
        while not cache.is_far_ahead() and (shard := next(coming, None)) is not None:
            cache.fetch(manifest, shards[shard])
        yield ref


def spread_samples(
    manifest: Manifest,
    shards: Sequence[Shard],
    num: int,
    *,
    num_threads: int = 2,
    prefetch: int = 16,
    deadline_s: float = storage.DEADLINE_S,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Iterator[EvalSample]:
    """`num` samples at even distances in the order of the shards, or all if there are no more; the others are not read.

    The same ones on every rank. Raises DataError for a damaged one.
    """
    lengths = [shard.num_samples for shard in shards]
    refs = numbered(lengths, evenly_spread(num, sum(lengths)))
    threads = reading_threads(manifest.uri, num_threads)
    source = Source(manifest, shards, 4, threads, deadline_s, max_megapixels=max_megapixels)
    yield from _read(source, refs, threads, prefetch, _are_frames(manifest))


def _are_frames(manifest: Manifest) -> bool:
    from distseg.data import datasets  # what serves a model reads none

    return datasets.are_frames(manifest.dataset)


def _read(
    source: Source, refs: Iterable[SampleRef], threads: DaemonThreads, prefetch: int, are_frames: bool
) -> Iterator[EvalSample]:
    pending: deque[Future[EvalSample]] = deque()
    try:
        for ref in refs:
            pending.append(threads.submit(_eval_sample, source, ref, are_frames))
            if len(pending) > prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.close()


def _eval_sample(source: Source, ref: SampleRef, are_frames: bool) -> EvalSample:
    sample = source.read(ref)
    return EvalSample(
        image_3HW=torch.from_numpy(np.require(sample.image_HW3, requirements="W")).permute(2, 0, 1),
        label_HW=torch.from_numpy(np.require(sample.label_HW, requirements="W")),
        key=sample.key,
        condition=sample.shard.condition,
        site=sample.shard.site,
        sequence=_sequence(sample) if are_frames else "",
    )


def _sequence(sample: Decoded) -> str:
    """Shards that others made have no .json, or another one: then it is not known."""
    try:
        found = json.loads(sample.meta).get("sequence")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return found if isinstance(found, str) and found not in NO_SEQUENCE else ""
