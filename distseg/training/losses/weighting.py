"""Class weights from the numbers of pixels."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

WeightKind = Literal["inverse_sqrt", "median_frequency", "enet"]


def class_weights(class_pixels: Sequence[int], kind: WeightKind) -> Tensor:
    """float32 weights of the K classes from their numbers of pixels; p is a class's share of all valid pixels.

    - `inverse_sqrt`: 1 / sqrt(p).
    - `median_frequency`: median(p) / p (Eigen & Fergus 2015, section 6.3.2). They take p among the pixels of the images
      that show the class; pixel counts do not tell those, so it is taken among all.
    - `enet`: 1 / ln(1.02 + p) (Paszke et al. 2016, section 5.2).

    The first two give absent classes the weight 0 and are scaled so that the average pixel weighs 1; the scale cancels
    in the loss and only makes weights readable. ENet's are left as published: absent classes have 1 / ln(1.02) = 50.5.
    """
    pixels_K = torch.tensor(list(class_pixels), dtype=torch.float64)
    if pixels_K.numel() == 0 or pixels_K.min() < 0 or pixels_K.sum() == 0:
        raise ValueError(
            f"class weights need the pixel counts of the classes, at least one of them positive: {class_pixels}"
        )
    share_K = pixels_K / pixels_K.sum()
    if kind == "enet":
        return (1 / torch.log(1.02 + share_K)).float()
    power = {"inverse_sqrt": 0.5, "median_frequency": 1.0}[kind]
    present_K = share_K > 0
    weights_K = torch.where(present_K, share_K.where(present_K, 1.0) ** -power, 0.0)
    return (weights_K / (share_K @ weights_K)).float()
