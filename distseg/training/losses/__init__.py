"""Losses over the valid pixels of the *global* batch: the samples of all ranks and all micro-batches of a step.

    SegmentationLoss(config.loss, class_weights_K)     cross entropy, the auxiliary head's, and the extra terms
    terms/                                             the extra terms, one file each: `--loss.terms dice=0.5`
    kl_consistency                                     between the segmentations of an image and its restyled copy
    weighted_cross_entropy                             of labels that may be wrong, each pixel with its own weight
    class_weights, valid_weight                        what a pixel of each class counts

labels_BHW: train ids, uint8 or int64, 255 = void (never counted, never rewritten). logits_BKhw: any floating type and
any resolution; they are resized to the labels' (bilinear, align_corners=False) and the loss is computed in float32
(float64 for float64 logits). log_p_BKHW are the log-softmax of logits at the labels' size, computed once for all terms.

The mean of a global batch is not the mean of its ranks' means, for their numbers of valid pixels differ. So each rank
divides its *sum* by the global normaliser (`valid_weight`, summed over ranks and accumulated micro-batches): the
losses, and the gradients, of all ranks and micro-batches then add up to the global batch's.

An extra term is a function `LossBatch -> Tensor` that obeys the same rule, see `LossBatch`. A file of `terms/` offers
it as `loss`, a user names his own as `--loss.terms my_losses:boundary=0.5`; it is logged as `train/boundary_loss`.
"""

from distseg.training.losses.batch import (
    LossBatch,
    SumOverRanks,
    alone,
    at_least_one,
    log_probabilities,
    one_hot,
    valid_weight,
)
from distseg.training.losses.consistency import kl_consistency, weighted_cross_entropy
from distseg.training.losses.cross_entropy import CrossEntropy, cross_entropy_sum, hard_pixels
from distseg.training.losses.segmentation import LossParts, SegmentationLoss
from distseg.training.losses.weighting import WeightKind, class_weights

__all__ = [
    "CrossEntropy",
    "LossBatch",
    "LossParts",
    "SegmentationLoss",
    "SumOverRanks",
    "WeightKind",
    "alone",
    "at_least_one",
    "class_weights",
    "cross_entropy_sum",
    "hard_pixels",
    "kl_consistency",
    "log_probabilities",
    "one_hot",
    "valid_weight",
    "weighted_cross_entropy",
]
