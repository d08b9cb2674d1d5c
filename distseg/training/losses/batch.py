"""What a loss is computed from, and the sums that every loss needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.label_maps import IGNORE_INDEX

SumOverRanks = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks, in place, and returns it. No gradient flows through. Every rank must call it equally
often, whatever its samples hold."""


def alone(tensor: Tensor) -> Tensor:
    """The sum over one rank."""
    return tensor


@dataclass(frozen=True, kw_only=True)
class LossBatch:
    """This rank's share of one micro-batch.

    A loss returns a scalar with a gradient. The scalars of all ranks and all micro-batches add up to the loss of the
    global batch, and so do their gradients. There are two ways to write such a loss:

    - A mean over pixels: `mean_over_pixels`, which weights pixels by class as the cross entropy does.
    - Anything else, such as a ratio of sums: this rank's part of the value of this micro-batch over all ranks, divided
      by `num_micro_batches`. `over_ranks` adds numbers up over the ranks.
    """

    log_p_BKHW: Tensor  # float32 or float64, with the gradient; exp() gives the probabilities
    labels_BHW: Tensor  # train ids, 255 is void
    normaliser: Tensor | float  # the valid pixels, weighted by class, of all ranks and all micro-batches; may be 0
    class_weights_K: Tensor | None = None  # of loss.class_weights; None: all classes count alike
    over_ranks: SumOverRanks = alone
    num_micro_batches: int = 1

    def mean_over_pixels(self, values_BHW: Tensor) -> Tensor:
        """This rank's part of the mean over the global batch's valid pixels, weighted by class; 0 if all are void."""
        valid_BHW = self.labels_BHW != IGNORE_INDEX
        weight_BHW = valid_BHW.to(values_BHW.dtype)
        if self.class_weights_K is not None:
            weights_K = self.class_weights_K.to(values_BHW)
            weight_BHW = weight_BHW * weights_K[torch.where(valid_BHW, self.labels_BHW, 0).long()]
        total = torch.where(valid_BHW, values_BHW, 0).mul(weight_BHW).sum()
        return total / at_least_one(torch.as_tensor(self.normaliser, dtype=total.dtype, device=total.device))


def log_probabilities(logits_BKhw: Tensor, labels_BHW: Tensor) -> Tensor:
    """The logarithms of the probabilities, in float32 (float64), at the size of the labels: (B, K, H, W).

    All losses share it: on CPUs softmax and its gradient take longer than the rest of a loss.
    """
    with torch.autocast(logits_BKhw.device.type, enabled=False):
        logits_BKhw = logits_BKhw.to(torch.promote_types(logits_BKhw.dtype, torch.float32))
        return _upsample(logits_BKhw, (labels_BHW.shape[1], labels_BHW.shape[2])).log_softmax(1)


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
    """The sum of the class weights over the valid pixels, a float64 scalar: without weights, how many they are."""
    if class_weights_K is None:
        return (labels_BHW != ignore_index).sum(dtype=torch.float64)
    if labels_BHW.device.type != "cpu":  # where bincount, the faster way, would let the device wait for the host
        return looked_up(labels_BHW, class_weights_K, ignore_index).sum()
    count_N = torch.bincount(labels_BHW.flatten(), minlength=ignore_index + 1)
    count_N[ignore_index] = 0
    count_K = count_N[: len(class_weights_K)]
    return count_K.double() @ class_weights_K.to(count_K.device, torch.float64)


def looked_up(labels_BHW: Tensor, weights_K: Tensor, ignore_index: int) -> Tensor:
    """The class weight of each pixel, in float64; 0 where it is void."""
    weights_N = F.pad(weights_K.to(labels_BHW.device, torch.float64), (0, ignore_index + 1 - len(weights_K)))
    return weights_N[labels_BHW.int()]


def at_least_one(count: Tensor) -> Tensor:
    """1 in the place of 0, to divide by: a sum over nothing is 0 and stays 0."""
    return torch.where(count > 0, count, torch.ones_like(count))


def one_hot(labels_BHW: Tensor, like_BKHW: Tensor) -> Tensor:
    """(B, K, H, W): 1 at each pixel's class; 0 for all classes where the label is void."""
    valid_B1HW = (labels_BHW != IGNORE_INDEX)[:, None]
    class_B1HW = torch.where(valid_B1HW, labels_BHW[:, None], 0).long()
    return torch.zeros_like(like_BKHW).scatter_(1, class_B1HW, valid_B1HW.to(like_BKHW.dtype))
