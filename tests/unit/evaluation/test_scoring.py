"""Whole evaluations: the counts do not depend on how images are batched, where they are counted, and from what disk."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distseg import stopping, storage
from distseg.data.shards import Manifest, load_manifest, pack
from distseg.evaluation import ConfusionMatrix, InferenceConfig, Overlays, World, evaluate_shards, metrics, scoring
from distseg.models import Logits
from tests.toy_data import LABELS, toy_samples

GROUPS = (("day", "town"), ("night", "town"))
SIZES = ((24, 40), (24, 40), (24, 40), (36, 28), (24, 40))


class Coloured(nn.Module):
    """Tells classes by the colour of their pixels, not always rightly, at half of the image's size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, stride=2, padding=1)
        self.num_forwards = 0

    def forward(self, images_B3HW: Tensor) -> Logits:
        self.num_forwards += 1
        return Logits(self.conv(images_B3HW), None)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    samples = [
        dataclasses.replace(sample, key=f"{number}_{sample.key}")
        for number, size in enumerate(SIZES)
        for sample in toy_samples(4, "val", GROUPS, size)
    ]
    uri = str(tmp_path_factory.mktemp("packed"))
    return pack({"val": samples}, LABELS, uri, dataset="toy", max_samples_per_shard=3)


def evaluated(manifest: Manifest, model: nn.Module | None = None, **options: Any) -> ConfusionMatrix:
    return evaluate_shards(model or Coloured(), manifest, manifest.shards, World(), precision="fp32", **options)


def assert_same(one: ConfusionMatrix, other: ConfusionMatrix) -> None:
    assert one.groups == other.groups
    assert torch.equal(one.matrices_GKK, other.matrices_GKK)
    assert torch.equal(one.num_images_G, other.num_images_G)
    assert [image.key for image in one.images] == [image.key for image in other.images]
    for image, same in zip(one.images, other.images, strict=True):
        assert torch.equal(image.counts_3K, same.counts_3K)


def test_predictions_that_are_no_numbers_are_said_to_be_none(
    packed: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a network of fp32 is evaluated in fp16 and its numbers are too large for that."""
    model = Coloured()
    evaluated(packed, model)
    assert not caplog.messages
    with torch.no_grad():
        model.conv.weight *= 1e38
    evaluated(packed, model)
    (line,) = caplog.messages
    assert line.startswith("precision fp32: predictions of ") and "are not numbers, so the scores say nothing" in line


def test_a_gpus_way_of_counting_gives_the_same_bits(packed: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of other sizes, counted by scattering, and looked at when the next one is under way."""
    overlays, overlays_gpu = (Overlays([condition for condition, _ in GROUPS], LABELS.palette, 2) for _ in range(2))
    expected = evaluated(packed, overlays=overlays)
    assert expected.matrices_GKK.sum() > 0
    monkeypatch.setattr(scoring, "max_batch_pixels", lambda device: 2 * 24 * 40)
    monkeypatch.setattr(scoring, "num_ahead", lambda device: 1)
    monkeypatch.setattr(metrics, "_bincounts", metrics._scattered_counts)
    progress: list[int] = []
    assert_same(expected, evaluated(packed, overlays=overlays_gpu, progress=progress.append))
    assert progress == sorted(progress) and progress[-1] == len(expected.images) == 4 * len(SIZES)
    assert overlays_gpu.gathered(World()) == overlays.gathered(World())


def test_a_batch_is_looked_at_after_the_next_one_was_begun(packed: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "num_ahead", lambda device: 1)
    model, begun = Coloured(), []
    evaluated(packed, model, progress=lambda num_done: begun.append(model.num_forwards))
    assert begun[:-1] == list(range(2, model.num_forwards + 1)) and begun[-1] == model.num_forwards


def test_a_request_to_stop_ends_an_evaluation_with_batches_under_way(
    packed: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "num_ahead", lambda device: 1)
    model = Coloured()
    monkeypatch.setattr(stopping, "is_requested", lambda: model.num_forwards >= 2)
    with pytest.raises(stopping.StoppedError):
        evaluated(packed, model)
    assert model.num_forwards == 2 and model.training


def test_averaged_predictions_take_one_image_at_a_time(packed: Manifest) -> None:
    model = Coloured()
    evaluated(packed, model, inference=InferenceConfig(scales=(1.0, 0.5)))
    assert model.num_forwards == 2 * 4 * len(SIZES)


def test_an_evaluation_leaves_shards_of_s3_on_disk_for_the_next_one(
    packed: Manifest, moto_s3: str, tmp_path: Path
) -> None:
    for entry in storage.list_files(packed.uri):
        storage.upload(entry.uri, storage.join(moto_s3, str(Path(entry.uri).relative_to(packed.uri))))
    remote = load_manifest(moto_s3)
    options: dict[str, Any] = {"cache_bytes": 1 << 30, "cache_dir": str(tmp_path / "cache")}
    expected = evaluated(packed)
    assert_same(expected, evaluated(remote))
    assert not (tmp_path / "cache").exists()
    while len(list((tmp_path / "cache").glob("*.tar"))) < len(remote.shards):  # those of which a range was just read
        assert_same(expected, evaluated(remote, **options))
    for shard in remote.shards:
        storage.delete(storage.join(moto_s3, shard.name))
    assert_same(expected, evaluated(remote, **options))
