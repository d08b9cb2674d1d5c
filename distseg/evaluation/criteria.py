"""How good a network's predictions look on images without labels: what a checkpoint can be chosen by.

Four figures, from 0 to 1, of all pixels of a grid together; more is better. K classes, H the entropy in nats:

    certainty     1 - mean H(p) / ln K          low entropy (Wang et al. 2021 minimise it)
    information   (H(mean p) - mean H(p)) / ln K      sure of each pixel, yet not of the same class everywhere
    agreement     share of pixels of which the network and its moving average predict the same class
    class_ratios  1 - JS / ln 2                 Jensen-Shannon divergence of predicted and labelled class ratios

None of them sees a label of the images. Each can be fooled: a network that predicts one class with certainty has a
certainty of 1, and 0 in `information`. `class_ratios` takes for granted that conditions show classes alike.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distseg.evaluation.world import World


class Criteria:
    """Sums over pixels, in float64."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.sums = torch.zeros(3 + 2 * num_classes, dtype=torch.float64, device=device)
        self.num_classes = num_classes
        self.has_other = False

    def add(self, probability_BKhw: Tensor, other_Bhw: Tensor | None = None) -> None:
        """`other_Bhw`: the class ids that another network predicts for the same pixels."""
        p_KN = probability_BKhw.to(torch.float64).transpose(0, 1).flatten(1)
        predicted_N = p_KN.argmax(0)
        agreed = torch.zeros((), dtype=torch.float64, device=p_KN.device)
        if other_Bhw is not None:
            self.has_other = True
            agreed = (predicted_N == other_Bhw.flatten()).sum().double()
        scalars = torch.stack([agreed.new_tensor(float(p_KN.shape[1])), entropy(p_KN).sum(), agreed])
        counts_K = torch.bincount(predicted_N, minlength=self.num_classes).double()
        self.sums += torch.cat([scalars, p_KN.sum(1), counts_K])

    def values(self, world: World, labelled_K: Sequence[int] | None = None) -> dict[str, float]:
        """The figures of the images of all ranks. `labelled_K`: labelled pixels of each class; without it, and without
        another network, the figure that needs it is left out."""
        sums = world.sum(self.sums).cpu()
        (num, entropy_sum, agreed), p_K, counts_K = sums[:3].tolist(), sums[3:].clone(), sums[3:].clone()
        p_K, counts_K = p_K[: self.num_classes], counts_K[self.num_classes :]
        if not num:
            return {}
        most, mean_entropy = math.log(self.num_classes) or 1.0, entropy_sum / num  # of one class, all entropies are 0
        found = {
            "certainty": 1 - mean_entropy / most,
            "information": (entropy(p_K / num).item() - mean_entropy) / most,
        }
        if self.has_other:
            found["agreement"] = agreed / num
        if labelled_K is not None and any(labelled_K):
            pixels_K = torch.tensor(labelled_K, dtype=torch.float64)
            ratios_K = pixels_K / pixels_K.sum()
            found["class_ratios"] = 1 - jensen_shannon(counts_K / num, ratios_K) / math.log(2)
        return found


def entropy(p_KN: Tensor) -> Tensor:
    """In nats, along the first dimension; 0 · ln 0 is 0."""
    return -torch.xlogy(p_KN, p_KN).sum(0)


def jensen_shannon(p_K: Tensor, q_K: Tensor) -> float:
    """From 0, of equal distributions, to ln 2."""
    return (entropy((p_K + q_K) / 2) - (entropy(p_K) + entropy(q_K)) / 2).item()
