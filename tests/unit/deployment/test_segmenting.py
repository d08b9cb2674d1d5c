"""Images segmented in tasks: what is there is not computed again, what is half there does not count."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distseg import evaluation, storage
from distseg.config import RunConfig
from distseg.data import Runner, in_processes
from distseg.data.datasets import town
from distseg.deployment import segmenting
from distseg.deployment.chosen import choose, shown
from distseg.deployment.inputs import Photographs, Place
from distseg.deployment.segmenting import SegmentedImage, SegmentJob, _Network, _segment, segment_all, tasks_of
from distseg.errors import DataError, StorageError
from distseg.models import Logits, build_model
from distseg.training.checkpoint import Checkpoint, as_one_file, resolve

SIZES = {"a.jpg": (70, 50), "more/b.png": (40, 64), "more/c.png": (33, 41)}


def job_of(folder: Path, config: RunConfig, seed: int = 0) -> SegmentJob:
    """Photographs of noise, and a network of random weights."""
    random = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / "images" / name)
    torch.manual_seed(seed)
    model = build_model(config.model, town.LABELS.num_classes, aux=False)
    saved = Checkpoint(
        step=1,
        config=config,
        label_space=town.LABELS,
        model=model.state_dict(),
        optimizer={},
        manifest_digest="",
        run_id="",
        metrics={},
    )
    (folder / f"{seed}.pt").write_bytes(as_one_file(saved))
    return SegmentJob(
        checkpoint=str(folder / f"{seed}.pt"),
        source=Photographs(str(folder / "images")),
        out=str(folder / "out"),
        inference=evaluation.WHOLE_IMAGE,
        precision="fp32",
        max_megapixels=1,
    )


@pytest.fixture
def job(tmp_path: Path, light_config: RunConfig) -> SegmentJob:
    return job_of(tmp_path, light_config)


def segmented(job: SegmentJob, run: Runner | None = None, **options: bool) -> tuple[list[str], list[SegmentedImage]]:
    """Names of the images that were computed now, and all."""
    computed: list[str] = []

    def counting(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        computed.extend(place.name for task in tasks for place in task)
        return (run or in_processes(1))(function, tasks)

    saved = resolve(job.checkpoint)[1]
    found, num_before = segment_all(job, saved, job.source.places(), counting, lambda done, all_: None, **options)
    assert num_before == len(found) - len(computed)
    return computed, found


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_each_image_has_its_label_map_its_overlay_and_its_confidence(job: SegmentJob) -> None:
    _, found = segmented(job)
    assert [image.name for image in found] == list(SIZES)
    for image in found:
        width, height = SIZES[image.name]
        label, overlay, confidence = (
            opened(Path(job.out) / folder / Path(image.name).with_suffix(".png"))
            for folder in ("label", "overlay", "confidence")
        )
        assert label.size == overlay.size == (width, height) and label.mode == "P" and confidence.mode == "L"
        assert confidence.size == (-(-width // 3), -(-height // 3))
        assert np.asarray(confidence).mean() / 255 == pytest.approx(image.confidence, abs=0.01)
        counts_K = np.bincount(np.asarray(label).reshape(-1), minlength=town.LABELS.num_classes)
        assert np.allclose(image.shares, counts_K / (width * height), atol=1e-6)


def test_only_what_is_not_there_is_computed(job: SegmentJob) -> None:
    first, found = segmented(job)
    assert first == list(SIZES)
    assert segmented(job) == ([], found)
    (Path(job.out) / "overlay/more/b.png").unlink()
    Image.new("RGB", (35, 35)).save(Path(job.source.uri) / "d.png")  # the folder has grown
    assert segmented(job)[0] == ["d.png", "more/b.png"]
    assert segmented(job, overwrite=True)[0] == [*sorted([*SIZES, "d.png"])]


def test_an_image_that_was_replaced_is_segmented_anew(job: SegmentJob) -> None:
    segmented(job)
    Image.new("RGB", (61, 44)).save(Path(job.source.uri) / "a.jpg")
    again, found = segmented(job)
    assert again == ["a.jpg"] and opened(Path(job.out) / "label/a.png").size == (61, 44)
    assert len(shown(job, job.source.places(), found, 9)) == 3
    assert segmented(job) == ([], found)  # of its two receipts the new one counts
    unknown = [image._replace(num_bytes=0) for image in found]  # of an earlier version, which did not keep it
    for receipt in Path(job.out, ".segmenting").glob("[!j]*.json"):
        rows = json.loads(receipt.read_text())
        receipt.write_text(json.dumps([{k: v for k, v in row.items() if k != "num_bytes"} for row in rows]))
    assert segmented(job) == ([], unknown)
    Image.new("RGB", (50, 50)).save(Path(job.source.uri) / "more/b.png")
    with pytest.raises(DataError, match=r"more/b\.png: is of another size than when it was segmented; --overwrite"):
        shown(job, job.source.places(), found, 9)


@pytest.mark.parametrize("are_removed", [False, True])
def test_a_photograph_that_comes_back_is_segmented_again(
    are_removed: bool, job: SegmentJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old receipt is of its old results, which were replaced meanwhile. `are_removed`: all results, in between."""
    monkeypatch.setattr(segmenting, "LEAST_TASKS", 1)  # so that its new receipt is another file than its old one
    path = Path(job.source.uri) / "a.jpg"
    old = path.read_bytes()
    segmented(job)
    if are_removed:
        shutil.rmtree(Path(job.out) / "label")
        Image.new("RGB", (30, 30)).save(path.with_name("new.png"))
    Image.new("RGB", (61, 44)).save(path)
    segmented(job)
    path.write_bytes(old)
    assert segmented(job)[0] == ["a.jpg"] and opened(Path(job.out) / "label/a.png").size == SIZES["a.jpg"]


def test_a_class_of_one_pixel_in_millions_is_not_said_to_be_missing(job: SegmentJob) -> None:
    """Of 3 million pixels one is a share of 3e-7, which is 0 to six digits."""
    image = Image.new("RGB", (2048, 1500))
    network = _Network(_OnePixel(town.LABELS.num_classes), town.LABELS, torch.device("cpu"))  # type: ignore[arg-type]
    shares = _segment(Place("a.png"), image, network, job).shares
    assert sum(share > 0 for share in shares) == 2


class _OnePixel(torch.nn.Module):
    """Class 0 everywhere, but class 1 in one pixel."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images_B3HW: torch.Tensor) -> Logits:
        logits_BKHW = torch.zeros(1, self.num_classes, *images_B3HW.shape[2:])
        logits_BKHW[:, 1, 700, 700] = 1.0
        return Logits(logits_BKHW, None)


def test_a_task_without_its_receipt_does_not_count(job: SegmentJob, monkeypatch: pytest.MonkeyPatch) -> None:
    written, write = [], storage.write_bytes

    def stops(uri: str, data: bytes) -> None:
        written.append(uri)
        if sum("/.segmenting/" in each for each in written) == 3:  # the job, the first image's, the second's
            raise KeyboardInterrupt
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", stops)
    with pytest.raises(KeyboardInterrupt):
        segmented(job)
    monkeypatch.undo()
    assert (Path(job.out) / "label/more/b.png").exists()
    assert segmented(job)[0] == ["more/b.png", "more/c.png"]


def test_results_of_another_network_or_of_other_images_are_not_taken(job: SegmentJob, light_config: RunConfig) -> None:
    segmented(job)
    other = job_of(Path(job.out).parent, light_config, seed=1)
    with pytest.raises(DataError, match=r"out has results of other weights: choose another --out, or --overwrite"):
        segmented(other)
    flipped = replace(job, inference=evaluation.InferenceConfig(flip=True))
    with pytest.raises(DataError, match=r"has results of how = .*'flip': False.* not .*'flip': True"):
        segmented(flipped)
    assert segmented(other, overwrite=True)[0] == list(SIZES)
    receipt = next(path for path in Path(job.out, ".segmenting").iterdir() if path.name != "job.json")
    receipt.write_text("[[")
    with pytest.raises(DataError, match=r"is damaged .* remove it, and its images are segmented again"):
        segmented(other)


def test_tasks_are_small_where_there_are_few_images() -> None:
    def sizes(count: int) -> list[int]:
        return [len(task) for task in tasks_of([Place(str(n)) for n in range(count)])]

    assert sizes(3) == [1, 1, 1]
    assert sizes(200) == [3] * 66 + [2]
    assert sizes(10_000) == [32] * 312 + [16]


def test_a_page_shows_the_least_sure_and_others_evenly_spread(job: SegmentJob) -> None:
    images = [SegmentedImage(str(n), c, ()) for n, c in enumerate((0.9, 0.2, 0.8, 0.7, 0.3, 0.6, 0.9, 0.8))]
    least_sure, others = choose(images, 4)
    assert [image.name for image in least_sure] == ["1", "4"]
    assert [image.name for image in others] == ["0", "5"]  # of 0 2 3 5 6 7
    assert [len(part) for part in choose(images, 99)] == [8, 0] and choose([], 4) == ([], [])
    _, found = segmented(job)
    overlays = shown(job, job.source.places(), found, 2)
    assert overlays[0].key == min(found, key=lambda image: image.confidence).name
    assert [overlay.kind for overlay in overlays] == ["worst", "fixed"]
    assert {overlay.condition for overlay in shown(job, job.source.places(), found, 9)} == {"", "more"}
    assert all(overlay.layers and not overlay.layers.truth for overlay in overlays)


def test_what_no_job_has_made_is_not_replaced(job: SegmentJob) -> None:
    by_hand = Path(job.out) / "label/more/b.png"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"hours of work")
    (Path(job.out) / "label/other.png").write_bytes(b"in nobody's way")
    with pytest.raises(DataError, match=r"out/label/more/b\.png: is not of this program and would be lost: choose"):
        segmented(job)
    assert by_hand.read_bytes() == b"hours of work"
    by_hand.unlink()
    (Path(job.out) / "images.csv").write_text("mine")
    with pytest.raises(DataError, match=r"out/images\.csv: is not of this program"):
        segmented(job)
    assert segmented(job, overwrite=True)[0] == list(SIZES)


def test_what_a_job_left_that_finished_no_task_is_in_nobodys_way(
    job: SegmentJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = storage.write_bytes

    def full(uri: str, data: bytes) -> None:
        if "/confidence/" in uri:
            raise StorageError(f"{uri}: the disk is full")
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", full)
    with pytest.raises(StorageError):
        segmented(job)
    monkeypatch.undo()
    assert Path(job.out, "overlay/a.png").exists()
    assert segmented(job)[0] == list(SIZES)
