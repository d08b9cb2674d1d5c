"""Batch norm's statistics of another condition: its mean and variance in each layer, instead of the training's.

The weights stay. What has changed between conditions is to a good part the light, and that is mean and variance of the
layers (Li et al. 2017, AdaBN; Schneider et al. 2020; Nado et al. 2020).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from distseg import evaluation
from distseg.config import MAX_MEGAPIXELS
from distseg.data.loading import spread_samples
from distseg.data.shards import Manifest, Shard
from distseg.errors import ConfigError
from distseg.models import SegmentationModel
from distseg.training.restyling import TowardsSource

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
ImagesBySize = dict[tuple[int, ...], list[Tensor]]  # shape -> images_3HW of it, uint8


@torch.no_grad()
def recalibrate_(model: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object]) -> int:
    """Gives batch norm in `model` the statistics of all images of the batches together; returns how many images.

    `forward` runs the network, or one that contains it, on a batch; dropout must be off. In each layer, the means and
    variances of batches are those with which they were normalised; they are combined by images, the variance between
    batches included. Raises ConfigError if the model has no batch norm, or if there are too few images.
    """
    layers = batch_norms(model)
    if not layers:
        raise ConfigError("this network has no batch norm, so there are no statistics to adapt")
    before = [(layer.training, layer.momentum) for layer in layers]
    sums: list[tuple[Tensor, Tensor]] = []
    num_images = 0
    try:
        for layer in layers:
            layer.train()
            layer.momentum = 1.0  # the running statistics are then the batch's
        for batch in batches:
            forward(batch)
            num_images += len(batch)
            sums = _added(sums, layers, len(batch))
    except ValueError as error:  # PSPNet's pooling to 1x1 leaves one value of a single image
        raise ConfigError(f"batch norm's statistics need more than one image of a size: {error}") from None
    finally:
        for layer, (was_training, momentum) in zip(layers, before, strict=True):
            layer.train(was_training)
            layer.momentum = momentum
    if not num_images:
        raise ConfigError("batch norm's statistics need images: there are none")
    for layer, (mean_C, square_C) in zip(layers, sums, strict=True):
        mean_C, square_C = mean_C / num_images, square_C / num_images
        assert layer.running_mean is not None and layer.running_var is not None
        layer.running_mean.copy_(mean_C)
        layer.running_var.copy_(square_C - mean_C**2)
    return num_images


def use_batch_statistics_(model: nn.Module) -> None:
    """From now on batch norm normalises by the batch, of all ranks together, and leaves its own statistics alone."""
    for layer in batch_norms(model):
        layer.train()
        layer.momentum = 0.0


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Those that keep statistics."""
    return [layer for layer in model.modules() if isinstance(layer, _KINDS) and layer.track_running_stats]


def recalibrate_on_(model: SegmentationModel, images: ImagesBySize, *, device: torch.device, precision: str) -> int:
    """`recalibrate_` on all images together. Returns their number."""
    own = model.model if isinstance(model, TowardsSource) else model  # its style network keeps its statistics
    batches = (
        batch.to(device)
        for same in images.values()
        for batch in batches_of_one_size(same, max(2, evaluation.max_batch_pixels(device) // same[0][0].numel()))
    )
    return recalibrate_(own, batches, lambda batch: evaluation.predict(model, batch, precision))


def spread_by_size(
    manifest: Manifest,
    shards: Sequence[Shard],
    num_images: int,
    *,
    num_threads: int = 2,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> ImagesBySize:
    """Up to so many images of the shards, evenly spread, those of one size together; their labels are not used.

    Every rank takes the same images, so that what a network learns of them is the same on any number of ranks.
    """
    samples = spread_samples(manifest, shards, num_images, num_threads=num_threads, max_megapixels=max_megapixels)
    of_size: ImagesBySize = {}
    for sample in samples:
        of_size.setdefault(tuple(sample.image_3HW.shape), []).append(sample.image_3HW)
    return of_size


def batches_of_one_size(images: list[Tensor], at_most: int) -> Iterator[Tensor]:
    """All of about the same size: the statistics of a single image say less, and PSPNet has none for it."""
    num_batches = -(-len(images) // at_most)
    for start, end in itertools.pairwise(i * len(images) // num_batches for i in range(num_batches + 1)):
        yield torch.stack(images[start:end])


def _added(
    sums: Sequence[tuple[Tensor, Tensor]], layers: Sequence[_BatchNorm], num_images: int
) -> list[tuple[Tensor, Tensor]]:
    """Sums over images of the mean, and of the variance plus the squared mean, in float64."""
    added = []
    for i, layer in enumerate(layers):
        assert layer.running_mean is not None and layer.running_var is not None
        mean_C, var_C = layer.running_mean.double(), layer.running_var.double()
        new = mean_C * num_images, (var_C + mean_C**2) * num_images
        added.append((sums[i][0] + new[0], sums[i][1] + new[1]) if sums else new)
    return added
