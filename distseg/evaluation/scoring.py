"""From a model and shards to confusion matrices: the one evaluation of training and of `distseg evaluate`.

Every sample is counted exactly once, however many ranks share the work; the result is the same on every rank.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distseg import stopping
from distseg.config import MAX_MEGAPIXELS
from distseg.data.loading import EvalSample, eval_samples
from distseg.data.shards import Manifest, Shard
from distseg.errors import DataError
from distseg.evaluation.bootstrap import ImageCounts
from distseg.evaluation.inference import WHOLE_IMAGE, InferenceConfig, predict
from distseg.evaluation.metrics import class_counts, confusion_matrix
from distseg.evaluation.overlays import Overlays
from distseg.evaluation.world import World

MAX_BATCH_PIXELS = 1 << 19  # images of one size are scored together up to this many pixels: bounded memory, busy cores

Group = tuple[str, str]  # condition, site


class ScoredImage(NamedTuple):
    key: str
    condition: str
    sequence: str  # "": not known
    counts_3K: Tensor  # class_counts of its matrix


@dataclass
class ConfusionMatrix:
    """What scoring adds up: an int64 confusion matrix (truth x prediction) per condition and site, and each image."""

    groups: tuple[Group, ...]
    matrices_GKK: Tensor
    num_images_G: Tensor
    images: list[ScoredImage] = field(default_factory=list)

    @classmethod
    def empty(cls, groups: Iterable[Group], num_classes: int) -> "ConfusionMatrix":
        names = tuple(sorted(set(groups)))
        matrices_GKK = torch.zeros(len(names), num_classes, num_classes, dtype=torch.int64)
        return cls(names, matrices_GKK, torch.zeros(len(names), dtype=torch.int64))

    def update(self, sample: EvalSample, prediction_HW: Tensor) -> Tensor:
        """Counts one image. Returns its `class_counts` (3, K)."""
        matrix_KK = confusion_matrix(prediction_HW, sample.label_HW, self.matrices_GKK.shape[-1])
        g = self.groups.index((sample.condition, sample.site))
        self.matrices_GKK[g] += matrix_KK
        self.num_images_G[g] += 1
        counts_3K = class_counts(matrix_KK)
        self.images.append(ScoredImage(sample.key, sample.condition, sample.sequence, counts_3K))
        return counts_3K

    def all_reduce(self, world: World) -> None:
        """Makes every rank's counts those of all ranks together."""
        self.matrices_GKK = world.sum(self.matrices_GKK.to(world.device)).cpu()
        self.num_images_G = world.sum(self.num_images_G.to(world.device)).cpu()
        self.images = [image for images in world.gather(self.images) for image in images]

    def check_complete(self, shards: Sequence[Shard]) -> None:
        """Raises DataError unless every sample of `shards` was counted exactly once."""
        for (condition, site), num_counted in zip(self.groups, self.num_images_G.tolist(), strict=True):
            num_expected = sum(s.num_samples for s in shards if (s.condition, s.site) == (condition, site))
            if num_counted != num_expected:
                raise DataError(
                    f"evaluation of {condition} at {site} counted {num_counted} images of {num_expected}; "
                    "nothing is reported"
                )

    def image_counts(self) -> ImageCounts:
        """Image by image, for intervals and for comparing runs. Raises DataError if nothing was scored."""
        counts_N3K = torch.stack([image.counts_3K for image in self.images]) if self.images else torch.empty(0)
        return ImageCounts.of(
            [image.key for image in self.images],
            [image.condition for image in self.images],
            counts_N3K,
            [image.sequence for image in self.images],
        )

    def by_condition(self) -> dict[str, tuple[Tensor, int]]:
        """condition -> (matrix, number of images)"""
        return self._summed(0)

    def by_site(self) -> dict[str, tuple[Tensor, int]]:
        """site -> (matrix, number of images)"""
        return self._summed(1)

    def _summed(self, part: int) -> dict[str, tuple[Tensor, int]]:
        found: dict[str, tuple[Tensor, int]] = {}
        for group, matrix_KK, num_images in zip(self.groups, self.matrices_GKK, self.num_images_G, strict=True):
            before, num_before = found.get(group[part], (torch.zeros_like(matrix_KK), 0))
            found[group[part]] = before + matrix_KK, num_before + int(num_images)
        return found


def evaluate_shards(
    model: nn.Module,
    manifest: Manifest,
    shards: Sequence[Shard],
    world: World,
    *,
    precision: str,
    inference: InferenceConfig = WHOLE_IMAGE,
    num_threads: int = 2,
    deadline_s: float = 300.0,
    max_megapixels: float = MAX_MEGAPIXELS,
    overlays: Overlays | None = None,
    progress: Callable[[int], None] | None = None,
) -> ConfusionMatrix:
    """The model's predictions on all samples of `shards`, counted over all ranks; each rank must call it.

    `precision` is bf16, fp32 or fp64. `overlays` is shown each image that this rank scores; `progress` is told how many
    those are. Leaves the model in the mode it was in. Raises DataError for a damaged or missing sample, and
    StoppedError on all ranks if one of them is asked to end meanwhile (distseg.stopping).
    """
    counted = ConfusionMatrix.empty(((s.condition, s.site) for s in shards), manifest.label_space.num_classes)
    samples = eval_samples(
        manifest,
        shards,
        rank=world.rank,
        world=world.size,
        num_threads=num_threads,
        prefetch=16,
        deadline_s=deadline_s,
        max_megapixels=max_megapixels,
    )
    max_pixels = MAX_BATCH_PIXELS if inference.is_whole_image else 1  # averaged predictions take several times as much
    was_training = model.training
    model.eval()
    try:
        for batch in _batches_of_one_size(samples, max_pixels):
            if stopping.is_requested():
                break
            images_B3HW = torch.stack([sample.image_3HW for sample in batch]).to(world.device, non_blocking=True)
            prediction_BHW = predict(model, images_B3HW, precision, inference).cpu()
            for sample, prediction_HW in zip(batch, prediction_BHW, strict=True):
                counts_3K = counted.update(sample, prediction_HW)
                if overlays is not None:
                    overlays.update(sample, prediction_HW, counts_3K)
            if progress is not None:
                progress(len(counted.images))
    finally:
        model.train(was_training)
    if world.sum(torch.tensor(int(stopping.is_requested()), device=world.device)).item():
        raise stopping.stopped()
    counted.all_reduce(world)
    counted.check_complete(shards)
    return counted


def _batches_of_one_size(samples: Iterable[EvalSample], max_pixels: int) -> Iterator[list[EvalSample]]:
    """Consecutive images of one size, at most `max_pixels` together, or a single one."""
    batch: list[EvalSample] = []
    for sample in samples:
        shape = sample.image_3HW.shape
        num_pixels = shape[-1] * shape[-2]
        if batch and (batch[0].image_3HW.shape != shape or (len(batch) + 1) * num_pixels > max_pixels):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch
