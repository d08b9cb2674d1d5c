"""Who reads in `bench_reader.py`: ours, what no reader can be faster than, and the peers."""

import io
import itertools
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from distseg import storage
from distseg.data.loading.decoding import decode_ids, decode_rgb
from distseg.data.shards.formats import Shard
from distseg.data.shards.manifest import Index, Manifest, read_index, read_sample
from tests.benchmarks.reader_data import CORES, SIZE_PX, Files
from tests.readers import train_reader

BATCH = 16

Contestant = Callable[[], Iterator[object]]
"""Starts a pipeline from nothing; each item is a batch of 16 images with labels, as arrays."""


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
