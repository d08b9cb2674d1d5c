"""What a plan costs a rank: 100,000 shards, 10^8 samples, 1,024 ranks of 8 lanes; and what an epoch of it reads.

    python -m tests.benchmarks.bench_plan [--quick] [--samplings each condition class] [--shards 100000] [--world 1024]

Nothing is read or trained: manifest.json is made up (8 unequal conditions; the 19 classes of Cityscapes, each in its
part of the images, more in one shard than in another), then each figure is taken in a process of its own, as a rank
would meet it. Prints one JSON line per case. With a limit, of `ours`:

    plan/manifest_*    load_manifest: memory it keeps, memory it needs at most (and seconds of processor time)
    plan/SAMPLING_*    from the manifest to a rank's first batch: seconds of processor time; memory kept after a whole
                       epoch. The peer is torch's DistributedSampler, on a tenth of the samples

and without, of one epoch (10^8 samples) of three ranks, whose worst is told. The peer is what the plan is instead of,
independent random draws of group, shard and sample, with the same cache of indices:

    requests         ranges and indices that a rank asks the store for
    amplification    bytes read per byte used: indices, read again when the cache has dropped them, are what is on top
    imbalance        the most bytes that a rank reads, to the least
    shared_shards    how many ranks open a shard, in the mean
"""

import argparse
import gc
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from distseg.config import Sampling
from distseg.data import MANIFEST_NAME
from distseg.data.loading.plan import TrainPlan, lanes_of
from distseg.data.loading.sampling import streams_of
from distseg.data.sample import LabelSpace
from distseg.data.shards.formats import IndexEntry, Member, Shard, SizeRange
from distseg.data.shards.manifest import Manifest, index_json, load_manifest, seal
from tests.benchmarks.cases import Line

MAX_S, MAX_MB = 1.0, 200.0
SAMPLES_PER_SHARD = 1000
LANES_PER_RANK = 8
WINDOW = 256  # data.shuffle_window's default
MAX_INDICES = 1024  # of a reader
SAMPLE_BYTES = 400_000
CONDITIONS = {"clear": 60, "rain": 12, "night": 10, "fog": 6, "snow": 5, "sunset": 4, "dawn": 2, "winter-night": 1}
SHOWN_IN = {  # of 100 images
    **{"road": 98, "sidewalk": 94, "building": 98, "wall": 33, "fence": 44, "pole": 99, "light": 56, "sign": 94},
    **{"vegetation": 97, "terrain": 55, "sky": 90, "person": 79, "rider": 36, "car": 95, "truck": 12, "bus": 9},
    **{"train": 5, "motorcycle": 17, "bicycle": 55},
}


# ---- a data set that is only a manifest


def make_manifest(uri: str, num_shards: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shares = np.array(list(CONDITIONS.values())) / 100
    conditions = rng.choice(list(CONDITIONS), size=num_shards, p=shares)
    mean_K = np.array(list(SHOWN_IN.values())) / 100
    shown_SK = rng.binomial(SAMPLES_PER_SHARD, rng.beta(2 * mean_K, 2 * (1 - mean_K), size=(num_shards, len(mean_K))))
    num_bytes = rng.normal(SAMPLES_PER_SHARD * SAMPLE_BYTES, SAMPLES_PER_SHARD * SAMPLE_BYTES / 10, num_shards)
    shards = tuple(
        Shard(
            name=f"train/{conditions[i]}-site{i % 50:02d}-{i // 50:05d}.tar",
            split="train",
            condition=str(conditions[i]),
            site=f"site{i % 50:02d}",
            num_samples=SAMPLES_PER_SHARD,
            num_bytes=int(num_bytes[i]),
            sha256=hashlib.sha256(b"shard %d" % i).hexdigest(),
            index_sha256=hashlib.sha256(b"index %d" % i).hexdigest(),
            class_samples=tuple(shown_SK[i].tolist()),
        )
        for i in range(num_shards)
    )
    labels = LabelSpace(
        name="cityscapes", classes=tuple(SHOWN_IN), palette=tuple((k, k, k) for k in range(len(mean_K)))
    )
    pixels = {"train": {condition: tuple(range(len(mean_K))) for condition in CONDITIONS}}
    manifest = Manifest(
        uri=uri,
        dataset="made up",
        label_space=labels,
        shards=shards,
        class_pixels=pixels,
        image_sizes={"train": SizeRange((1024, 2048), (1024, 2048))},
        digest="",
    )
    return {"num_bytes": (Path(uri) / MANIFEST_NAME).write_bytes(seal(manifest)[1])}


def index_bytes() -> int:
    """Of a shard: keys and pixels of the usual length."""
    image, label, meta = (Member(extension, 10**8, 10**5, 2**31) for extension in ("jpg", "label.png", "json"))
    pixels = tuple(10 ** (k % 7) for k in range(len(SHOWN_IN)))
    keys = (f"aachen_{i:06d}_000019_leftImg8bit" for i in range(SAMPLES_PER_SHARD))
    entries = [IndexEntry(key, image, label, meta, pixels) for key in keys]
    return len(index_json("train/clear-site00-00000.tar", entries))


# ---- what one rank pays


def rss_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def measure_manifest(uri: str) -> dict[str, Any]:
    before_mb, start_s = rss_mb(), time.process_time()
    manifest = load_manifest(uri)
    seconds, kept_mb = time.process_time() - start_s, rss_mb() - before_mb
    assert len(manifest.select("train")) > 0
    return {"s": seconds, "kept_MB": kept_mb, "peak_MB": peak_mb() - before_mb}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure_plan(uri: str, sampling: Sampling, world: int) -> dict[str, Any]:
    shards = load_manifest(uri).select("train")
    before_mb, start_s = rss_mb(), time.process_time()
    plan = make_plan(shards, sampling, world)
    plan.batch(0, lanes_of(world // 2, world, plan.batch_size))
    seconds = time.process_time() - start_s
    num_batches = sum(shard.num_samples for shard in shards) // plan.batch_size
    ranks = [Rank(plan, shards, lanes_of(r, world, plan.batch_size)) for r in (0, world // 2, world - 1)]
    own = ranks[1].epoch(num_batches)
    kept_mb = rss_mb() - before_mb
    reads = [own, ranks[0].epoch(num_batches), ranks[2].epoch(num_batches)]
    random = ranks[1].read(random_draws(shards, sampling, num_batches * LANES_PER_RANK))
    return {
        "s": seconds,
        "kept_MB": kept_mb,
        "ours": {name: max(read[name] for read in reads) for name in own},
        "random": random,
        "imbalance": max(r["bytes"] for r in reads) / min(r["bytes"] for r in reads),
        "ranks_per_shard": ranks_per_shard(plan, world, num_batches),
    }


def make_plan(shards: Sequence[Shard], sampling: Sampling, world: int) -> TrainPlan:
    batch_size = world * LANES_PER_RANK
    return TrainPlan(streams_of([shards], sampling), batch_size=batch_size, seed=0, shuffle_window=WINDOW)


class Rank:
    """Counts what a reader would ask the store for, with its cache of indices."""

    def __init__(self, plan: TrainPlan, shards: Sequence[Shard], lanes: range) -> None:
        self.plan, self.shards, self.lanes = plan, shards, lanes
        self.capacity = min(len(lanes) * plan.open_shards_per_lane(), MAX_INDICES)
        self.index_bytes = index_bytes()

    def epoch(self, num_batches: int) -> dict[str, float]:
        return self.read(ref.shard for b in range(num_batches) for ref in self.plan.batch(b, self.lanes))

    def read(self, drawn: Iterator[int]) -> dict[str, float]:
        held: OrderedDict[int, None] = OrderedDict()
        num_ranges = num_indices = used = 0
        for shard in drawn:
            num_ranges += 1
            used += self.shards[shard].num_bytes // self.shards[shard].num_samples
            if shard not in held:
                num_indices += 1
            held[shard] = None
            held.move_to_end(shard)
            if len(held) > self.capacity:
                held.popitem(last=False)
        read = used + num_indices * self.index_bytes
        return {"requests": num_ranges + num_indices, "indices": num_indices, "bytes": read, "of_used": read / used}


def random_draws(shards: Sequence[Shard], sampling: Sampling, num: int) -> Iterator[int]:
    """Shards of independent draws: a group (uniformly), a shard by its samples of the group."""
    rng = np.random.default_rng(0)
    streams = streams_of([shards], sampling)
    ends = [np.cumsum(stream.lengths, dtype=np.int64) for stream in streams]
    for group, place in zip(rng.integers(len(streams), size=num).tolist(), rng.random(num).tolist(), strict=True):
        j = np.searchsorted(ends[group], int(place * ends[group][-1]), side="right")
        yield int(np.asarray(streams[group].shards)[j])


def ranks_per_shard(plan: TrainPlan, world: int, num_batches: int) -> float:
    """In the mean over shards that are opened at all: from where each lane's runs begin and how far they are walked."""
    opened: list[set[int]] = [set() for _ in range(world)]
    total = sum(walk.stream.share for walk in plan._walks)
    for walk in plan._walks:
        num_turns = round(num_batches * walk.stream.share / total)
        for lane in range(plan.batch_size):
            left, epoch = num_turns, 0
            while left > 0:
                start = walk.run_start(epoch, lane)
                length = walk.run_start(epoch, lane + 1) - start
                ends = walk.epoch(epoch).ends
                stop = start + min(left, length)
                first, last = np.searchsorted(ends, (start, max(start, stop - 1)), side="right")
                opened[lane * world // plan.batch_size].update(walk.epoch(epoch).shard_order[first : last + 1].tolist())
                left, epoch = left - length, epoch + 1
    return sum(map(len, opened)) / len(set().union(*opened))


def measure_peer(num_samples: int, world: int) -> dict[str, Any]:
    from torch.utils.data import DistributedSampler

    before_mb, start_s = rss_mb(), time.process_time()
    sampler: DistributedSampler[int] = DistributedSampler(range(num_samples), world, 0)  # type: ignore[arg-type]
    iterator = iter(sampler)
    next(iterator)
    return {"s": time.process_time() - start_s, "kept_MB": rss_mb() - before_mb}


# ---- cases


def in_a_process(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def print_case(case: str, ours: float, unit: str, peer: float | None = None, limit: float | None = None) -> None:
    """The limit is one of `ours`, not of the ratio."""
    Line(case=f"plan/{case}", ours=ours, unit=unit, peer=peer, limit=limit, bound="ours at most").print()


def print_all(samplings: Sequence[Sampling], num_shards: int, world: int) -> None:
    with tempfile.TemporaryDirectory() as uri:
        in_a_process("make", uri, num_shards)  # a process inherits its parent's peak of memory
        loaded = in_a_process("manifest", uri)
        print_case("manifest_s", loaded["s"], "s")
        print_case("manifest_kept", loaded["kept_MB"], "MB", limit=MAX_MB)
        print_case("manifest_peak", loaded["peak_MB"], "MB", limit=MAX_MB)
        peer = in_a_process("peer", num_shards * SAMPLES_PER_SHARD // 10, world)
        for sampling in samplings:
            found = in_a_process("plan", uri, sampling, world)
            ours, random = found["ours"], found["random"]
            print_case(f"{sampling}_s", found["s"], "s", peer["s"], MAX_S)
            print_case(f"{sampling}_kept", found["kept_MB"], "MB", peer["kept_MB"], MAX_MB)
            print_case(f"{sampling}_requests", ours["requests"], "per rank and epoch", random["requests"])
            print_case(f"{sampling}_index_requests", ours["indices"], "per rank and epoch", random["indices"])
            print_case(f"{sampling}_amplification", ours["of_used"], "bytes per byte used", random["of_used"])
            print_case(f"{sampling}_imbalance", found["imbalance"], "most bytes of a rank to least")
            print_case(f"{sampling}_shared_shards", found["ranks_per_shard"], "ranks per shard")


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "make": lambda uri, num_shards: make_manifest(uri, int(num_shards)),
    "manifest": measure_manifest,
    "plan": lambda uri, sampling, world: measure_plan(uri, sampling, int(world)),
    "peer": lambda num_samples, world: measure_peer(int(num_samples), int(world)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplings", nargs="+", choices=get_args(Sampling), default=list(get_args(Sampling)))
    parser.add_argument("--quick", action="store_true", help="a twentieth of shards and ranks")
    parser.add_argument("--shards", type=int, help="100,000, with --quick 5,000")
    parser.add_argument("--world", type=int, help="ranks: 1,024, with --quick 51")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure, *rest = arguments.measure
        print(json.dumps(MEASURES[measure](*rest)))
    else:
        part = 20 if arguments.quick else 1
        print_all(arguments.samplings, arguments.shards or 100_000 // part, arguments.world or 1024 // part)


if __name__ == "__main__":
    main()
