"""The Lovász-softmax loss (Berman et al. 2018), by image."""

import torch
from torch import Tensor

from distseg.label_maps import IGNORE_INDEX
from distseg.training.losses.batch import LossBatch, SumOverRanks, alone, at_least_one, one_hot


def loss(batch: LossBatch) -> Tensor:
    return lovasz_softmax(batch.log_p_BKHW, batch.labels_BHW, batch.over_ranks) / batch.num_micro_batches


def lovasz_softmax(log_p_BKHW: Tensor, labels_BHW: Tensor, over_ranks: SumOverRanks = alone) -> Tensor:
    """This rank's share of the Lovász extension of the mean Jaccard loss (Berman et al. 2018, section 3.1).

    Per image, over the classes present in it, and the mean over the images of the global batch that have valid pixels.
    """
    probability_BKN = log_p_BKHW.exp().flatten(2)
    truth_BKN = one_hot(labels_BHW, log_p_BKHW).flatten(2)
    valid_B1N = (labels_BHW != IGNORE_INDEX).flatten(1)[:, None]
    # Void pixels get the error 0 and no truth: sorted to the end, they change neither intersection nor union.
    error_BKN = (truth_BKN - probability_BKN).abs() * valid_B1N
    sorted_BKN, order_BKN = error_BKN.sort(2, descending=True)
    slope_BKN = _jaccard_slope(truth_BKN.gather(2, order_BKN))
    loss_BK = (sorted_BKN * slope_BKN).sum(2)
    present_BK = truth_BKN.sum(2) > 0
    loss_B = (loss_BK * present_BK).sum(1) / at_least_one(present_BK.sum(1))
    num_images = over_ranks(present_BK.any(1).sum().to(loss_B.dtype))
    return loss_B.sum() / at_least_one(num_images)


def _jaccard_slope(truth_BKN: Tensor) -> Tensor:
    """The increments of the Jaccard loss as pixels are got wrong one after the other (Berman et al., algorithm 1)."""
    total_BK1 = truth_BKN.sum(2, keepdim=True)
    intersection_BKN = total_BK1 - truth_BKN.cumsum(2)
    union_BKN = total_BK1 + (1 - truth_BKN).cumsum(2)
    jaccard_BKN = 1 - intersection_BKN / union_BKN
    return torch.cat([jaccard_BKN[..., :1], jaccard_BKN[..., 1:] - jaccard_BKN[..., :-1]], dim=2)
