"""Losses between two segmentations of one scene."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.label_maps import IGNORE_INDEX


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


def weighted_cross_entropy(
    log_p_BKHW: Tensor, labels_BHW: Tensor, weight_BHW: Tensor, class_weights_K: Tensor | None = None
) -> Tensor:
    """The sum over this rank's valid pixels of weight · class weight · cross entropy: of labels that may be wrong."""
    weights_K = None if class_weights_K is None else class_weights_K.to(log_p_BKHW)
    nll_BHW = F.nll_loss(log_p_BKHW, labels_BHW.long(), weights_K, ignore_index=IGNORE_INDEX, reduction="none")
    return (nll_BHW * weight_BHW).sum()
