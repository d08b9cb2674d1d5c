"""The Dice loss of the global micro-batch (Milletari et al. 2016, equation 4, without its squares)."""

import torch
from torch import Tensor

from distseg.label_maps import IGNORE_INDEX
from distseg.training.losses.batch import LossBatch, SumOverRanks, alone, at_least_one, one_hot


def loss(batch: LossBatch) -> Tensor:
    return dice_loss(batch.log_p_BKHW, batch.labels_BHW, batch.over_ranks) / batch.num_micro_batches


def dice_loss(log_p_BKHW: Tensor, labels_BHW: Tensor, over_ranks: SumOverRanks = alone) -> Tensor:
    """This rank's share of 1 - mean over classes of 2 Σ p·y / (Σ p + Σ y), sums over the valid pixels of all ranks.

    Classes without truth are left out.
    """
    valid_B1HW = (labels_BHW != IGNORE_INDEX)[:, None]
    truth_BKHW = one_hot(labels_BHW, log_p_BKHW)
    probability_BKHW = log_p_BKHW.exp() * valid_B1HW
    own_3K = torch.stack([x.sum((0, 2, 3)) for x in (probability_BKHW * truth_BKHW, probability_BKHW, truth_BKHW)])
    others_3K = over_ranks(own_3K.detach().clone()) - own_3K.detach()
    both_K, probability_K, truth_K = own_3K + others_3K
    present_K = truth_K > 0
    dice_K = 2 * both_K / (probability_K + truth_K).clamp(min=1e-12)
    value: Tensor = ((1 - dice_K) * present_K).sum() / at_least_one(present_K.sum())
    # Every rank has the whole value but only its own part of the gradient: the value must count once.
    return value - value.detach() * (1 - _share_of_a_rank(value, over_ranks))


def _share_of_a_rank(like: Tensor, over_ranks: SumOverRanks) -> Tensor:
    """1 / number of ranks."""
    return 1 / over_ranks(torch.ones((), dtype=like.dtype, device=like.device))
