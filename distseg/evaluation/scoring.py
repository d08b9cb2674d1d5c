"""From a model and shards to confusion matrices: the one evaluation of training and of `distseg evaluate`.

Every sample is counted exactly once, however many ranks share the work; the result is the same on every rank.
"""

import logging
from collections import deque
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
from distseg.evaluation.inference import WHOLE_IMAGE, InferenceConfig, Sure, predict_with_confidence
from distseg.evaluation.metrics import PairCounts, class_counts, count_pairs
from distseg.evaluation.pictures.overlays import Overlays
from distseg.evaluation.trust.counts import STRIDE, TrustCounts, count_image, num_counts
from distseg.evaluation.world import World

log = logging.getLogger(__name__)

MAX_BATCH_PIXELS = 1 << 19
"""Images of one size are segmented together up to so many pixels on a CPU: bounded memory, busy cores."""
MAX_BATCH_PIXELS_GPU = 1 << 21
"""One image of Cityscapes, or twelve of CamVid, whose logits of 19 classes take 160 MB."""

Group = tuple[str, str]  # condition, site


class ScoredImage(NamedTuple):
    key: str
    condition: str
    sequence: str  # "": not known
    counts_3K: Tensor  # class_counts of its matrix


def max_batch_pixels(device: torch.device) -> int:
    return MAX_BATCH_PIXELS if device.type == "cpu" else MAX_BATCH_PIXELS_GPU


@dataclass
class ConfusionMatrix:
    """What scoring adds up: per condition and site an int64 confusion matrix (truth x prediction); each image."""

    groups: tuple[Group, ...]
    matrices_GKK: Tensor
    num_images_G: Tensor
    trust_GN: Tensor  # int64, `TrustCounts.as_vector`; all 0 if only matrices were counted
    images: list[ScoredImage] = field(default_factory=list)

    @classmethod
    def empty(cls, groups: Iterable[Group], num_classes: int) -> "ConfusionMatrix":
        names = tuple(sorted(set(groups)))
        matrices_GKK = torch.zeros(len(names), num_classes, num_classes, dtype=torch.int64)
        trust_GN = torch.zeros(len(names), num_counts(num_classes), dtype=torch.int64)
        return cls(names, matrices_GKK, torch.zeros(len(names), dtype=torch.int64), trust_GN)

    def add(self, samples: Sequence[EvalSample], matrices_BKK: Tensor) -> Tensor:
        """Counts images by their matrices. Returns their `class_counts` (B, 3, K)."""
        counts_B3K = class_counts(matrices_BKK)
        for sample, matrix_KK, counts_3K in zip(samples, matrices_BKK, counts_B3K, strict=True):
            g = self.groups.index((sample.condition, sample.site))
            self.matrices_GKK[g] += matrix_KK
            self.num_images_G[g] += 1
            self.images.append(ScoredImage(sample.key, sample.condition, sample.sequence, counts_3K))
        return counts_B3K

    def joined(self, others: "ConfusionMatrix") -> "ConfusionMatrix":
        """Of both, which have no condition in common."""
        assert not {condition for condition, _ in self.groups} & {condition for condition, _ in others.groups}
        return ConfusionMatrix(
            self.groups + others.groups,
            torch.cat([self.matrices_GKK, others.matrices_GKK]),
            torch.cat([self.num_images_G, others.num_images_G]),
            torch.cat([self.trust_GN, others.trust_GN]),
            self.images + others.images,
        )

    def add_trust(self, sample: EvalSample, predicted_hw: Tensor, level_hw: Tensor) -> None:
        """Counts one image by the uint8 grid of every STRIDEth row and column, see `trust.counts`."""
        truth_hw = sample.label_HW[::STRIDE, ::STRIDE].numpy()
        counts = count_image(truth_hw, predicted_hw.numpy(), level_hw.numpy(), self.num_classes)
        self.trust_GN[self.groups.index((sample.condition, sample.site))] += torch.from_numpy(counts.as_vector())

    @property
    def num_classes(self) -> int:
        return self.matrices_GKK.shape[-1]

    def all_reduce(self, world: World) -> None:
        """Makes every rank's counts those of all ranks together."""
        self.matrices_GKK = world.sum(self.matrices_GKK.to(world.device)).cpu()
        self.num_images_G = world.sum(self.num_images_G.to(world.device)).cpu()
        self.trust_GN = world.sum(self.trust_GN.to(world.device)).cpu()
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

    def by_condition(self) -> dict[str, "Summed"]:
        return self._by_part(0)

    def by_site(self) -> dict[str, "Summed"]:
        return self._by_part(1)

    def _by_part(self, part: int) -> dict[str, "Summed"]:
        chosen: dict[str, list[int]] = {}
        for g, group in enumerate(self.groups):
            chosen.setdefault(group[part], []).append(g)
        return {name: self.summed(groups) for name, groups in chosen.items()}

    def summed(self, groups: Sequence[int] | None = None) -> "Summed":
        """Of these groups, by default of all."""
        chosen = list(range(len(self.groups))) if groups is None else list(groups)
        matrices_gKK, trust_gN, num_images_g = (
            of_groups[chosen] for of_groups in (self.matrices_GKK, self.trust_GN, self.num_images_G)
        )
        trust = TrustCounts.of_vector(trust_gN.sum(0).numpy(), self.num_classes)
        return Summed(matrices_gKK.sum(0), int(num_images_g.sum()), trust)


class Summed(NamedTuple):
    """Of some images together."""

    matrix_KK: Tensor
    num_images: int
    trust: TrustCounts


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
    cache_bytes: int = 0,
    cache_dir: str = "",
    overlays: Overlays | None = None,
    progress: Callable[[int], None] | None = None,
) -> ConfusionMatrix:
    """The model's predictions on all samples of `shards`, counted over all ranks; each rank must call it.

    `precision` is one that `resolve_precision` gives. Remote shards are kept on this node's disk up to `cache_bytes`,
    as those of training. `overlays` is shown each image that this rank scores; `progress` is told how many those are.
    Leaves the model in the mode it was in. Raises DataError for a damaged or missing sample, and StoppedError on all
    ranks if one of them is asked to end meanwhile (distseg.stopping).
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
        cache_bytes=cache_bytes,
        cache_dir=cache_dir,
    )
    # averaged predictions take several times as much memory
    batches = _batches_of_one_size(samples, max_batch_pixels(world.device) if inference.is_whole_image else 1)
    was_training, num_nan = model.training, 0
    model.eval()
    try:
        for scored in _scored(model, batches, world.device, precision, inference, counted.num_classes):
            counts_B3K = counted.add(scored.samples, scored.matrices_BKK)
            num_nan += int(scored.is_nan_B.sum())
            for grid in zip(scored.samples, scored.predicted_Bhw, scored.level_Bhw, strict=True):
                counted.add_trust(*grid)
            if overlays is not None:
                for shown in zip(scored.samples, scored.prediction_BHW, counts_B3K, scored.level_Bhw, strict=True):
                    overlays.update(*shown)
            if progress is not None:
                progress(len(counted.images))
    finally:
        model.train(was_training)
    if num_nan:
        _warn_of_nan(num_nan, precision)
    if world.sum(torch.tensor(int(stopping.is_requested()), device=world.device)).item():
        raise stopping.stopped()
    counted.all_reduce(world)
    counted.check_complete(shards)
    return counted


def _warn_of_nan(num_images: int, precision: str) -> None:
    log.warning(
        "precision %s: predictions of %d images are not numbers, so the scores say nothing; evaluate in fp32",
        *(precision, num_images),
    )


class _Scored(NamedTuple):
    samples: Sequence[EvalSample]
    prediction_BHW: Tensor  # on the model's device
    matrices_BKK: Tensor
    predicted_Bhw: Tensor  # the grid of `trust.counts`, uint8
    level_Bhw: Tensor
    is_nan_B: Tensor


class _OnItsWay(NamedTuple):
    """A batch that a GPU has been told to segment and count."""

    samples: Sequence[EvalSample]
    counts: PairCounts
    grid: tuple[Tensor, Tensor, Tensor]  # predicted_Bhw, level_Bhw and is_nan_B
    is_counted: torch.cuda.Event | None  # None on a CPU, where calls return when all is done

    def scored(self) -> _Scored:
        if self.is_counted is not None:
            self.is_counted.synchronize()
        return _Scored(self.samples, self.counts.prediction_BHW, self.counts.matrices(), *self.grid)


def _scored(
    model: nn.Module,
    batches: Iterable[Sequence[EvalSample]],
    device: torch.device,
    precision: str,
    inference: InferenceConfig,
    num_classes: int,
) -> Iterator[_Scored]:
    """Segments batch after batch, and ends early if the program is asked to stop.

    The counts of a batch are looked at when the GPU has got the next batch, so that it never waits for this process.
    """
    on_their_way: deque[_OnItsWay] = deque()
    for samples in batches:
        if stopping.is_requested():
            return
        images_B3HW = to_device([sample.image_3HW for sample in samples], device)
        labels_BHW = to_device([sample.label_HW for sample in samples], device)
        sure = predict_with_confidence(model, images_B3HW, precision, inference)
        counts = count_pairs(sure.ids_BHW, labels_BHW, num_classes).to_cpu()
        grid = _grid_on_cpu(sure)
        is_counted = None if device.type == "cpu" else torch.cuda.Event()
        if is_counted is not None:
            is_counted.record()
        on_their_way.append(_OnItsWay(samples, counts, grid, is_counted))
        if len(on_their_way) > num_ahead(device):
            yield on_their_way.popleft().scored()
    while on_their_way:
        yield on_their_way.popleft().scored()


def _grid_on_cpu(sure: Sure) -> tuple[Tensor, Tensor, Tensor]:
    """Every STRIDEth row and column of the prediction, and its confidence; a GPU copies them when it comes to it."""
    predicted_Bhw = sure.ids_BHW[:, ::STRIDE, ::STRIDE].to(torch.uint8)
    predicted, level, is_nan = (
        each.to("cpu", non_blocking=True) for each in (predicted_Bhw, sure.level_Bhw, sure.is_nan_B)
    )
    return predicted, level, is_nan


def num_ahead(device: torch.device) -> int:
    """How many further batches the device is given before the counts of one are looked at."""
    return 0 if device.type == "cpu" else 1


def to_device(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Tensors of one size stacked there. From pinned memory, so that a GPU copies them while this process goes on."""
    stacked = torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]
    return stacked if device.type == "cpu" else stacked.pin_memory().to(device, non_blocking=True)


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
