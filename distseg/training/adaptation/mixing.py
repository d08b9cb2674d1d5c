"""What a network learns from in self-training: labelled objects pasted into target images, and masked target images.

Each choice is a function of the seed and of the image's position in the training stream, as the data plane's are, so
it is the same on any number of ranks and after resuming. Choices are drawn on the host, without looking at the images;
what depends on the labels (which classes are there) is worked out on the device, for which a GPU need not wait.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.data import IGNORE_INDEX

_CLASSES, _MASK, _JITTER = 104_729, 104_743, 104_759  # beside the seed: which of its streams of random numbers
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class PseudoLabels(NamedTuple):
    labels_BHW: Tensor  # the teacher's classes, uint8
    quality_B: Tensor  # the share of each image's pixels of which the teacher is sure


def pseudo_labels(logits_BKHW: Tensor, threshold: float) -> PseudoLabels:
    """Quality as in DACS and DAFormer (Hoyer et al. 2022, equation 4), image by image."""
    probability_BHW, labels_BHW = logits_BKHW.softmax(1).max(1)
    return PseudoLabels(labels_BHW.to(torch.uint8), (probability_BHW > threshold).to(logits_BKHW.dtype).mean((1, 2)))


def class_scores(seed: int, positions: Sequence[int]) -> Tensor:
    """(B, 255): for each image a random order of the classes, more than there can be."""
    drawn = [np.random.default_rng([seed, _CLASSES, p]).random(IGNORE_INDEX) for p in positions]
    return torch.from_numpy(np.stack(drawn))


def pasted_pixels(labels_BHW: Tensor, scores_BK: Tensor) -> Tensor:
    """(B, H, W) bool: the pixels of half of the classes of each image, rounded up: those of the lowest scores.

    Void pixels belong to no class and are never among them.
    """
    labels_BN = labels_BHW.flatten(1).long()
    count_BV = labels_BN.new_zeros(len(labels_BN), IGNORE_INDEX + 1).scatter_add_(
        1, labels_BN, labels_BN.new_ones(()).expand_as(labels_BN)
    )
    present_BK = count_BV[:, : scores_BK.shape[1]] > 0
    num_chosen_B1 = (present_BK.sum(1, keepdim=True) + 1) // 2
    rank_BK = scores_BK.masked_fill(~present_BK, 2.0).argsort(1).argsort(1)  # scores are below 1
    is_chosen_BK = present_BK & (rank_BK < num_chosen_B1)
    is_chosen_BV = F.pad(is_chosen_BK, (0, IGNORE_INDEX + 1 - is_chosen_BK.shape[1]))
    return is_chosen_BV.gather(1, labels_BN).view_as(labels_BHW)


def visible_pixels(seed: int, positions: Sequence[int], size: tuple[int, int], share: float, side: int) -> Tensor:
    """(B, 1, H, W) bool: False in `share` of the squares of an image (MIC, equation 5: each square for itself)."""
    rows, columns = (-(-length // side) for length in size)
    drawn = [np.random.default_rng([seed, _MASK, p]).random((1, rows, columns)) >= share for p in positions]
    squares_B1hw = torch.from_numpy(np.stack(drawn))
    whole_B1HW = squares_B1hw.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return whole_B1HW[:, :, : size[0], : size[1]]


def jitter_factors(seed: int, positions: Sequence[int], strength: float) -> Tensor:
    """(B, 3): factors of brightness, contrast and saturation, each in [1 - strength, 1 + strength]."""
    drawn = [np.random.default_rng([seed, _JITTER, p]).uniform(1 - strength, 1 + strength, 3) for p in positions]
    return torch.from_numpy(np.stack(drawn))


def jittered(images_B3HW: Tensor, factors_B3: Tensor) -> Tensor:
    """Colours from 0 to 255, floating: brightness, contrast about the mean grey, saturation about each pixel's grey."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors_B3.to(images_B3HW).unbind(1))
    images_B3HW = images_B3HW * brightness
    mean_B111 = _grey(images_B3HW).mean((2, 3), keepdim=True)
    images_B3HW = mean_B111 + (images_B3HW - mean_B111) * contrast
    grey_B1HW = _grey(images_B3HW)
    return (grey_B1HW + (images_B3HW - grey_B1HW) * saturation).clamp(0, 255)


def _grey(images_B3HW: Tensor) -> Tensor:
    red, green, blue = images_B3HW.unbind(1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2])[:, None]


def at_size(logits_BKhw: Tensor, size: tuple[int, int]) -> Tensor:
    if logits_BKhw.shape[2:] == size:
        return logits_BKhw
    return F.interpolate(logits_BKhw, size=size, mode="bilinear", align_corners=False)
