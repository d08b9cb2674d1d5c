"""Losses over the valid pixels of the *global* batch, and class weights from pixel counts.

Cross entropy with the auxiliary head's, of all pixels or the hard ones; Dice and Lovász-softmax beside it; the KL term
between two segmentations.

labels_BHW: train ids, uint8 or int64, 255 = void (never counted, never rewritten). logits_BKhw: any floating type and
any resolution; they are resized to the labels' (bilinear, align_corners=False) and the loss is computed in float32
(float64 for float64 logits). With class weights w the mean is weighted: sum of w·ce over sum of w. log_p_BKHW are the
log-softmax of logits at the labels' size.

The mean of a global batch is not the mean of its ranks' means, for their numbers of valid pixels differ. So each rank
divides its *sum* by the global normaliser (`valid_weight`, summed over ranks and accumulated micro-batches): the
losses, and the gradients, of all ranks then add up to the global batch's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.label_maps import IGNORE_INDEX
from distseg.models import Logits

WeightKind = Literal["inverse_sqrt", "median_frequency", "enet"]


class LossParts(NamedTuple):
    """Scalars; `total` = main + aux_weight · aux is what is differentiated. aux is 0 without an auxiliary head."""

    total: Tensor
    main: Tensor
    aux: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised. With the defaults, cross entropy and 0.4 times the auxiliary head's."""

    aux_weight: float = 0.4
    class_weights_K: Tensor | None = None
    ohem_threshold: float | None = None  # None: all valid pixels; else the hard ones only
    ohem_min_kept: float = 1 / 16  # of an image's valid pixels
    dice_weight: float = 0.0
    lovasz_weight: float = 0.0


SumOverRanks = Callable[[Tensor], Tensor]  # in place and returned, without a gradient


def alone(tensor: Tensor) -> Tensor:
    """The sum over one rank."""
    return tensor


def segmentation_loss(
    logits: Logits,
    labels_BHW: Tensor,
    objective: Objective,
    *,
    normaliser: Tensor | float,
    over_ranks: SumOverRanks = alone,
    num_micro_batches: int = 1,
) -> LossParts:
    """This rank's part of the global loss: α·aux beside the main loss (Zhao et al. 2017, section 3.2).

    `normaliser`: the `valid_weight` of the global batch, of all its micro-batches. 0 (no valid pixel) gives losses and
    gradients of 0. What is not a sum over pixels (OHEM, Dice, Lovász) is the mean over the `num_micro_batches`.
    The parts of all ranks add up to the global loss, and their gradients to its gradient.
    """
    log_p_BKHW = _log_p(logits.main_BKhw, labels_BHW)
    main = _pixel_loss(log_p_BKHW, labels_BHW, objective, normaliser, over_ranks, num_micro_batches)
    if objective.dice_weight:
        main = main + objective.dice_weight / num_micro_batches * dice_loss(log_p_BKHW, labels_BHW, over_ranks)
    if objective.lovasz_weight:
        main = main + objective.lovasz_weight / num_micro_batches * lovasz_softmax(log_p_BKHW, labels_BHW, over_ranks)
    if logits.aux_BKhw is None:
        return LossParts(main, main.detach(), torch.zeros_like(main))
    aux_log_p_BKHW = _log_p(logits.aux_BKhw, labels_BHW)
    aux = _pixel_loss(aux_log_p_BKHW, labels_BHW, objective, normaliser, over_ranks, num_micro_batches)
    return LossParts(main + objective.aux_weight * aux, main.detach(), aux.detach())


def _log_p(logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
    """The logarithms of the probabilities, in float32 (float64), at the size of the labels.

    What all losses are made of: on CPUs softmax and its gradient take longer than the rest of a loss.
    """
    with torch.autocast(logits_BKhw.device.type, enabled=False):
        logits_BKhw = logits_BKhw.to(torch.promote_types(logits_BKhw.dtype, torch.float32))
        return _upsample(logits_BKhw, (labels_BHW.shape[1], labels_BHW.shape[2])).log_softmax(1)


def _pixel_loss(
    log_p_BKHW: Tensor,
    labels_BHW: Tensor,
    objective: Objective,
    normaliser: Tensor | float,
    over_ranks: SumOverRanks,
    num_micro_batches: int,
) -> Tensor:
    if objective.ohem_threshold is not None:
        labels_BHW = hard_pixels(log_p_BKHW, labels_BHW, objective.ohem_threshold, objective.ohem_min_kept)
        normaliser = over_ranks(valid_weight(labels_BHW, objective.class_weights_K)) * num_micro_batches
    loss_sum = _nll_sum(log_p_BKHW, labels_BHW, objective.class_weights_K)
    return loss_sum / _at_least_one(torch.as_tensor(normaliser, dtype=loss_sum.dtype, device=loss_sum.device))


def _at_least_one(count: Tensor) -> Tensor:
    """A sum over nothing is 0, and stays 0 whatever it is divided by."""
    return torch.where(count > 0, count, torch.ones_like(count))


@torch.no_grad()
def hard_pixels(log_p_BKHW: Tensor, labels_BHW: Tensor, threshold: float, min_kept: float) -> Tensor:
    """The labels with all but the hard pixels void: online hard example mining (Shrivastava et al. 2016) by pixels.

    Hard are those whose true class has a probability below `threshold`; of an image at least the share `min_kept` of
    its valid pixels is kept, the hardest. By image, not by batch, so that any number of ranks makes the same choice.
    """
    valid_BHW = labels_BHW != IGNORE_INDEX
    truth_B1HW = torch.where(valid_BHW, labels_BHW, 0).long()[:, None]
    probability_BN = log_p_BKHW.gather(1, truth_B1HW).exp().flatten(1).masked_fill(~valid_BHW.flatten(1), 2.0)
    num_kept_B = (valid_BHW.flatten(1).sum(1) * min_kept).ceil().long()
    least_kept_B1 = probability_BN.sort(1).values.gather(1, (num_kept_B - 1).clamp(min=0)[:, None])
    hard_BN = probability_BN <= least_kept_B1.clamp(min=threshold)
    return torch.where(hard_BN.view_as(valid_BHW) & valid_BHW, labels_BHW, IGNORE_INDEX)


def dice_loss(log_p_BKHW: Tensor, labels_BHW: Tensor, over_ranks: SumOverRanks = alone) -> Tensor:
    """This rank's share of 1 - mean over classes of 2 Σ p·y / (Σ p + Σ y), sums over the valid pixels of the batch.

    Milletari et al. 2016, equation 4, without its squares, on the global batch; classes without truth are left out.
    """
    valid_B1HW = (labels_BHW != IGNORE_INDEX)[:, None]
    truth_BKHW = _one_hot(labels_BHW, log_p_BKHW)
    probability_BKHW = log_p_BKHW.exp() * valid_B1HW
    own_3K = torch.stack([x.sum((0, 2, 3)) for x in (probability_BKHW * truth_BKHW, probability_BKHW, truth_BKHW)])
    others_3K = over_ranks(own_3K.detach().clone()) - own_3K.detach()
    both_K, probability_K, truth_K = own_3K + others_3K
    present_K = truth_K > 0
    dice_K = 2 * both_K / (probability_K + truth_K).clamp(min=1e-12)
    loss: Tensor = ((1 - dice_K) * present_K).sum() / _at_least_one(present_K.sum())
    # Every rank has the whole value but only its own part of the gradient: the value must count once.
    return loss - loss.detach() * (1 - _share(loss, over_ranks))


def _share(like: Tensor, over_ranks: SumOverRanks) -> Tensor:
    """1 / number of ranks."""
    return 1 / over_ranks(torch.ones((), dtype=like.dtype, device=like.device))


def lovasz_softmax(log_p_BKHW: Tensor, labels_BHW: Tensor, over_ranks: SumOverRanks = alone) -> Tensor:
    """This rank's share of the Lovász extension of the mean Jaccard loss (Berman et al. 2018, section 3.1).

    Per image, over the classes present in it, and the mean over the images of the global batch that have valid pixels.
    """
    probability_BKN = log_p_BKHW.exp().flatten(2)
    truth_BKN = _one_hot(labels_BHW, log_p_BKHW).flatten(2)
    valid_B1N = (labels_BHW != IGNORE_INDEX).flatten(1)[:, None]
    # Void pixels get the error 0 and no truth: sorted to the end, they change neither intersection nor union.
    error_BKN = (truth_BKN - probability_BKN).abs() * valid_B1N
    sorted_BKN, order_BKN = error_BKN.sort(2, descending=True)
    slope_BKN = _jaccard_slope(truth_BKN.gather(2, order_BKN))
    loss_BK = (sorted_BKN * slope_BKN).sum(2)
    present_BK = truth_BKN.sum(2) > 0
    loss_B = (loss_BK * present_BK).sum(1) / _at_least_one(present_BK.sum(1))
    num_images = over_ranks(present_BK.any(1).sum().to(loss_B.dtype))
    return loss_B.sum() / _at_least_one(num_images)


def _jaccard_slope(truth_BKN: Tensor) -> Tensor:
    """The increments of the Jaccard loss as pixels are got wrong one after the other (Berman et al., algorithm 1)."""
    total_BK1 = truth_BKN.sum(2, keepdim=True)
    intersection_BKN = total_BK1 - truth_BKN.cumsum(2)
    union_BKN = total_BK1 + (1 - truth_BKN).cumsum(2)
    jaccard_BKN = 1 - intersection_BKN / union_BKN
    return torch.cat([jaccard_BKN[..., :1], jaccard_BKN[..., 1:] - jaccard_BKN[..., :-1]], dim=2)


def _one_hot(labels_BHW: Tensor, like_BKHW: Tensor) -> Tensor:
    """(B, K, H, W), nothing where the label is void."""
    valid_B1HW = (labels_BHW != IGNORE_INDEX)[:, None]
    class_B1HW = torch.where(valid_B1HW, labels_BHW[:, None], 0).long()
    return torch.zeros_like(like_BKHW).scatter_(1, class_B1HW, valid_B1HW.to(like_BKHW.dtype))


def kl_consistency(logits_BKhw: Tensor, restyled_logits_BKhw: Tensor, *, num_pixels: Tensor | float) -> Tensor:
    """This rank's part of KL(p ‖ q), mean over pixels: p of the image, held fixed, q of its restyled composite.

    Song et al. 2021, part (c): the composite is to be segmented as the image. `num_pixels`: the global batch's, at the
    logits' resolution.
    """
    with torch.autocast(logits_BKhw.device.type, enabled=False):
        dtype = torch.promote_types(logits_BKhw.dtype, torch.float32)
        log_p = logits_BKhw.detach().to(dtype).log_softmax(1)
        log_q = restyled_logits_BKhw.to(dtype).log_softmax(1)
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / num_pixels


def cross_entropy_sum(
    logits_BKhw: Tensor, labels_BHW: Tensor, class_weights_K: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> tuple[Tensor, Tensor]:
    """(sum of w·ce, sum of w) over the valid pixels; both 0 if there are none."""
    loss_sum = _nll_sum(_log_p(logits_BKhw, labels_BHW), labels_BHW, class_weights_K, ignore_index)
    return loss_sum, valid_weight(labels_BHW, class_weights_K, ignore_index).to(loss_sum.dtype)


def _nll_sum(
    log_p_BKHW: Tensor, labels_BHW: Tensor, class_weights_K: Tensor | None, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    weights_K = None if class_weights_K is None else class_weights_K.to(log_p_BKHW)
    return F.nll_loss(log_p_BKHW, labels_BHW.long(), weight=weights_K, ignore_index=ignore_index, reduction="sum")


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
    count_N = torch.bincount(labels_BHW.flatten(), minlength=ignore_index + 1)
    count_N[ignore_index] = 0
    count_K = count_N[: len(class_weights_K)]
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
