"""Measures `evaluation.Criteria` on images of target conditions, whose labels are not used."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from distseg import evaluation
from distseg.config import MAX_MEGAPIXELS
from distseg.data.loading import DatasetPart, EvalSample, spread_samples
from distseg.evaluation import Criteria, World


def measure_criteria(
    model: nn.Module,
    other: nn.Module | None,
    part: DatasetPart,
    num_images: int,
    world: World,
    *,
    labelled_K: Sequence[int] | None,
    precision: str,
    num_threads: int = 2,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> dict[str, float]:
    """The figures of up to so many images, evenly spread over the part's shards, shared out over the ranks.

    `other`: the network that `model` has to agree with, or that it is the average of. Leaves both in the mode they were
    in. Each rank must call it.
    """
    criteria = Criteria(part.manifest.label_space.num_classes, world.device)
    networks = [network for network in (model, other) if network is not None]
    modes = [[module.training for module in network.modules()] for network in networks]
    samples = spread_samples(
        part.manifest, part.shards, num_images, num_threads=num_threads, max_megapixels=max_megapixels
    )
    try:
        for network in networks:
            network.eval()
        for images_B3HW in _batches(itertools.islice(samples, world.rank, None, world.size), world.device):
            p_BKhw = evaluation.grid_probabilities(model, images_B3HW, precision)
            theirs_Bhw = None
            if other is not None:
                theirs_Bhw = evaluation.grid_probabilities(other, images_B3HW, precision).argmax(1)
            criteria.add(p_BKhw, theirs_Bhw)
    finally:
        for network, was in zip(networks, modes, strict=True):
            for module, was_training in zip(network.modules(), was, strict=True):
                module.training = was_training
    criteria.has_other = other is not None  # a rank may have had no image
    return criteria.values(world, labelled_K)


def _batches(samples: Iterable[EvalSample], device: torch.device) -> Iterator[Tensor]:
    """Consecutive images of one size, as many as are segmented at once."""
    for shape, same in itertools.groupby((sample.image_3HW for sample in samples), key=lambda image: image.shape):
        at_once = max(1, evaluation.max_batch_pixels(device) // (shape[1] * shape[2]))
        while images := list(itertools.islice(same, at_once)):
            yield torch.stack(images).to(device)
