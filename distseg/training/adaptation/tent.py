"""Entropy minimisation at test time: Tent (Wang et al. 2021).

Batch norm normalises by the statistics of target images, and its scales and shifts learn to make the network surer of
them: the mean entropy of its predictions falls. No label is used. All other weights stay.

Wang et al. predict each batch before they learn from it, so that a prediction depends on what came before. Here the
network first learns from some images of the condition and then stays as it is, so that an evaluation is the same in any
order and on any number of ranks. The risk is theirs: nothing says that a surer network is a better one. With too many
steps or too large a rate it predicts few classes everywhere, rare ones first.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from distseg import evaluation
from distseg.errors import ConfigError
from distseg.models import SegmentationModel
from distseg.training.adaptation.statistics import (
    ImagesBySize,
    batch_norms,
    batches_of_one_size,
    recalibrate_on_,
    use_batch_statistics_,
)
from distseg.training.restyling import TowardsSource

BATCH_SIZE = 4
LEARNING_RATE = 1e-3  # Adam; as Wang et al. have it for the smaller of their images


def tent_on_(
    model: SegmentationModel,
    images: ImagesBySize,
    *,
    device: torch.device,
    precision: str,
    learning_rate: float = LEARNING_RATE,
) -> int:
    """One pass over the images, then `recalibrate_on_` them. Returns their number.

    Raises ConfigError if the network has no batch norm, or if there are too few images.
    """
    if isinstance(model, TowardsSource):
        raise ConfigError("style.direction = to_source evaluates with a second network; adapt by batchnorm")
    batches = (batch.to(device) for same in images.values() for batch in batches_of_one_size(same, BATCH_SIZE))
    minimise_entropy_(model, batches, precision, learning_rate)
    return recalibrate_on_(model, images, device=device, precision=precision)


def minimise_entropy_(model: nn.Module, batches: Iterator[Tensor], precision: str, learning_rate: float) -> list[float]:
    """One step of Adam for each batch of uint8 images, in place. Returns the mean entropy before each, in nats."""
    norms = batch_norms(model)
    if not norms:
        raise ConfigError("this network has no batch norm, so there is nothing to adapt")
    learnt = [parameter for norm in norms for parameter in (norm.weight, norm.bias) if parameter is not None]
    if not learnt:
        raise ConfigError("this network's batch norm has no scale and shift, which are what would be adapted")
    modes = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    momenta = [norm.momentum for norm in norms]
    for parameter, _ in modes:
        parameter.requires_grad_(False)
    for parameter in learnt:
        parameter.requires_grad_(True)
    model.eval()
    use_batch_statistics_(model)
    optimizer = torch.optim.Adam(learnt, lr=learning_rate)
    forward = "fp32" if precision == "fp16" else precision  # whose small gradients would be 0
    entropies = []
    try:
        for images_B3HW in batches:
            with torch.enable_grad(), evaluation.autocast(forward, images_B3HW.device):
                logits_BKhw = model(evaluation.normalize(images_B3HW, precision)).main_BKhw
            loss = mean_entropy(logits_BKhw)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            entropies.append(loss.item())
    except ValueError as error:  # PSPNet's pooling to 1x1 leaves one value of a single image
        raise ConfigError(f"batch norm's statistics need more than one image of a size: {error}") from None
    finally:
        model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for parameter, was in modes:
            parameter.requires_grad_(was)
    return entropies


def mean_entropy(logits_BKhw: Tensor) -> Tensor:
    """In nats, over all cells (Wang et al. 2021, equation 1)."""
    log_p_BKhw = logits_BKhw.to(torch.promote_types(logits_BKhw.dtype, torch.float32)).log_softmax(1)
    return -(log_p_BKhw.exp() * log_p_BKhw).sum(1).mean()
