"""Images of a source -> label maps, overlays and confidence maps below a folder, in tasks that may run anywhere.

    label/NAME.png        class ids in the label space's palette
    overlay/NAME.png      the photograph, tinted by class
    confidence/NAME.png   grey: how sure the network is, 0 black to 255 white, of every third row and column
    .segmenting/          the job, and a receipt of each finished task

A task's receipt is written when all its images are in place, so what was stopped goes on from there: images of a
receipt are not computed again, images without one do not count. The job says what they were made from; another job's
files are never taken for one's own. Each file appears whole or not at all (`distseg.storage`).
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from distseg import evaluation, storage
from distseg.data import LabelSpace, Progress, Runner
from distseg.deployment.inputs import Place, Source
from distseg.deployment.photographs import label_image, png_bytes, tinted
from distseg.deployment.segmenter import load_model
from distseg.errors import ConfigError, DataError, StorageError
from distseg.models import SegmentationModel
from distseg.strict_json import Count, Fraction, Sha256
from distseg.training import keep_freed_memory
from distseg.training.checkpoint import Checkpoint, resolve

STATE = ".segmenting"  # folder below `out`
TABLE, PAGE = "images.csv", "index.html"  # what the program writes about all images
_FOLDERS = ("label", "overlay", "confidence")
MAX_PER_TASK = 32  # images: so many are lost if a task is stopped
LEAST_TASKS = 64  # of a job of as many images: progress is told by task
_NUM_RECEIPT_READERS = 16
_AGAIN = "choose another --out, or --overwrite"


@dataclass(frozen=True, kw_only=True)
class SegmentJob:
    """What all tasks share."""

    checkpoint: str  # the very checkpoint or file, not a run's directory, whose best may change
    source: Source
    out: str
    inference: evaluation.InferenceConfig
    precision: str  # as `evaluation.resolve_precision` gives it
    max_megapixels: float
    num_threads: int = 0  # of torch, in processes that share a machine; 0: torch's own choice


class SegmentedImage(NamedTuple):
    """What is known of an image that was segmented."""

    name: str
    confidence: Fraction  # mean over its pixels
    shares: tuple[Fraction, ...]  # of its pixels, by class
    num_bytes: Count = 0  # of its file when it was segmented; 0: an earlier version did it


class _JobFile(NamedTuple):
    weights: Sha256
    images: str
    every: int
    how: str  # windows, scales, precision


# ---- the job


def segment_all(
    job: SegmentJob,
    saved: Checkpoint,
    places: Sequence[Place],
    run: Runner,
    progress: Progress,
    *,
    overwrite: bool = False,
) -> tuple[list[SegmentedImage], int]:
    """All images of `places`, in order, and how many of them were there already; those whose file has changed were not.

    Raises DataError if `job.out` has results of another job, or files of these names that no job has made, unless with
    `overwrite`: then nothing counts as done.
    """
    is_new = not storage.folder_exists(job.out)
    storage.check_writable(job.out)
    sizes = {place.name: place.num_bytes for place in places}
    found = _begin(job, saved, overwrite, sizes)
    left = [place for place in places if not _is_done(place, found)]
    _forget(job, {place.name for place in left})
    tasks = tasks_of(left)
    num_before = num_done = len(places) - len(left)
    results = run(functools.partial(segment_task, job=job), tasks)
    try:
        for task, images in zip(tasks, results, strict=True):
            found |= {image.name: image for image in images}
            num_done += len(task)
            progress(num_done, len(places))
    except BaseException:
        _tidy(job, is_new, sizes)
        raise
    return [found[place.name] for place in places], num_before


def _is_done(place: Place, found: Mapping[str, SegmentedImage]) -> bool:
    return place.name in found and found[place.name].num_bytes in (0, place.num_bytes)


def tasks_of(places: Sequence[Place]) -> list[tuple[Place, ...]]:
    size = min(MAX_PER_TASK, max(1, len(places) // LEAST_TASKS))
    return [tuple(places[start : start + size]) for start in range(0, len(places), size)]


def _begin(job: SegmentJob, saved: Checkpoint, overwrite: bool, sizes: Mapping[str, int]) -> dict[str, SegmentedImage]:
    """What is done already, by name. `sizes`: of the photographs as they are now, in bytes.

    Leaves the job's file, without which no receipt counts.
    """
    uri = storage.join(job.out, STATE, "job.json")
    ours = _job_file(job, saved)
    if _receipts(job) and storage.exists(uri) and not overwrite:  # a job that finished nothing is in nobody's way
        theirs: _JobFile = storage.read_json(_JobFile, uri, DataError, _AGAIN)
        for name, mine, other in zip(_JobFile._fields, ours, theirs, strict=True):
            if mine != other:
                what = "other weights" if name == "weights" else f"{name} = {other}, not {mine}"
                raise DataError(f"{job.out} has results of {what}: {_AGAIN}")
        return _finished(job, sizes)
    if not storage.exists(uri) and not overwrite and (foreign := _written(job, sizes)):
        raise DataError(f"{storage.join(job.out, foreign)}: is not of this program and would be lost: {_AGAIN}")
    storage.delete_tree(storage.join(job.out, STATE))
    storage.write_bytes(uri, json.dumps(ours._asdict()).encode())
    return {}


def _tidy(job: SegmentJob, is_new: bool, sizes: Mapping[str, int]) -> None:
    """After a failure: finished tasks stay, to go on from; of a job that wrote no image, nothing is kept."""
    with contextlib.suppress(StorageError):  # the failure itself is what the user must see
        if not _receipts(job) and not _written(job, sizes):
            storage.delete_tree(storage.join(job.out, STATE))
            if is_new:
                storage.delete_empty(job.out)


def _job_file(job: SegmentJob, saved: Checkpoint) -> _JobFile:
    digest = hashlib.sha256()
    for name, value in saved.evaluated.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    how = f"{dataclasses.asdict(job.inference)} {job.precision}"
    return _JobFile(digest.hexdigest(), job.source.uri, getattr(job.source, "every", 1), how)


def _written(job: SegmentJob, names: Iterable[str]) -> str:
    """The first file, below `job.out`, of those that this job writes and that are there; empty if there is none."""
    results = {result_name(name) for name in names}
    found = [f"{folder}/{name}" for folder, there in _results(job).items() for name in sorted(results & there)]
    found += [name for name in (TABLE, PAGE) if storage.exists(storage.join(job.out, name))]
    return found[0] if found else ""


def _results(job: SegmentJob) -> dict[str, set[str]]:
    """The names of the files in each folder of results."""
    folders = {folder: storage.join(job.out, folder) for folder in _FOLDERS}
    return {
        folder: {entry.uri.removeprefix(uri + "/") for entry in storage.list_files(uri)}
        for folder, uri in folders.items()
    }


def _finished(job: SegmentJob, sizes: Mapping[str, int]) -> dict[str, SegmentedImage]:
    """Images that have a receipt and whose files are still there. Of several, the receipt of the image as it is now."""
    in_place = set.intersection(*_results(job).values())
    with ThreadPoolExecutor(_NUM_RECEIPT_READERS) as threads:
        rows = threads.map(_read_receipt, _receipts(job))
        found = [image for images in rows for image in images if result_name(image.name) in in_place]
    found.sort(key=lambda image: image.num_bytes == sizes.get(image.name))
    return {image.name: image for image in found}


def _forget(job: SegmentJob, names: Collection[str]) -> None:
    """Takes images that are segmented anew out of the receipts: these are of the files that are there until then."""
    for uri in _receipts(job):
        images = _read_receipt(uri)
        kept = [image for image in images if image.name not in names]
        if len(kept) < len(images):
            storage.write_bytes(uri, _as_receipt(kept))


def _as_receipt(images: Iterable[SegmentedImage]) -> bytes:
    return json.dumps([image._asdict() for image in images]).encode()


def _receipts(job: SegmentJob) -> list[str]:
    found = (entry.uri for entry in storage.list_files(storage.join(job.out, STATE)))
    return [uri for uri in found if uri.endswith(".json") and not uri.endswith("/job.json")]


def _read_receipt(uri: str) -> tuple[SegmentedImage, ...]:
    images: tuple[SegmentedImage, ...] = storage.read_json(
        tuple[SegmentedImage, ...], uri, DataError, "remove it, and its images are segmented again"
    )
    return images


def result_name(name: str) -> str:
    """Of an image's results, below label/, overlay/ and confidence/."""
    return str(PurePosixPath(name).with_suffix(".png"))


# ---- a task


def segment_task(places: Sequence[Place], job: SegmentJob) -> list[SegmentedImage]:
    """Raises DataError naming an image that cannot be read."""
    network = _loaded(job.checkpoint, job.precision, job.num_threads)
    found = [
        _segment(place, image, network, job)
        for place, image in zip(places, job.source.read(places, job.max_megapixels), strict=True)
    ]
    digest = hashlib.sha256("\n".join(place.name for place in places).encode()).hexdigest()
    storage.write_bytes(storage.join(job.out, STATE, f"{digest[:24]}.json"), _as_receipt(found))
    return found


class _Network(NamedTuple):
    model: SegmentationModel
    labels: LabelSpace
    device: torch.device


@functools.lru_cache(maxsize=1)  # a process does many tasks of one job
def _loaded(uri: str, precision: str, num_threads: int) -> _Network:
    if num_threads:
        torch.set_num_threads(num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory(device)
    saved = resolve(uri)[1]
    return _Network(load_model(saved, device, precision), saved.label_space, device)


def _segment(place: Place, image: Image.Image, network: _Network, job: SegmentJob) -> SegmentedImage:
    images_13HW = torch.from_numpy(np.array(image)[None]).permute(0, 3, 1, 2).to(network.device)
    sure = evaluation.predict_with_confidence(network.model, images_13HW, job.precision, job.inference)
    if sure.is_nan_B.any():
        raise ConfigError(f"--precision {job.precision}: predictions of {place.name} are not numbers; give fp32")
    ids_HW = sure.ids_BHW[0].to(torch.uint8).cpu().numpy()
    results = {
        "overlay": tinted(image, ids_HW, network.labels),
        "confidence": Image.fromarray(evaluation.confidence_map(sure.level_Bhw[0].cpu().numpy())),
        "label": label_image(ids_HW, network.labels),
    }
    for folder, result in results.items():
        storage.write_bytes(storage.join(job.out, folder, result_name(place.name)), png_bytes(result))
    shares_K = np.bincount(ids_HW.reshape(-1), minlength=network.labels.num_classes) / ids_HW.size
    return SegmentedImage(place.name, sure.mean_confidences()[0], tuple(shares_K.tolist()), place.num_bytes)
