"""Batch norm's statistics of another condition: its mean and variance in each layer, instead of the training's.

The weights stay. What has changed between conditions is to a good part the light, and that is mean and variance of the
layers (Li et al. 2017, AdaBN; Schneider et al. 2020; Nado et al. 2020).
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from distseg.errors import ConfigError

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


@torch.no_grad()
def recalibrate_(model: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object]) -> int:
    """Gives batch norm in `model` the statistics of all images of the batches together; returns how many images.

    `forward` runs the network, or one that contains it, on a batch; dropout must be off. In each layer, the means and
    variances of batches are those with which they were normalised; they are combined by images, the variance between
    batches included. Raises ConfigError if the model has no batch norm, or if there are too few images.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _KINDS) and layer.track_running_stats]
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
