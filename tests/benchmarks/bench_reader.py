"""Reading shards: ours against the most that these cores can decode, against peers, and under a training step.

    python -m tests.benchmarks.bench_reader [--s3] [--quick | --full] [--root CAMVID] [--cases local resume s3 step]

The same JPEG photographs of 480x360 with PNG labels for all: CamVid's below --root, else frames of `town`; a few
distinct ones under many names. Two cores: two decoding threads here, two DataLoader workers there. Contestants take
turns, a lap each: a new pipeline that knows nothing reads one epoch, decodes it to arrays and makes batches of 16. The
rate leaves out the first 8; that of S3, of which nothing is on disk, counts from the start, else bytes fetched before
the clock would flatter whoever fetches ahead. Before a lap from S3 as much memory as its bytes take is used and freed:
virtual machines that hand free memory back to their host pay for each fresh page ten times over, which is no property
of a reader (--fresh-memory leaves it out). Prints one JSON line per case, of medians: ours, peer, ratio = ours /
peer; limit is what can be had at all (local: two threads decoding bytes that lie in memory; S3: the same while others
GET whole shards), and of_limit = ours / limit. The peer of a training step has batches that are there already. Design
targets: of_limit >= 0.9 (a step: ratio >= 0.95), ratio to webdataset >= 2.5, to mosaicml-streaming >= 1.6.

A peer that is not installed is left out with a line that says so (extra `bench`). --s3 needs AWS_ENDPOINT_URL and
keys, as `infra/s3_server.sh start` leaves them; without the option S3 is measured where AWS_ENDPOINT_URL is set.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from distseg import storage
from distseg.config import CheckpointConfig, DataConfig, RunConfig, TrackingConfig, model_config
from distseg.data.shards.manifest import Manifest, load_manifest
from distseg.evaluation import World
from distseg.training.segmentation import Segmentation
from tests.benchmarks.cases import Line
from tests.benchmarks.reader_contestants import (
    BATCH,
    Contestant,
    by_folder,
    by_streaming,
    by_webdataset,
    in_memory,
    ours,
    ours_of_s3,
    raw_get,
)
from tests.benchmarks.reader_data import CORES, Files, has_streaming, make_files, upload
from tests.readers import train_reader

NUM_SKIPPED = 8  # batches: what has been prefetched while the first was waited for


class Lap(NamedTuple):
    first_s: float  # until the first batch
    images_per_s: float  # after it


# ---- laps


def race(
    contestants: dict[str, Contestant],
    rounds: int,
    num_batches: int,
    num_skipped: int = NUM_SKIPPED,
    num_bytes: int = 0,
) -> dict[str, list[Lap]]:
    """The laps of each; `num_bytes` of memory are at hand when a lap begins."""
    laps: dict[str, list[Lap]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in sorted(contestants, reverse=bool(turn % 2)):
            np.ones(num_bytes, dtype=np.uint8)  # used and freed
            try:
                laps[name].append(_lap_apart(contestants[name], num_batches, num_skipped))
            except EOFError:  # its process has printed why
                if name in ("ours", "limit"):
                    raise
                print(f"left out: a lap of {name}, which failed", file=sys.stderr)
    return {name: of_one for name, of_one in laps.items() if of_one}


def _lap_apart(contestant: Contestant, num_batches: int, num_skipped: int) -> Lap:
    """In a forked process: what a peer leaves behind (shared memory, worker processes) disturbs no other lap."""
    receiver, sender = (fork := multiprocessing.get_context("fork")).Pipe(duplex=False)
    child = fork.Process(target=lambda: sender.send(lap(contestant, num_batches, num_skipped)))
    child.start()
    sender.close()
    try:
        return receiver.recv()  # type: ignore[no-any-return]
    finally:
        child.join()


def lap(contestant: Contestant, num_batches: int, num_skipped: int) -> Lap:
    """With num_skipped = 0 the rate is that of all there is to do, the start included."""
    began_s = time.perf_counter()
    with contextlib.closing(contestant()) as batches:  # type: ignore[type-var]
        next(batches)
        first_s = time.perf_counter() - began_s
        if num_skipped:
            num_skipped = 1 + sum(1 for _ in itertools.islice(batches, num_skipped - 1))
            began_s = time.perf_counter()
        num_read = sum(1 for _ in itertools.islice(batches, max(0, num_batches - max(1, num_skipped))))
        num_timed = num_read if num_skipped else num_read + 1
        return Lap(first_s, num_timed * BATCH / (time.perf_counter() - began_s))


def print_rates(place: str, laps: dict[str, list[Lap]]) -> None:
    rates = {name: [lap.images_per_s for lap in of_one] for name, of_one in laps.items()}
    limit = statistics.median(rates["limit"])
    for name in sorted(laps.keys() - {"ours", "limit"}):
        print_case(f"reader/{place}_{name}", rates["ours"], rates[name], "images/s", limit)
        print_first_batch(f"reader/{place}_first_batch_{name}", laps["ours"], laps[name])


def print_first_batch(case: str, ours: Sequence[Lap], peer: Sequence[Lap]) -> None:
    print_case(case, [lap.first_s for lap in ours], [lap.first_s for lap in peer], "s")


def print_case(case: str, ours: Sequence[float], peer: Sequence[float], unit: str, limit: float | None = None) -> None:
    Line.of_laps(case, ours, peer, unit, limit=limit, bound="ours at least 0.9 of").print()


# ---- cases


class Bench(NamedTuple):
    files: Files
    rounds: int
    remote: str  # s3://… with the same data; empty: none
    num_steps: int
    fresh_memory: bool

    @property
    def num_batches(self) -> int:
        return self.files.num_samples // BATCH


def bench_local(bench: Bench) -> None:
    files, manifest = bench.files, load_manifest(str(bench.files.folder / "shards"))
    contestants: dict[str, Contestant] = {
        "ours": partial(ours, manifest),
        "limit": partial(in_memory, manifest),
        "webdataset": partial(by_webdataset, [str(path) for path in files.shards]),
        "torchvision": partial(by_folder, files),
    }
    if has_streaming():
        contestants["streaming"] = partial(by_streaming, str(files.folder / "mds"))
    print_rates("local", race(contestants, bench.rounds, bench.num_batches))


def bench_resume(bench: Bench) -> None:
    """The first batch after half an epoch. webdataset has no position to go to: it reads the half again."""
    half = bench.num_batches // 2
    urls = [str(path) for path in bench.files.shards]
    contestants: dict[str, Contestant] = {
        "ours": partial(ours, load_manifest(str(bench.files.folder / "shards")), half),
        "webdataset": lambda: _after(by_webdataset(urls), half),
    }
    if has_streaming():
        contestants["streaming"] = partial(by_streaming, str(bench.files.folder / "mds"), half)
    laps = race(contestants, bench.rounds, 0)
    for name in sorted(laps.keys() - {"ours"}):
        print_first_batch(f"reader/local_resume_{name}", laps["ours"], laps[name])


def _after(batches: Iterator[object], count: int) -> Iterator[object]:
    for _ in itertools.islice(batches, count):
        pass
    yield from batches


def bench_s3(bench: Bench) -> None:
    """Without mosaicml-streaming, whose laps from S3 hung for its 60 s or failed here in a way not yet understood."""
    if not bench.remote:
        return
    manifest = load_manifest(storage.join(bench.remote, "shards"))
    contestants: dict[str, Contestant] = {
        "ours": partial(ours_of_s3, manifest),
        "ranges": partial(ours, manifest),  # without the cache: a GET per sample
        "limit": partial(raw_get, manifest),
        "webdataset": partial(by_webdataset, presigned(manifest)),
    }
    num_bytes = 0 if bench.fresh_memory else 5 * sum(shard.num_bytes for shard in manifest.select("train")) // 4
    laps = race(contestants, bench.rounds, bench.num_batches, num_skipped=0, num_bytes=num_bytes)
    print_rates("s3", laps)


def presigned(manifest: Manifest) -> list[str]:
    """What `curl`, by which webdataset reads, can open."""
    import boto3

    client = boto3.Session().client("s3")
    bucket, _, prefix = manifest.uri.removeprefix("s3://").partition("/")
    places = [{"Bucket": bucket, "Key": f"{prefix}/{shard.name}"} for shard in manifest.select("train")]
    return [f"pipe:curl -sfL '{client.generate_presigned_url('get_object', Params=place)}'" for place in places]


def bench_step(bench: Bench) -> None:
    """PSPNet-18, 240 pixels, the papers' augmentation: steps on fresh and on kept batches take turns.

    A waiting reader is full: when a batch is taken it makes one, in a fraction of that step, and is idle in the other.
    """
    torch.set_num_threads(CORES)
    config = RunConfig(
        name="bench",
        model=model_config(backbone="resnet18"),
        data=DataConfig(uri=str(bench.files.folder / "shards"), batch_size=4, crop_px=(240, 240)),
        checkpoint=CheckpointConfig(uri=str(bench.files.folder / "runs")),
        tracking=TrackingConfig(uri="off"),
    )
    training = Segmentation(config, World())
    crop_px, augment = config.data.crop_px, config.augment
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    with train_reader(
        training.manifest, training.data.parts[0].shards, batch_size=4, crop_px=crop_px, augment=augment, seed=0
    ) as reader:
        kept = next(reader)
        for step in range(bench.num_steps + 2):
            for name in ("ours", "peer") if step % 2 else ("peer", "ours"):
                began_s = time.perf_counter()
                training.train_step([next(reader) if name == "ours" else kept], step=0)
                if step >= 2:  # the first allocate and choose kernels
                    seconds[name].append(time.perf_counter() - began_s)
    fresh, kept_ones = ([1 / each for each in seconds[name]] for name in ("ours", "peer"))
    line = Line.of_laps("reader/step_pspnet_resnet18", fresh, kept_ones, "steps/s", limit=0.95, bound="ratio at least")
    line.print()


CASES = {"local": bench_local, "resume": bench_resume, "s3": bench_s3, "step": bench_step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="shorter epochs, without S3")
    parser.add_argument("--full", action="store_true", help="longer epochs and more rounds")
    parser.add_argument("--s3", default="", const="s3://distseg", nargs="?", help="a bucket to use, s3://distseg")
    parser.add_argument("--root", help="CamVid's folder; without, frames of town")
    parser.add_argument("--samples", type=int, help="in an epoch; 512, with --full 4096")
    parser.add_argument("--rounds", type=int, help="2, with --full 5")
    parser.add_argument("--fresh-memory", action="store_true", help="from S3, memory as the machine has it")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if not has_streaming():
        print("left out: mosaicml-streaming; pip install -c constraints.txt -e '.[bench]'", file=sys.stderr)
    default = "s3://distseg" if "AWS_ENDPOINT_URL" in os.environ and not arguments.quick else ""
    in_s3 = arguments.s3 or default
    remote = storage.join(in_s3, f"bench-{uuid.uuid4().hex[:8]}") if in_s3 and "s3" in arguments.cases else ""
    folder = Path(tempfile.mkdtemp(prefix="distseg-bench-"))
    try:
        num_samples = arguments.samples or (4096 if arguments.full else 256 if arguments.quick else 512)
        files = make_files(folder / "data", num_samples, arguments.root)
        if remote:
            upload(files, remote)
        bench = Bench(
            files,
            arguments.rounds or (5 if arguments.full else 2),
            remote,
            60 if arguments.full else 6 if arguments.quick else 20,
            arguments.fresh_memory,
        )
        for case in arguments.cases:
            CASES[case](bench)
    finally:
        shutil.rmtree(folder)
        if remote:
            storage.delete_tree(remote)


if __name__ == "__main__":
    main()
