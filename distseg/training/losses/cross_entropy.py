"""Cross entropy, weighted by class, of all valid pixels or of the hard ones only.

With class weights w the mean is weighted: sum of w·ce over sum of w.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.label_maps import IGNORE_INDEX
from distseg.training.losses.batch import LossBatch, at_least_one, log_probabilities, valid_weight


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """`LossBatch -> Tensor`; the options are those of LossConfig."""

    class_weights_K: Tensor | None = None
    ohem_threshold: float | None = None
    ohem_min_kept: float = 1 / 16

    def __call__(self, batch: LossBatch) -> Tensor:
        if self.ohem_threshold is not None:
            batch = self._of_hard_pixels(batch, self.ohem_threshold)
        loss_sum = _nll_sum(batch.log_p_BKHW, batch.labels_BHW, self.class_weights_K)
        normaliser = torch.as_tensor(batch.normaliser, dtype=loss_sum.dtype, device=loss_sum.device)
        return loss_sum / at_least_one(normaliser)

    def _of_hard_pixels(self, batch: LossBatch, threshold: float) -> LossBatch:
        """The mean over the hard pixels of each micro-batch, and the mean of those means."""
        labels_BHW = hard_pixels(batch.log_p_BKHW, batch.labels_BHW, threshold, self.ohem_min_kept)
        kept = batch.over_ranks(valid_weight(labels_BHW, self.class_weights_K))
        return replace(batch, labels_BHW=labels_BHW, normaliser=kept * batch.num_micro_batches)


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


def cross_entropy_sum(
    logits_BKhw: Tensor, labels_BHW: Tensor, class_weights_K: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> tuple[Tensor, Tensor]:
    """(sum of w·ce, sum of w) over the valid pixels; both 0 if there are none."""
    loss_sum = _nll_sum(log_probabilities(logits_BKhw, labels_BHW), labels_BHW, class_weights_K, ignore_index)
    return loss_sum, valid_weight(labels_BHW, class_weights_K, ignore_index).to(loss_sum.dtype)


def _nll_sum(
    log_p_BKHW: Tensor, labels_BHW: Tensor, class_weights_K: Tensor | None, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    weights_K = None if class_weights_K is None else class_weights_K.to(log_p_BKHW)
    return F.nll_loss(log_p_BKHW, labels_BHW.long(), weight=weights_K, ignore_index=ignore_index, reduction="sum")
