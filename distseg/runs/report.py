"""What a run leaves for people to look at: made when it ends, from its best checkpoint and what it logged.

review_of    the checkpoint's evaluation and the run's history, as `pages` takes them
files_of     plots, tables and report/index.html, by the names they have in MLflow and below the run's directory
"""

import io
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distseg.config import RunConfig, to_dict
from distseg.evaluation import ImageCounts, overlays_from_tensors
from distseg.review import Cost, RunReview, model_card, run_page
from distseg.tracking import History, MetricPoint
from distseg.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = ("train/loss", "val/mIoU", "val/mIoU_worst")
CONDITIONS_PLOT = "plots/condition_miou.png"
MODEL_CARD = "report/model_card.md"
PAUSE_S = 900.0  # between two records of a run at work: what is longer is taken for a pause


HISTORY_METRICS = (*CURVES, "train/images_per_s", "train/data_wait_fraction")


def build_review(name: str, saved: Checkpoint, *, dataset: str = "", history: History | None = None) -> RunReview:
    """`saved` must have been evaluated."""
    history = history or {}
    images = saved.evaluation.get("images")
    return RunReview(
        name=name,
        table=saved.tables,
        config=to_dict(saved.config),
        dataset=dataset,
        data_digest=saved.manifest_digest,
        code_version=saved.code_version,
        cost=_cost(saved.config, history),
        history={metric: [(p.step, p.value) for p in history[metric]] for metric in CURVES if metric in history},
        images=ImageCounts(**images) if images else None,
        matrix_KK=saved.evaluation.get("matrix_KK"),
        palette=saved.label_space.palette,
        overlays=overlays_from_tensors(saved.evaluation.get("overlays", ())),
    )


def _cost(config: RunConfig, history: History) -> Cost:
    times_s = [point.time_s for point in history.get("train/loss", ())]
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(sorted(times_s))]
    hours = sum(gap for gap in gaps_s if gap < PAUSE_S) / 3600 if gaps_s else None
    scaling = config.scaling
    cores = scaling.num_workers * scaling.cpus_per_worker
    device = f"{scaling.num_workers} GPUs" if scaling.gpu else f"{cores} CPU cores"
    is_known = hours is not None and scaling.min_workers in (None, scaling.num_workers)
    return Cost(
        device=device if scaling.min_workers in (None, scaling.num_workers) else f"at most {device}",
        wall_hours=hours,
        gpu_hours=hours * scaling.num_workers * scaling.gpu if hours is not None and is_known else None,
        cpu_hours=hours * cores if hours is not None and is_known else None,
        images_per_s=_mean(history.get("train/images_per_s", ())),
        data_wait_fraction=_mean(history.get("train/data_wait_fraction", ())),
    )


def _mean(points: Sequence[MetricPoint]) -> float | None:
    return sum(point.value for point in points) / len(points) if points else None


def files_of(review: RunReview) -> dict[str, bytes]:
    from distseg.review import (  # here, as it takes half a second that every process of a training would pay
        condition_bars,
        condition_by_class,
        confusion,
        curves,
    )

    intervals = review.intervals
    plots = {
        CONDITIONS_PLOT: condition_bars(review.table, intervals.conditions if intervals else None),
        "plots/condition_by_class.png": condition_by_class(review.table),
    }
    if review.matrix_KK is not None:
        plots["plots/confusion_matrix.png"] = confusion(review.matrix_KK, list(review.table["classes"]))
    if any(review.history.values()):
        plots["plots/curves.png"] = curves(review.history)
    files = {name: _png(figure) for name, figure in plots.items()}
    if review.images is not None:
        files["tables/images.json"] = json.dumps(review.images.as_json()).encode()
    files["report/index.html"] = run_page(review).encode()
    files[MODEL_CARD] = model_card(review).encode()
    return files


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
