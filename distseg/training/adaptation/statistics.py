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
def recalibrate_(
    model: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object], keep: float = 0.0
) -> int:
    """Gives batch norm in `model` the statistics of all images of the batches together; returns how many images.

    `forward` runs the network, or one that contains it, on a batch; dropout must be off. In each layer, the means and
    variances of batches are those of what reaches it; they are combined by images, the variance between batches
    included. `keep`, from 0 to 1, is the share of the training's statistics that stays in them, both while the batches
    pass and afterwards: N / (N + n) of Schneider et al. 2020, for n images. Raises ConfigError if the model
    has no batch norm, or if there are too few images; then all is as it was.
    """
    layers = batch_norms(model)
    if not layers:
        raise ConfigError("this network has no batch norm, so there are no statistics to adapt")
    adapted = [_Adapted(layer, keep) for layer in layers]
    try:
        num_images = 0
        for batch in batches:
            forward(batch)
            num_images += len(batch)
        if not num_images:
            raise ConfigError("batch norm's statistics need images: there are none")
    except BaseException:
        for each in adapted:
            each.undo()
        raise
    finally:
        for each in adapted:
            each.close()
    for each in adapted:
        each.finish()
    return num_images


class _Adapted:
    """A layer that normalises by the batch, mixed with its own statistics, and adds up those of all batches."""

    def __init__(self, layer: _BatchNorm, keep: float) -> None:
        mean_C, var_C = layer.running_mean, layer.running_var
        assert mean_C is not None and var_C is not None
        self._layer, self._keep, self._was_training = layer, keep, layer.training
        self._running = mean_C, var_C
        self._own = mean_C.clone(), var_C.clone()
        self._sums = torch.zeros(2, len(mean_C), dtype=torch.float64, device=mean_C.device)
        self._num_images = 0
        self._hook = layer.register_forward_pre_hook(self._take)
        layer.eval()

    def _take(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
        num_values = x.numel() // x.shape[1]
        if num_values < 2:  # PSPNet's pooling to 1x1 leaves one value of a single image
            raise ConfigError("batch norm's statistics need more than one image of a size")
        var_C, mean_C = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        self._set(mean_C, var_C)
        unbiased_C = var_C.double() * num_values / (num_values - 1)
        self._sums += len(x) * torch.stack([mean_C.double(), unbiased_C + mean_C.double() ** 2])
        self._num_images += len(x)

    def _set(self, mean_C: Tensor, var_C: Tensor) -> None:
        for running_C, own_C, new_C in zip(self._running, self._own, (mean_C, var_C), strict=True):
            running_C.copy_(self._keep * own_C + (1 - self._keep) * new_C.to(own_C))

    def finish(self) -> None:
        """Takes over the statistics of all batches together; a layer that none has passed stays as it was."""
        if self._num_images:
            mean_C, square_C = self._sums / self._num_images
            self._set(mean_C, square_C - mean_C**2)

    def undo(self) -> None:
        for running_C, own_C in zip(self._running, self._own, strict=True):
            running_C.copy_(own_C)

    def close(self) -> None:
        self._hook.remove()
        self._layer.train(self._was_training)


def use_batch_statistics_(model: nn.Module) -> None:
    """From now on batch norm normalises by the batch, of all ranks together, and leaves its own statistics alone."""
    for layer in batch_norms(model):
        layer.train()
        layer.momentum = 0.0


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Those that keep statistics."""
    return [layer for layer in model.modules() if isinstance(layer, _KINDS) and layer.track_running_stats]


def recalibrate_on_(
    model: SegmentationModel, images: ImagesBySize, *, device: torch.device, precision: str, keep: float = 0.0
) -> int:
    """`recalibrate_` on all images together. Returns their number."""
    own = model.model if isinstance(model, TowardsSource) else model  # its style network keeps its statistics
    batches = (
        batch.to(device)
        for same in images.values()
        for batch in batches_of_one_size(same, max(2, evaluation.max_batch_pixels(device) // same[0][0].numel()))
    )
    return recalibrate_(own, batches, lambda batch: evaluation.predict(model, batch, precision), keep)


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
