"""Metrics of a confusion matrix: int64 (K, K), rows the truth, columns the prediction, void pixels left out.

`METRICS` is the one list of them. A metric that is added to it stands, without another line anywhere, in the table of
`evaluate --json`, in MLflow as `val/<name>` and `val/<name>/<condition>`, and as a column of the terminal's table and
of a run's report:

    def kappa(counts: PixelCounts) -> float | None: ...
    METRICS = (..., Metric(name="kappa", compute=kappa))

A user's own is such a function in his own module, and is shown in the same places: `--evaluate.metrics my_module:kappa`
of a training, `--metrics my_module:kappa` of an evaluation.

Matrices of batches, ranks and conditions are added; only then are they turned into scores (never a mean of per-image
IoUs). Scores are fractions in [0, 1], and None where undefined. What a class with nothing to count does to a mean:

| truth | predicted | IoU, Dice | recall |
|---|---|---|---|
| yes | no  | 0 | 0 |
| no  | yes | 0 | left out |
| no  | no  | left out | left out |
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from distseg import plugins
from distseg.errors import ConfigError
from distseg.label_maps import IGNORE_INDEX


class PairCounts(NamedTuple):
    """How often each pair of truth and prediction stands in each image of a batch, as counted on their device."""

    prediction_BHW: Tensor
    counts_BLK: Tensor  # int64, a row for each value that a label may have: 256
    range_2: Tensor  # the least and the largest prediction

    def to_cpu(self) -> "PairCounts":
        """Starts to copy the counts to the CPU, but not the prediction. A GPU copies them when it comes to it."""
        counts_BLK, range_2 = (tensor.to("cpu", non_blocking=True) for tensor in (self.counts_BLK, self.range_2))
        return PairCounts(self.prediction_BHW, counts_BLK, range_2)

    def matrices(self) -> Tensor:
        """int64 (B, K, K). Raises ValueError for a prediction or a label outside 0 … K - 1."""
        num_classes = self.counts_BLK.shape[-1]
        _check_range("prediction", self.prediction_BHW, self.range_2, num_classes)
        wrong_L = self.counts_BLK[:, num_classes:IGNORE_INDEX].sum(0).any(1)
        if wrong_L.any():
            outside = wrong_L.nonzero().flatten() + num_classes
            raise ValueError(f"label ids {outside[:8].tolist()} are outside the {num_classes} classes")
        return self.counts_BLK[:, :num_classes].clone()  # not a view, which would keep the other rows


def count_pairs(prediction_BHW: Tensor, label_BHW: Tensor, num_classes: int) -> PairCounts:
    """Counts a batch on the device that it is on, without waiting for that device. Labels are uint8, void is 255.

    Nothing is checked yet: `PairCounts.matrices` looks at the counts for what should not be there.
    """
    if prediction_BHW.shape != label_BHW.shape:
        raise ValueError(f"prediction {tuple(prediction_BHW.shape)} and label {tuple(label_BHW.shape)} differ in shape")
    # One pass over small integers: number pairs as 256 · K bins. Int16 takes a third of int64's time on CPUs.
    dtype = torch.int16 if _NUM_LABELS * num_classes <= torch.iinfo(torch.int16).max else torch.int64
    range_2 = torch.stack(torch.aminmax(prediction_BHW)) if prediction_BHW.numel() else torch.zeros(2)
    column_BHW = prediction_BHW.to(dtype).clamp(0, num_classes - 1)  # so that no pair lies outside the bins
    pairs_BP = label_BHW.to(dtype).mul_(num_classes).add_(column_BHW).flatten(1)
    count = _bincounts if pairs_BP.device.type == "cpu" else _scattered_counts
    counts_BLK = count(pairs_BP, _NUM_LABELS * num_classes).view(-1, _NUM_LABELS, num_classes)
    return PairCounts(prediction_BHW, counts_BLK, range_2)


def _bincounts(pairs_BP: Tensor, num_bins: int) -> Tensor:
    return torch.stack([torch.bincount(pairs_P, minlength=num_bins) for pairs_P in pairs_BP])


def _scattered_counts(pairs_BP: Tensor, num_bins: int) -> Tensor:
    """What `_bincounts` gives. On GPUs bincount waits, since the largest number decides the size of its result."""
    counts_BN = torch.zeros(len(pairs_BP), num_bins, dtype=torch.int64, device=pairs_BP.device)
    return counts_BN.scatter_add_(1, pairs_BP.long(), counts_BN.new_ones(()).expand(pairs_BP.shape))


def confusion_matrix(
    prediction_BHW: Tensor, label_BHW: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """int64 (K, K) counts of (truth, prediction). Void pixels of the truth are not counted, whatever their prediction.

    Raises ValueError for a prediction outside 0 … K - 1 on any pixel (void cannot be predicted), and for such a label.
    """
    label_u8 = _void_as_255(label_BHW, num_classes, ignore_index)
    return count_pairs(prediction_BHW[None], label_u8[None], num_classes).matrices()[0]


_NUM_LABELS = 256  # labels are uint8


def _void_as_255(label_BHW: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """uint8. Labels of another type, or with another number for void, are looked through first."""
    if label_BHW.dtype == torch.uint8 and ignore_index == IGNORE_INDEX:
        return label_BHW
    is_void_BHW = label_BHW == ignore_index
    if (ids := label_BHW[~is_void_BHW]).numel():
        _check_range("label", ids, torch.stack(torch.aminmax(ids)), num_classes)
    return label_BHW.masked_fill(is_void_BHW, IGNORE_INDEX).to(torch.uint8)


def _check_range(name: str, ids: Tensor, range_2: Tensor, num_classes: int) -> None:
    least, largest = range_2.tolist()
    if least < 0 or largest >= num_classes:
        outside = sorted(set(ids.flatten().tolist()) - set(range(num_classes)))
        raise ValueError(f"{name} ids {outside[:8]} are outside the {num_classes} classes")


def class_counts(matrices_KK: Tensor) -> Tensor:
    """Confusion matrices (…, K, K) -> (…, 3, K): pixels in the truth, in the prediction, and in both."""
    return torch.stack([matrices_KK.sum(-1), matrices_KK.sum(-2), matrices_KK.diagonal(dim1=-2, dim2=-1)], -2)


def image_iou(counts_3K: Tensor) -> float | None:
    """The pixel-weighted IoU of one image: the mean IoU of the classes in its truth, weighted by their pixels there.

    None if all is void. It serves to find the images to look at, for which mIoU is no good: in the plain mean of a
    single image's few classes, one of some pixels decides. It is mostly higher than mIoU, and must not be shown as one.
    """
    truth_K, predicted_K, hit_K = counts_3K.tolist()
    num_valid = sum(truth_K)
    if not num_valid:
        return None
    per_class = zip(truth_K, predicted_K, hit_K, strict=True)
    return math.fsum(t * hit / (t + predicted - hit) for t, predicted, hit in per_class if t) / float(num_valid)


# ---- what metrics are computed from


@dataclass(frozen=True)
class PixelCounts:
    """A confusion matrix and its sums per class, as Python's integers: exact, however many pixels there are."""

    matrix_KK: Tensor  # int64, on the CPU
    truth_K: Sequence[int]
    predicted_K: Sequence[int]
    hit_K: Sequence[int]
    iou_K: Sequence[float | None]  # intersection over union: hits / (truth or predicted)

    @classmethod
    def of(cls, matrix_KK: Tensor) -> "PixelCounts":
        matrix_KK = matrix_KK.cpu()
        truth_K, predicted_K, hit_K = matrix_KK.sum(1).tolist(), matrix_KK.sum(0).tolist(), matrix_KK.diag().tolist()
        classes = zip(truth_K, predicted_K, hit_K, strict=True)
        iou_K = [ratio(hit, truth + predicted - hit) for truth, predicted, hit in classes]
        return cls(matrix_KK, truth_K, predicted_K, hit_K, iou_K)


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


# ---- the metrics


def mean_iou(counts: PixelCounts) -> float | None:
    """Mean over classes of intersection over union."""
    return mean(counts.iou_K)


def pixel_accuracy(counts: PixelCounts) -> float | None:
    return ratio(sum(counts.hit_K), sum(counts.truth_K))


def mean_recall(counts: PixelCounts) -> float | None:
    """Mean recall over the classes that have truth: mean pixel accuracy (MPA), also called mean sensitivity."""
    return mean(ratio(hit, truth) for truth, hit in zip(counts.truth_K, counts.hit_K, strict=True))


def mean_dice(counts: PixelCounts) -> float | None:
    """Mean over classes of 2·TP / (2·TP + FP + FN): the harmonic mean of precision and recall (F1) is Dice."""
    classes = zip(counts.truth_K, counts.predicted_K, counts.hit_K, strict=True)
    return mean(ratio(2 * hit, truth + predicted) for truth, predicted, hit in classes)


def frequency_weighted_iou(counts: PixelCounts) -> float | None:
    """IoU weighted by the classes' pixels in the truth."""
    weighted = (truth * (iou or 0.0) for truth, iou in zip(counts.truth_K, counts.iou_K, strict=True))
    return ratio(sum(weighted), sum(counts.truth_K))


Place = Literal["mlflow", "mlflow by condition", "terminal", "report"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of an evaluation, computed for all images together, for each condition and for each site."""

    name: str  # in `evaluate --json`, which has all metrics; in MLflow with `val/` before it
    compute: Callable[[PixelCounts], float | None]  # two metrics with the same function are computed once
    shown_in: tuple[Place, ...] = ("mlflow", "mlflow by condition", "terminal", "report")


METRICS = (
    # A report shows mIoU in a column with intervals.
    Metric(name="mIoU", compute=mean_iou, shown_in=("mlflow", "mlflow by condition", "terminal")),
    Metric(name="PA", compute=pixel_accuracy, shown_in=("mlflow", "terminal")),
    Metric(name="MPA", compute=mean_recall, shown_in=("mlflow", "terminal")),
    Metric(name="dice", compute=mean_dice, shown_in=()),
    Metric(name="f1", compute=mean_dice, shown_in=()),
    Metric(name="sensitivity", compute=mean_recall, shown_in=()),
    Metric(name="fwIoU", compute=frequency_weighted_iou, shown_in=()),
)


_OTHER_ENTRIES = ("num_images", "classes", "support", "mIoU_mean_conditions", "mIoU_worst", "mIoU_gap", "trust")
"""Names in an entry of a table that are no metric of the list: no column shows them, no metric of a user has them."""
_OF_TABLES = (
    *("conditions", "sites", "worst_condition", "step", "target", "trained_on"),
    *("criteria", "checkpoint", "data", "data_digest", "adapt"),
    "IoU",  # of classes, in MLflow: val/IoU/<class>
)
"""Names that stand in a table beside the metrics of all images together: no metric of a user has them either."""


def own_metrics(names: Sequence[str], what: str) -> tuple[Metric, ...]:
    """A user's metrics by `module:name`, each a function of PixelCounts. `what`, a field or flag, begins each error.

    Raises ConfigError for what cannot be imported, is no function, or has the name of another.
    """
    found: list[Metric] = []
    taken = {*_OTHER_ENTRIES, *_OF_TABLES, *(metric.name for metric in METRICS)}
    for target in names:
        compute = plugins.from_user(what, target)
        name = target.rpartition(":")[2]
        if not callable(compute):
            raise ConfigError(f"{what} {target!r}: not a function of PixelCounts")
        if name in taken:
            raise ConfigError(f"{what} {target!r}: there is a metric {name!r} already; give yours another name")
        taken.add(name)
        found.append(Metric(name=name, compute=compute))
    return tuple(found)


def metrics_in(place: Place, table: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the metrics that are shown there, in their order: METRICS, then a user's own that `table` has.

    Every entry of a condition that is not named here counts as a user's own.
    """
    entry: Mapping[str, Any] = next(iter(table["conditions"].values()), {})
    listed = {*_OTHER_ENTRIES, *(metric.name for metric in METRICS)}
    return (
        *(metric.name for metric in METRICS if place in metric.shown_in),
        *(name for name in entry if name not in listed),
    )


@dataclass(frozen=True)
class Scores:
    """All metrics of one confusion matrix: `scores(matrix_KK)["mIoU"]`."""

    values: dict[str, float | None]  # by name, in the order of METRICS, a user's own last
    iou_K: tuple[float | None, ...]
    support_K: tuple[int, ...]  # pixels of each class in the truth

    def __getitem__(self, name: str) -> float | None:
        return self.values[name]


def scores(matrix_KK: Tensor, own: Sequence[Metric] = ()) -> Scores:
    """Raises ConfigError naming a user's metric that gives no number, or that raises an error, with its line."""
    counts, metrics = PixelCounts.of(matrix_KK), (*METRICS, *own)
    computed = {
        compute: _number(name, compute, counts) for compute, name in {m.compute: m.name for m in metrics}.items()
    }
    values = {metric.name: computed[metric.compute] for metric in metrics}
    return Scores(values, tuple(counts.iou_K), tuple(counts.truth_K))


def _number(name: str, compute: Callable[[PixelCounts], float | None], counts: PixelCounts) -> float | None:
    """A user's metric may divide by 0, and is undefined then, as ours are; JSON takes neither NaN nor tensors."""
    try:
        value = compute(counts)
    except ZeroDivisionError:
        return None
    except Exception as error:  # a user's code raises what it likes
        raise ConfigError(f"metric {name}: {plugins.raised(error)}") from error
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"metric {name}: gave {value!r:.80}; it must give a number, or None where it is not defined"
        ) from None
    return number if number is not None and math.isfinite(number) else None
