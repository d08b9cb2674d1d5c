"""What a run is reviewed by: its best checkpoint's evaluation and its history, as distseg.review takes them."""

import itertools
from collections.abc import Sequence

from distseg.config import RunConfig, to_dict
from distseg.evaluation import ImageCounts, overlays_from_tensors
from distseg.metric_names import DATA_WAIT_FRACTION, IMAGES_PER_S, MIOU, MIOU_WORST, TRAIN_LOSS
from distseg.review import Cost, RunReview
from distseg.tracking import History, MetricPoint
from distseg.training.checkpoint import Checkpoint

CURVES = (TRAIN_LOSS, MIOU, MIOU_WORST)
PAUSE_S = 900.0  # a longer time between two records is a pause, and not counted as training
HISTORY_METRICS = (*CURVES, IMAGES_PER_S, DATA_WAIT_FRACTION)
"""Metrics whose history `build_review` uses."""


def build_review(name: str, saved: Checkpoint, *, dataset: str = "", history: History | None = None) -> RunReview:
    """The review of `saved`, an evaluated checkpoint. `history`: of HISTORY_METRICS, as far as it is known."""
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
    times_s = [point.time_s for point in history.get(TRAIN_LOSS, ())]
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
        images_per_s=_mean(history.get(IMAGES_PER_S, ())),
        data_wait_fraction=_mean(history.get(DATA_WAIT_FRACTION, ())),
    )


def _mean(points: Sequence[MetricPoint]) -> float | None:
    return sum(point.value for point in points) / len(points) if points else None
