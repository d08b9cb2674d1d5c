"""Reading shards: ours against the most that these cores can decode, against peers, and under a training step.

    python tests/benchmarks/bench_reader.py [--s3] [--full] [--root CAMVID] [--cases local resume s3 step]

The same JPEG photographs of 480x360 with PNG labels for all: CamVid's below --root, else frames of `town`; a few
distinct ones under many names. Two cores: two decoding threads here, two DataLoader workers there. Contestants take
turns, a lap each: a new pipeline that knows nothing reads one epoch, decodes it to arrays and makes batches of 16. The
rate leaves out the first 8; that of S3, of which nothing is on disk, counts from the start, else bytes fetched before
the clock would flatter whoever fetches ahead. Before a lap from S3 as much memory as its bytes take is used and freed:
virtual machines that hand free memory back to their host pay for each fresh page ten times over, which is no property
of a reader (--fresh-memory leaves it out). Prints one JSON line per case, of medians: ours, peer, ratio = ours /
peer; limit is what can be had at all (local: two threads decoding bytes that lie in memory; S3: the same while others
GET whole shards; a training step: with batches that are there already), and of_limit = ours / limit. Design targets:
of_limit >= 0.9 (a step: 0.95), ratio to webdataset >= 2.5, to mosaicml-streaming >= 1.6.

A peer that is not installed is left out with a line that says so (extra `bench`). --s3 needs AWS_ENDPOINT_URL and
keys, as `infra/s3_server.sh start` leaves them; without the option S3 is measured where AWS_ENDPOINT_URL is set.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import queue
import shutil
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from distseg import storage
from distseg.config import CheckpointConfig, DataConfig, RunConfig, TrackingConfig, model_config
from distseg.data.datasets import camvid, town
from distseg.data.loading.decoding import decode_ids, decode_rgb
from distseg.data.processes import in_processes
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import pack
from distseg.data.shards.formats import Shard
from distseg.data.shards.manifest import Index, Manifest, load_manifest, read_index, read_sample
from distseg.evaluation import World
from distseg.training.segmentation import Segmentation
from tests.readers import train_reader

SIZE_PX = (360, 480)
BATCH = 16
CORES = 2
NUM_SKIPPED = 8  # batches: what has been prefetched while the first was waited for
NUM_FRAMES = 32  # distinct ones
SAMPLES_PER_SHARD = 64

Contestant = Callable[[], Iterator[object]]
"""Starts a pipeline from nothing; each item is a batch of 16 images with labels, as arrays."""


class Lap(NamedTuple):
    first_s: float  # until the first batch
    images_per_s: float  # after it


# ---- the data


class Files(NamedTuple):
    """One data set in the layout of each contestant."""

    folder: Path
    num_samples: int
    label_space: Any

    @property
    def images(self) -> list[Path]:
        return sorted((self.folder / "files").glob("*.jpg"))

    @property
    def shards(self) -> list[Path]:
        return sorted((self.folder / "shards" / "train").glob("*.tar"))


def make_files(folder: Path, num_samples: int, root: str | None) -> Files:
    files = Files(folder, num_samples, camvid.LABELS if root else town.LABELS)
    (folder / "files").mkdir(parents=True)
    samples = camvid.samples(root, "train") if root else town.samples("train", num_frames=NUM_FRAMES, size=SIZE_PX)
    frames = list(in_processes(CORES)(_encode, list(itertools.islice(samples, NUM_FRAMES))))
    for i in range(num_samples):
        for content, suffix in zip(frames[i % len(frames)], (".jpg", ".png"), strict=True):
            (folder / "files" / f"{i:06d}{suffix}").write_bytes(content)
    splits = {
        split: [_sample(path, split) for path in files.images[:count]]
        for split, count in (("train", num_samples), ("val", 2))
    }
    pack(splits, files.label_space, str(folder / "shards"), dataset="bench", max_samples_per_shard=SAMPLES_PER_SHARD)
    if importlib.util.find_spec("streaming"):
        _write_mds(files)
    return files


def _encode(sample: Sample) -> tuple[bytes, bytes]:
    loaded = sample.load()
    image, label = io.BytesIO(), io.BytesIO()
    Image.open(io.BytesIO(loaded.image)).save(image, format="JPEG", quality=95)
    Image.fromarray(loaded.label_HW).save(label, format="PNG")
    return image.getvalue(), label.getvalue()


def _sample(path: Path, split: str) -> Sample:
    key = path.stem if split == "train" else f"{split}-{path.stem}"
    load = partial(_load, path)
    return Sample(key=key, condition="all", site="all", sequence="", split=split, source=f"{split}/{path}", load=load)


def _load(path: Path) -> LabelledImage:
    return LabelledImage(path.read_bytes(), "jpg", np.asarray(Image.open(path.with_suffix(".png"))))


def _write_mds(files: Files) -> None:
    from streaming import MDSWriter

    columns = {"image": "jpeg", "label": "png"}
    size_limit = max(path.stat().st_size for path in files.shards)  # shards of the size of ours
    with MDSWriter(columns=columns, out=str(files.folder / "mds"), size_limit=size_limit) as writer:
        for path in files.images:
            with Image.open(path) as image, Image.open(path.with_suffix(".png")) as label:
                writer.write({"image": image, "label": label})


def upload(files: Files, uri: str) -> None:
    for entry in storage.list_files(str(files.folder / "shards")):
        storage.upload(entry.uri, storage.join(uri, str(Path(entry.uri).relative_to(files.folder))))


# ---- the contestants


def ours(manifest: Manifest, start_batch: int = 0, **options: Any) -> Iterator[object]:
    with train_reader(
        manifest,
        manifest.select("train"),
        batch_size=BATCH,
        crop_px=SIZE_PX,
        augment=None,
        seed=0,
        start_batch=start_batch,
        num_threads=CORES,
        **options,
    ) as reader:
        yield from reader


def decoded(image: bytes, label: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """As the peers do it."""
    with Image.open(io.BytesIO(image)) as rgb, Image.open(io.BytesIO(label)) as ids:
        return torch.from_numpy(np.array(rgb)), torch.from_numpy(np.array(ids))


def decoded_by_us(image: bytes, label: bytes) -> tuple[Any, Any]:
    return decode_rgb(image, "image"), decode_ids(label, 255, "label")


def ours_of_s3(manifest: Manifest) -> Iterator[object]:
    with tempfile.TemporaryDirectory() as folder:
        yield from ours(manifest, cache_bytes=8 << 30, cache_dir=folder)


def in_memory(manifest: Manifest) -> Iterator[object]:
    """The limit of a disk that costs nothing: the bytes of a shard, our decoder, no order, no batches, no checks."""
    shard = manifest.select("train")[0]
    samples = [read_sample(manifest, shard, entry) for entry in read_index(manifest, shard).entries]
    pairs = [(sample.image, sample.label) for sample in samples]
    yield from _by_threads([iter(itertools.cycle(pairs)) for _ in range(CORES)])


def raw_get(manifest: Manifest) -> Iterator[object]:
    """The limit of a server: whole shards, in the order in which they lie there, fetched while others are decoded."""

    def get(shard: Shard) -> tuple[bytes, Index]:
        return storage.read_bytes(storage.join(manifest.uri, shard.name)), read_index(manifest, shard)

    def pairs(which: int) -> Iterator[tuple[bytes, bytes]]:
        for data, index in fetching.map(get, manifest.select("train")[which::CORES]):
            for entry in index.entries:
                image, label = (data[part.offset : part.offset + part.size] for part in (entry.image, entry.label))
                yield image, label

    with ThreadPoolExecutor(4) as fetching:
        yield from _by_threads([pairs(which) for which in range(CORES)])


def _by_threads(pairs_of_thread: Sequence[Iterator[tuple[bytes, bytes]]]) -> Iterator[object]:
    done: queue.SimpleQueue[object] = queue.SimpleQueue()
    stopped = threading.Event()

    def work(pairs: Iterator[tuple[bytes, bytes]]) -> None:
        while not stopped.is_set() and (batch := [decoded_by_us(*pair) for pair in itertools.islice(pairs, BATCH)]):
            done.put(batch)
        done.put(None)

    threads = [threading.Thread(target=work, args=(pairs,)) for pairs in pairs_of_thread]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            yield from iter(done.get, None)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def by_webdataset(urls: list[str]) -> Iterator[object]:
    import webdataset

    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0)
        .shuffle(256)
        .to_tuple("jpg", "label.png")
        .map(lambda sample: decoded(*sample))
        .batched(BATCH)
    )
    yield from DataLoader(dataset, batch_size=None, num_workers=CORES)


def by_streaming(local: str, done: int = 0) -> Iterator[object]:
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Pairs(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> tuple[torch.Tensor, torch.Tensor]:
            sample = super().__getitem__(at)
            return torch.from_numpy(np.array(sample["image"])), torch.from_numpy(np.array(sample["label"]))

    clean_stale_shared_memory()
    dataset = Pairs(local=local, batch_size=BATCH, shuffle=True)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=CORES)
    if done:
        loader.load_state_dict(dataset.state_dict(done * BATCH, False))
    try:
        yield from loader
    finally:
        del loader, dataset


class Folder(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, images: list[Path]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        from torchvision.datasets.folder import pil_loader
        from torchvision.transforms.functional import pil_to_tensor

        label = pil_to_tensor(Image.open(self.images[i].with_suffix(".png")))
        return pil_to_tensor(pil_loader(self.images[i])), label[0]


def by_folder(files: Files) -> Iterator[object]:
    yield from DataLoader(Folder(files.images), batch_size=BATCH, shuffle=True, num_workers=CORES)


# ---- laps


def race(
    contestants: dict[str, Contestant],
    rounds: int,
    num_batches: int,
    num_skipped: int = NUM_SKIPPED,
    num_bytes: int = 0,
) -> dict[str, Lap]:
    """Medians of each; `num_bytes` of memory are at hand when a lap begins."""
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
    return {name: Lap(*map(statistics.median, zip(*of_one, strict=True))) for name, of_one in laps.items() if of_one}


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


def print_rates(place: str, laps: dict[str, Lap]) -> None:
    limit = laps["limit"].images_per_s
    for name in sorted(laps.keys() - {"ours", "limit"}):
        print_case(f"reader/{place}_{name}", laps["ours"].images_per_s, laps[name].images_per_s, "images/s", limit)
        print_case(f"reader/{place}_first_batch_{name}", laps["ours"].first_s, laps[name].first_s, "s")


def print_case(case: str, ours: float, peer: float, unit: str, limit: float | None = None) -> None:
    line = {
        "case": case,
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "unit": unit,
        "ratio": round(ours / peer, 3),
        "limit": limit and round(limit, 4),
        "of_limit": limit and round(ours / limit, 3),
    }
    print(json.dumps(line), flush=True)


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
        print_case(f"reader/local_resume_{name}", laps["ours"].first_s, laps[name].first_s, "s")


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
    fresh, cached = (1 / statistics.median(seconds[name]) for name in ("ours", "peer"))
    print_case("reader/step_pspnet_resnet18", fresh, cached, "steps/s", cached)


CASES = {"local": bench_local, "resume": bench_resume, "s3": bench_s3, "step": bench_step}


def has_streaming() -> bool:
    return importlib.util.find_spec("streaming") is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
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
    in_s3 = arguments.s3 or ("s3://distseg" if "AWS_ENDPOINT_URL" in os.environ else "")
    remote = storage.join(in_s3, f"bench-{uuid.uuid4().hex[:8]}") if in_s3 and "s3" in arguments.cases else ""
    folder = Path(tempfile.mkdtemp(prefix="distseg-bench-"))
    try:
        files = make_files(folder / "data", arguments.samples or (4096 if arguments.full else 512), arguments.root)
        if remote:
            upload(files, remote)
        bench = Bench(
            files,
            arguments.rounds or (5 if arguments.full else 2),
            remote,
            60 if arguments.full else 20,
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
