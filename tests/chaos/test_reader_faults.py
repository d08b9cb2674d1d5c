"""A real S3 server behind a proxy that spoils its answers: training's batches are the same, or the failure is named.

Each fault is met while two epochs are read. Prints, without asserting the time: what came of it, the seconds it cost,
and how many samples were lost or doubled, which is asserted to be none.
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from distseg import storage
from distseg.data.loading import Batch, eval_samples
from distseg.data.shards import pack
from distseg.data.shards.manifest import Manifest, load_manifest
from distseg.errors import DataError, StorageError
from distseg.storage import s3_client
from tests.chaos.conftest import print_table
from tests.chaos.fault_proxy import Fault, FaultProxy, cut, flip, reset, slow, status
from tests.readers import train_reader
from tests.toy_data import LABELS, toy_samples

pytestmark = [pytest.mark.chaos, pytest.mark.servers, pytest.mark.timeout(900)]

NUM_SAMPLES = 64
BATCH = 8
NUM_BATCHES = 2 * NUM_SAMPLES // BATCH  # two epochs


class Row(NamedTuple):
    fault: str
    met: int
    outcome: str
    seconds_lost: float
    num_lost: int
    num_doubled: int


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("packed"))
    samples = {"train": toy_samples(NUM_SAMPLES, "train", [("day", "town"), ("night", "town")])}
    pack(samples, LABELS, uri, dataset="toy", max_samples_per_shard=8)
    return uri


@pytest.fixture(scope="module")
def expected(packed: str) -> list[Batch]:
    return read(load_manifest(packed))


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    titles = ("fault", "met", "outcome", "s lost", "lost", "doubled")
    shown = [(*row[:3], f"{row.seconds_lost:.2f}", *row[4:]) for row in rows]
    print_table(request, "{:40} {:>4} {:40} {:>7} {:>5} {:>8}", titles, shown)


@pytest.fixture
def proxy(s3_uri: str, packed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    for entry in storage.list_files(packed):
        storage.upload(entry.uri, storage.join(s3_uri, str(Path(entry.uri).relative_to(packed))))
    with FaultProxy(s3_client._connection().server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def read(manifest: Manifest, start_batch: int = 0, num_batches: int = NUM_BATCHES) -> list[Batch]:
    with train_reader(
        manifest,
        manifest.shards,
        batch_size=BATCH,
        crop_px=(20, 20),
        augment=None,
        seed=0,
        start_batch=start_batch,
        shuffle_window=4,
        deadline_s=60,
    ) as reader:
        return list(itertools.islice(reader, num_batches))


def assert_same(found: list[Batch], expected: list[Batch]) -> tuple[int, int]:
    """Bit by bit. Returns how many samples were lost and doubled: none, as an epoch holds each once."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.keys, ours.positions, ours.num_bad) == (theirs.keys, theirs.positions, 0)
        assert torch.equal(ours.images_B3HW, theirs.images_B3HW)
        assert torch.equal(ours.labels_BHW, theirs.labels_BHW)
    times = Counter(key for batch in found for key in batch.keys)
    lost, doubled = 2 * NUM_SAMPLES - times.total(), sum(max(0, count - 2) for count in times.values())
    assert len(times) == NUM_SAMPLES and (lost, doubled) == (0, 0)
    return lost, doubled


SURVIVED: dict[str, tuple[str, list[Fault]]] = {
    "slow answers, 0.5 s": (".tar", [slow(0.5)] * 40),
    "500 InternalError": (".tar", [status(500, "InternalError")] * 40),
    "503 SlowDown": (".tar", [status(503, "SlowDown")] * 40),
    "503 SlowDown on indices": (".index.json", [status(503, "SlowDown")] * 10),
    "connection reset": (".tar", [reset] * 40),
    "body cut short": (".tar", [cut] * 40),
    "token expired, then renewed": (".tar", [status(403, "ExpiredToken")] * 4),
    "a bit flipped in a sample, once": (".tar", [flip]),
    "a bit flipped in an index, once": (".index.json", [flip]),
    "all of it in turn": ("", [status(500, "InternalError"), reset, cut, status(503, "SlowDown"), slow(0.2)] * 8),
}


@pytest.mark.parametrize("name", SURVIVED)
def test_what_passes_changes_nothing(
    name: str, proxy: FaultProxy, s3_uri: str, expected: list[Batch], table: list[Row]
) -> None:
    manifest = load_manifest(s3_uri)
    _, undisturbed_s = timed_read(manifest, proxy)
    batches, seconds = timed_read(manifest, proxy, *SURVIVED[name])
    lost, doubled = assert_same(batches, expected)
    assert proxy.num_spoilt == len(SURVIVED[name][1])
    table.append(Row(name, proxy.num_spoilt, "same batches", seconds - undisturbed_s, lost, doubled))


def timed_read(
    manifest: Manifest, proxy: FaultProxy, part_of_path: str = "", faults: Iterable[Fault] = ()
) -> tuple[list[Batch], float]:
    proxy.spoil(part_of_path, faults)
    began_s = time.perf_counter()
    return read(manifest), time.perf_counter() - began_s


FATAL: dict[str, tuple[Fault, type[Exception], str]] = {
    "a bit of a sample flipped where it lies": (flip, DataError, r"is not as packed \(its CRC differs\)"),
    "a shard missing": (status(404, "NoSuchKey"), StorageError, "no such key in the bucket"),
}


@pytest.mark.parametrize("name", FATAL)
def test_what_stays_is_named_and_training_goes_on_where_it_stopped(
    name: str, proxy: FaultProxy, s3_uri: str, expected: list[Batch], table: list[Row]
) -> None:
    """Met by the fifth batch or so; once repaired, a resumed reader gives the rest."""
    fault, error, message = FATAL[name]
    manifest = load_manifest(s3_uri)
    shard = expected[4].keys[0].rpartition("/")[0]
    proxy.spoil(shard, itertools.repeat(fault, 10_000))
    batches: list[Batch] = []
    began_s = time.perf_counter()
    with pytest.raises(error, match=f"{shard}: .*{message}"):
        for b in range(NUM_BATCHES):
            batches += read(manifest, b, 1)
    seconds, met = time.perf_counter() - began_s, proxy.num_spoilt
    proxy.spoil("", [])
    lost, doubled = assert_same(batches + read(manifest, len(batches), NUM_BATCHES - len(batches)), expected)
    table.append(Row(name, met, f"named after {seconds:.1f} s; resumed", 0.0, lost, doubled))


def test_an_evaluation_survives_too(proxy: FaultProxy, s3_uri: str, packed: str) -> None:
    manifest = load_manifest(s3_uri)
    proxy.spoil(".tar", [*[status(503, "SlowDown"), reset, cut] * 5, flip])
    local = load_manifest(packed)
    samples = zip(eval_samples(manifest, manifest.shards), eval_samples(local, local.shards), strict=True)
    for ours, theirs in samples:
        assert ours.key == theirs.key
        assert torch.equal(ours.image_3HW, theirs.image_3HW) and torch.equal(ours.label_HW, theirs.label_HW)
    assert proxy.num_spoilt == 16
