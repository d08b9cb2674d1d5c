"""What a run is reviewed by: its best checkpoint's evaluation and its history, as distseg.review takes them."""

import itertools
import logging
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distseg import storage, tracking
from distseg.config import RunConfig, to_dict
from distseg.errors import CheckpointError, TrackingError
from distseg.evaluation import ImageCounts, overlays_from_tensors
from distseg.metric_names import DATA_WAIT_FRACTION, IMAGES_PER_S, MIOU, MIOU_WORST, TRAIN_LOSS, is_of_evaluation
from distseg.review import Cost, RunReview
from distseg.runs.run import read_run_json
from distseg.tracking import History, MetricPoint
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)

_BEGUN = re.compile(r"-([0-9a-f]{4}-\d{8}-\d{6}|\d{8}-\d{6}-[0-9a-f]{4})$")
"""The end of a run's name: a token and when it began; of older runs, in the other order."""

CURVES = (TRAIN_LOSS, MIOU, MIOU_WORST)
PAUSE_S = 900.0  # a longer time between two records is a pause, and not counted as training,
PAUSE = 4  # unless it is less than so many times what is usual in this run
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
    longest_s = max(PAUSE_S, PAUSE * statistics.median(gaps_s)) if gaps_s else PAUSE_S
    hours = sum(gap for gap in gaps_s if gap < longest_s) / 3600 if gaps_s else None
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


def read_review(uri: str) -> RunReview:
    """The review of a run, or of anything else that --checkpoint takes, by its best checkpoint.

    Raises CheckpointError if it was saved without an evaluation. The history is empty if neither the run nor MLflow has
    it.
    """
    found_uri, saved = checkpoint.resolve(uri)
    if "conditions" not in saved.tables:
        raise CheckpointError(f"{found_uri}: was saved without an evaluation; give a run that has evaluated")
    name = uri.rstrip("/").rpartition("/")[2]
    dataset = ""
    history: History = {}
    if storage.exists(storage.join(uri, "run.json")):
        about = read_run_json(uri)
        name, dataset, history = about["name"], about["dataset"], _read_history(uri, about)
    return build_review(name, saved, dataset=dataset, history=history)


def _read_history(uri: str, about: Mapping[str, Any]) -> History:
    """From the run's journal; of a run that is older than journals, from the tracking server."""
    history = tracking.history_of(tracking.read_journal(uri), HISTORY_METRICS)
    if history or not about["run_id"]:
        return history
    try:
        return tracking.read_history(about["tracking_uri"], about["run_id"], HISTORY_METRICS)
    except TrackingError as error:
        log.warning("%s; the page has no training curves and no cost of %s", error, about["name"])
        return {}


def read_evaluations(uri: str) -> dict[str, dict[int, float]]:
    """metric -> step -> value, of all evaluations in a run's journal. Raises CheckpointError if it is no run."""
    read_run_json(uri)
    found: dict[str, dict[int, float]] = {}
    for record in tracking.read_journal(uri):
        for name in filter(is_of_evaluation, record["metrics"]):
            found.setdefault(name, {})[record["step"]] = record["metrics"][name]
    return found


def briefly_named(runs: Sequence[RunReview]) -> list[RunReview]:
    """Named without token and time at the end, if the names then still differ. The page shows both names."""
    brief = [_BEGUN.sub("", run.name) for run in runs]
    if len(set(brief)) < len(brief):
        return list(runs)
    return [replace(run, name=name, run=run.name) for run, name in zip(runs, brief, strict=True)]
