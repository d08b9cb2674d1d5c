"""An evaluation as a table: a JSON object, which `evaluate --json`, checkpoints, MLflow and reports all have alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from distseg import metric_names
from distseg.data import LabelSpace
from distseg.evaluation.metrics import Metric, mean, metrics_in, scores
from distseg.evaluation.ranking import rank_conditions
from distseg.evaluation.scoring import ConfusionMatrix, Summed
from distseg.evaluation.trust.readings import readings

_COMPARED = ("mIoU_mean_conditions", "mIoU_worst", "mIoU_gap")  # compare conditions; logged as val/<name>


def as_table(counted: ConfusionMatrix, labels: LabelSpace, own: Sequence[Metric] = ()) -> dict[str, Any]:
    """All metrics as fractions (None where undefined): of all images together, of each condition and of each site.

    `own`: a user's metrics, beside METRICS.
    """
    conditions = {name: _entry(of, labels, own) for name, of in counted.by_condition().items()}
    if not conditions:
        raise ValueError("no condition was evaluated: there is nothing to make a table of")
    pooled = _entry(counted.summed(), labels, own)
    ranking = rank_conditions({"conditions": conditions, "classes": pooled["classes"]})
    return {
        "num_images": pooled.pop("num_images"),
        "mIoU": pooled.pop("mIoU"),
        "mIoU_mean_conditions": mean(entry["mIoU"] for entry in conditions.values()),
        "mIoU_worst": ranking.miou_worst,
        "mIoU_gap": ranking.miou_gap,
        **pooled,
        "conditions": conditions,
        "sites": {name: _entry(of, labels, own) for name, of in counted.by_site().items()},
        "worst_condition": ranking.worst,
    }


def _entry(of: Summed, labels: LabelSpace, own: Sequence[Metric]) -> dict[str, Any]:
    found = scores(of.matrix_KK, own)
    return {
        "num_images": of.num_images,
        **found.values,
        "classes": dict(zip(labels.classes, found.iou_K, strict=True)),
        "support": dict(zip(labels.classes, found.support_K, strict=True)),
        **({"trust": readings(of.trust)} if of.trust.confidence_2Q.any() else {}),
    }


def as_metrics(table: Mapping[str, Any]) -> dict[str, float]:
    """The table under its MLflow names; undefined left out.

    val/<metric>; val/<metric>/<condition> of those that `Metric.shown_in` says so of; val/IoU/<class>.
    """
    first, *others = metrics_in("mlflow", table)
    metrics = {metric_names.evaluation(name): table[name] for name in (first, *_COMPARED, *others)}
    for name in metrics_in("mlflow by condition", table):
        metrics |= {metric_names.of_condition(name, of): entry.get(name) for of, entry in table["conditions"].items()}
    metrics |= {metric_names.class_iou(name): iou for name, iou in table["classes"].items()}
    return {name: float(value) for name, value in metrics.items() if value is not None}
