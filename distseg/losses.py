"""Cross entropy over the valid pixels of the *global* batch, and class weights from pixel counts.

labels_BHW: train ids, uint8 or int64, 255 = void (never counted, never rewritten). logits_BKhw: any floating type and
any resolution; they are resized to the labels' (bilinear, align_corners=False) and the loss is computed in float32
(float64 for float64 logits). With class weights w the mean is weighted: sum of w·ce over sum of w.

The mean of a global batch is not the mean of its ranks' means, for their numbers of valid pixels differ. So each rank
divides its *sum* by the global normaliser (`valid_weight`, summed over ranks and accumulated micro-batches): the
losses, and the gradients, of all ranks then add up to the global batch's.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.models.layers import Logits

IGNORE_INDEX = 255

WeightKind = Literal["inverse_sqrt", "median_frequency", "enet"]


class LossParts(NamedTuple):
    """Scalars; `total` = main + aux_weight · aux is what is differentiated. aux is 0 without an auxiliary head."""

    total: Tensor
    main: Tensor
    aux: Tensor


def segmentation_loss(
    logits: Logits,
    labels_BHW: Tensor,
    *,
    aux_weight: float,
    class_weights: Tensor | None,
    normaliser: Tensor | float,
) -> LossParts:
    """This rank's part of the global loss: α·aux beside the main loss (Zhao et al. 2017, section 3.2).

    A `normaliser` of 0 (no valid pixel in the global batch) gives losses and gradients of 0.
    """
    main = _normalised(logits.main_BKhw, labels_BHW, class_weights, normaliser)
    if logits.aux_BKhw is None:
        return LossParts(main, main.detach(), torch.zeros_like(main))
    aux = _normalised(logits.aux_BKhw, labels_BHW, class_weights, normaliser)
    return LossParts(main + aux_weight * aux, main.detach(), aux.detach())


def _normalised(
    logits_BKhw: Tensor, labels_BHW: Tensor, class_weights_K: Tensor | None, normaliser: Tensor | float
) -> Tensor:
    loss_sum, _ = cross_entropy_sum(logits_BKhw, labels_BHW, class_weights_K)
    normaliser = torch.as_tensor(normaliser, dtype=loss_sum.dtype, device=loss_sum.device)
    return loss_sum / torch.where(normaliser > 0, normaliser, torch.ones_like(normaliser))


def cross_entropy_sum(
    logits_BKhw: Tensor, labels_BHW: Tensor, class_weights_K: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> tuple[Tensor, Tensor]:
    """(sum of w·ce, sum of w) over the valid pixels; both 0 if there are none."""
    with torch.autocast(logits_BKhw.device.type, enabled=False):
        logits_BKhw = logits_BKhw.to(torch.promote_types(logits_BKhw.dtype, torch.float32))
        logits_BKHW = _upsample(logits_BKhw, (labels_BHW.shape[1], labels_BHW.shape[2]))
        weights_K = None if class_weights_K is None else class_weights_K.to(logits_BKHW)
        loss_sum = F.cross_entropy(
            logits_BKHW, labels_BHW.long(), weight=weights_K, ignore_index=ignore_index, reduction="sum"
        )
    return loss_sum, valid_weight(labels_BHW, class_weights_K, ignore_index).to(loss_sum.dtype)


def _upsample(logits_BKhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation, as two matrix products: on CPUs twice as fast as F.interpolate, forward and backward."""
    if logits_BKhw.shape[2:] == size:
        return logits_BKhw
    rows_Hh, columns_Ww = (_interpolation(n, m, logits_BKhw) for n, m in zip(logits_BKhw.shape[2:], size, strict=True))
    return rows_Hh @ (logits_BKhw.contiguous() @ columns_Ww.T)


def _interpolation(num_in: int, num_out: int, like: Tensor) -> Tensor:
    """(num_out, num_in): linear interpolation of a row of cells, align_corners=False."""
    impulses = torch.eye(num_in, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(impulses, size=num_out, mode="linear", align_corners=False)[0].T


def valid_weight(labels_BHW: Tensor, class_weights_K: Tensor | None = None, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """The sum of w over the valid pixels, a float64 scalar: without class weights, how many they are."""
    if class_weights_K is None:
        return (labels_BHW != ignore_index).sum(dtype=torch.float64)
    valid = labels_BHW[labels_BHW != ignore_index]
    count_K = torch.bincount(valid.long(), minlength=len(class_weights_K))
    return count_K.double() @ class_weights_K.to(count_K.device, torch.float64)


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
