"""Scores from confusion matrices: int64 (K, K), rows the truth, columns the prediction, void pixels left out.

Matrices of batches, ranks and conditions are added; only then are they turned into scores (never a mean of per-image
IoUs). Scores are fractions in [0, 1], and None where undefined. What a class with nothing to count does to a mean:

| truth | predicted | IoU, Dice | recall |
|---|---|---|---|
| yes | no  | 0 | 0 |
| no  | yes | 0 | left out |
| no  | no  | left out | left out |
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distseg.label_maps import IGNORE_INDEX


def confusion_matrix(
    prediction_BHW: Tensor, label_BHW: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """int64 (K, K) counts of (truth, prediction). Void pixels of the truth are not counted, whatever their prediction.

    Raises ValueError for a prediction outside 0 … K - 1 on any pixel (void cannot be predicted), and for such a label.
    """
    if prediction_BHW.shape != label_BHW.shape:
        raise ValueError(f"prediction {tuple(prediction_BHW.shape)} and label {tuple(label_BHW.shape)} differ in shape")
    valid = label_BHW != ignore_index
    _check_range("prediction", prediction_BHW, num_classes)
    truth, predicted = label_BHW[valid].long(), prediction_BHW[valid].long()
    _check_range("label", truth, num_classes)
    return torch.bincount(truth * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def _check_range(name: str, ids: Tensor, num_classes: int) -> None:
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= num_classes):
        outside = sorted(set(ids.flatten().tolist()) - set(range(num_classes)))
        raise ValueError(f"{name} ids {outside[:8]} are outside the {num_classes} classes")


@dataclass(frozen=True)
class Scores:
    mIoU: float | None  # mean intersection over union
    PA: float | None  # pixel accuracy
    MPA: float | None  # mean recall over the classes that have truth
    dice: float | None  # mean over classes of 2·TP / (2·TP + FP + FN)
    fwIoU: float | None  # IoU weighted by the classes' support
    iou: tuple[float | None, ...]  # per class
    support: tuple[int, ...]  # per class: pixels of truth

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall is Dice."""
        return self.dice

    @property
    def sensitivity(self) -> float | None:
        """Mean sensitivity is MPA."""
        return self.MPA


def scores(matrix_KK: Tensor) -> Scores:
    truth_K, predicted_K, hit_K = _counts(matrix_KK)
    union_K = [t + p - h for t, p, h in zip(truth_K, predicted_K, hit_K, strict=True)]
    iou_K = [_ratio(h, u) for h, u in zip(hit_K, union_K, strict=True)]
    dice_K = [_ratio(2 * h, t + p) for t, p, h in zip(truth_K, predicted_K, hit_K, strict=True)]
    recall_K = [_ratio(h, t) for t, h in zip(truth_K, hit_K, strict=True)]
    return Scores(
        mIoU=_mean(iou_K),
        PA=_ratio(sum(hit_K), sum(truth_K)),
        MPA=_mean(recall_K),
        dice=_mean(dice_K),
        fwIoU=_ratio(sum(t * (iou or 0.0) for t, iou in zip(truth_K, iou_K, strict=True)), sum(truth_K)),
        iou=tuple(iou_K),
        support=tuple(truth_K),
    )


def _counts(matrix_KK: Tensor) -> tuple[list[int], list[int], list[int]]:
    """(truth, predicted, hit) pixels per class, as exact integers."""
    matrix_KK = matrix_KK.cpu()
    return matrix_KK.sum(1).tolist(), matrix_KK.sum(0).tolist(), matrix_KK.diag().tolist()


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


@dataclass(frozen=True)
class Summary:
    """Scores of several conditions. The last four compare conditions, so they average over the same classes in each:
    those that have truth in every condition; else absent classes would decide which condition is the worst."""

    pooled: Scores  # of the sum of the matrices
    conditions: dict[str, Scores]
    mIoU_mean_conditions: float | None  # mean of the conditions' own mIoU, as papers report it
    mIoU_worst: float | None
    mIoU_gap: float | None  # best minus worst condition
    worst_condition: str | None
    compared_classes: tuple[int, ...]


def summarise(matrices: Mapping[str, Tensor]) -> Summary:
    """From condition -> its confusion matrix; there must be at least one."""
    if not matrices:
        raise ValueError("no condition was evaluated: there is nothing to summarise")
    conditions = {name: scores(matrix_KK) for name, matrix_KK in matrices.items()}
    compared = _classes_in_all(list(conditions.values()))
    mean_iou = {name: _mean(s.iou[k] for k in compared) for name, s in conditions.items()}
    comparable = {name: value for name, value in mean_iou.items() if value is not None}
    worst = min(comparable, key=comparable.__getitem__, default=None)
    return Summary(
        pooled=scores(torch.stack([matrix_KK.cpu() for matrix_KK in matrices.values()]).sum(0)),
        conditions=conditions,
        mIoU_mean_conditions=_mean(s.mIoU for s in conditions.values()),
        mIoU_worst=comparable[worst] if worst is not None else None,
        mIoU_gap=max(comparable.values()) - comparable[worst] if worst is not None else None,
        worst_condition=worst,
        compared_classes=compared,
    )


def _classes_in_all(conditions: Sequence[Scores]) -> tuple[int, ...]:
    supports = zip(*(s.support for s in conditions), strict=True)
    return tuple(k for k, support in enumerate(supports) if all(support))
