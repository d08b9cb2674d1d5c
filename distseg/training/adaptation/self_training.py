"""Self-training on target images by a teacher, the moving average of the network (Tarvainen & Valpola 2017).

Of a batch of labelled images and as many target images a `SelfTraining` makes views: batches to learn from, whose
labels are the labelled images' where those were pasted, and the teacher's elsewhere. The network is run on each view by
itself, as in DACS, so batch norm does not mix their statistics with those of the labelled images.

The teacher sees the target images as they are, without dropout. It is not learnt but follows the network, so it needs
no state beside the moving average, which every checkpoint has.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distseg import evaluation, metric_names
from distseg.config import RunConfig
from distseg.evaluation import World
from distseg.models import Logits, SegmentationModel
from distseg.training.adaptation import mixing
from distseg.training.adaptation.mixing import PseudoLabels
from distseg.training.adaptation.statistics import use_batch_statistics_
from distseg.training.losses import at_least_one, log_probabilities, valid_weight, weighted_cross_entropy
from distseg.training.process import from_host

DROPOUT_STREAMS = 1 << 40  # positions of a view: each has dropout masks of its own


class Labelled(NamedTuple):
    """A batch of labelled images as the network sees them, and their positions in the training stream."""

    images_B3HW: Tensor  # normalised
    labels_BHW: Tensor
    positions: Sequence[int]


class View(NamedTuple):
    name: str  # under which its loss is logged
    weight: float  # of its loss
    images_B3HW: Tensor  # normalised
    labels_BHW: Tensor
    weight_BHW: Tensor  # what each pixel counts
    positions: tuple[int, ...]  # for dropout


class SelfTraining:
    def __init__(self, config: RunConfig, world: World, precision: str, memory_format: torch.memory_format) -> None:
        assert config.adapt.weight is not None
        self.adapt, self.seed, self.aux_weight = config.adapt, config.seed, config.loss.aux_weight
        self.world, self.precision, self.memory_format = world, precision, memory_format

    @property
    def logged(self) -> list[str]:
        """Names under which it is logged."""
        mixed = [metric_names.TRAIN_MIXED_LOSS] if self.adapt.weight else []
        masked = [metric_names.TRAIN_MASKED_LOSS] if self.adapt.masked_weight else []
        return [*mixed, *masked, metric_names.TRAIN_PSEUDO_QUALITY]

    def begins_after(self, step: int) -> bool:
        """Whether step number `step` is still one without views."""
        return step < self.adapt.start_step

    def views(self, teacher: SegmentationModel, labelled: Labelled, targets_B3HW: Tensor) -> tuple[list[View], Tensor]:
        """What to learn from beside the labelled images, and the sum of the pseudo labels' quality."""
        targets_B3HW = evaluation.normalize(targets_B3HW, self.precision, self.memory_format)
        pseudo = self._pseudo_labels(teacher, targets_B3HW)
        views = []
        if self.adapt.weight:
            views.append(self._mixed(labelled, targets_B3HW, pseudo))
        if self.adapt.masked_weight:
            views.append(self._masked(labelled.positions, targets_B3HW, pseudo))
        return views, pseudo.quality_B.sum()

    def loss(self, view: View, logits: Logits, class_weights_K: Tensor | None, num_micro_batches: int) -> Tensor:
        """This rank's part of a view's loss: the mean over the pixels of all ranks, of both heads.

        Weighted by class as the labelled images' loss is. A pixel of which the teacher is not sure counts less in the
        sum, and as one pixel in the number that the sum is divided by (DAFormer, equation 3).
        """
        own = valid_weight(view.labels_BHW, class_weights_K)
        normaliser = at_least_one(self.world.sum(own)) * num_micro_batches
        total = torch.zeros((), dtype=view.weight_BHW.dtype, device=own.device)
        for weight, logits_BKhw in ((1.0, logits.main_BKhw), (self.aux_weight, logits.aux_BKhw)):
            if logits_BKhw is not None and weight:
                log_p_BKHW = log_probabilities(logits_BKhw, view.labels_BHW)
                summed = weighted_cross_entropy(log_p_BKHW, view.labels_BHW, view.weight_BHW, class_weights_K)
                total = total + weight * summed / normaliser.to(summed)
        return total

    @torch.no_grad()
    def _pseudo_labels(self, teacher: SegmentationModel, targets_B3HW: Tensor) -> PseudoLabels:
        teacher.eval()
        if self.adapt.teacher_statistics == "batch":
            use_batch_statistics_(teacher)
        with evaluation.autocast(self.precision, targets_B3HW.device):
            logits = teacher(targets_B3HW)
        size = (targets_B3HW.shape[2], targets_B3HW.shape[3])
        return mixing.pseudo_labels(mixing.at_size(logits.main_BKhw.to(targets_B3HW.dtype), size), self.adapt.threshold)

    def _mixed(self, labelled: Labelled, targets_B3HW: Tensor, pseudo: PseudoLabels) -> View:
        """ClassMix (Olsson et al. 2021) between domains: objects of the labelled image on the target image."""
        images_B3HW, labels_BHW = targets_B3HW, pseudo.labels_BHW
        weight_BHW = pseudo.quality_B[:, None, None].expand(labels_BHW.shape)
        if self.adapt.mix:
            pasted_BHW = mixing.pasted_pixels(labelled.labels_BHW, self._class_scores(labelled))
            images_B3HW = torch.where(pasted_BHW[:, None], labelled.images_B3HW, images_B3HW)
            labels_BHW = torch.where(pasted_BHW, labelled.labels_BHW, labels_BHW)
            weight_BHW = torch.where(pasted_BHW, 1.0, weight_BHW)
        images_B3HW = self._jittered(images_B3HW, labelled.positions, 1)
        positions = _shifted(labelled.positions, 1)
        weight = self.adapt.weight or 0.0
        return View(metric_names.TRAIN_MIXED_LOSS, weight, images_B3HW, labels_BHW, weight_BHW, positions)

    def _masked(self, positions: Sequence[int], targets_B3HW: Tensor, pseudo: PseudoLabels) -> View:
        """Masked image consistency (Hoyer et al. 2023): what is hidden has to be inferred from what is around it."""
        size = (targets_B3HW.shape[2], targets_B3HW.shape[3])
        visible_B1HW = mixing.visible_pixels(self.seed, positions, size, self.adapt.mask_share, self.adapt.mask_px)
        images_B3HW = self._jittered(targets_B3HW, positions, 2)
        images_B3HW = torch.where(from_host(visible_B1HW, self.world.device), images_B3HW, 0.0)  # 0 is the mean colour
        weight_BHW = pseudo.quality_B[:, None, None].expand(pseudo.labels_BHW.shape)
        name, weight = metric_names.TRAIN_MASKED_LOSS, self.adapt.masked_weight
        return View(name, weight, images_B3HW, pseudo.labels_BHW, weight_BHW, _shifted(positions, 2))

    def _class_scores(self, labelled: Labelled) -> Tensor:
        return from_host(mixing.class_scores(self.seed, labelled.positions), self.world.device)

    def _jittered(self, images_B3HW: Tensor, positions: Sequence[int], stream: int) -> Tensor:
        """In the memory layout of the training."""
        if self.adapt.jitter:
            factors_B3 = mixing.jitter_factors(self.seed, _shifted(positions, stream), self.adapt.jitter)
            on_device_B3 = from_host(factors_B3, self.world.device)
            colours_B3HW = mixing.jittered(evaluation.denormalize(images_B3HW), on_device_B3)
            return evaluation.normalize(colours_B3HW, self.precision, self.memory_format)
        return images_B3HW.contiguous(memory_format=self.memory_format)


def _shifted(positions: Sequence[int], stream: int) -> tuple[int, ...]:
    return tuple(position + stream * DROPOUT_STREAMS for position in positions)
