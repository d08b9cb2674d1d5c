"""What rank 0 of a training exports to Prometheus, through the metrics endpoint of its Ray node.

All are gauges with the tags `run` and `experiment`; those of a condition also have `condition`. Ray puts `ray_` before
each name. Ray forgets a gauge about 20 s after it was set. So all are set again every few seconds while the training
lives: mIoU stays between evaluations, and a training that has ended disappears.
"""

import logging
import threading
from collections.abc import Mapping
from typing import NamedTuple

from ray.util.metrics import Gauge

from distseg import metric_names
from distseg.config import RunConfig

log = logging.getLogger(__name__)

REPEAT_S = 5.0  # Ray collects every 10 s


class Exported(NamedTuple):
    """One gauge. A metric is shown in Prometheus by a row of LOGGED."""

    gauge: str
    description: str


STEP = Exported("distseg_step", "Optimiser steps done")
MAX_STEPS = Exported("distseg_max_steps", "Optimiser steps that the run is to do")
STEP_TIME = Exported(
    "distseg_step_seconds", "Seconds per optimiser step, evaluations left out, since it was last logged"
)
MIOU_WORST = Exported(
    "distseg_miou_worst", "mIoU of the worst condition, over the classes that have truth in every condition"
)
CONDITION_MIOU = Exported("distseg_condition_miou", "mIoU of each condition in the last evaluation")
LOGGED = {  # a metric as it is logged -> its gauge, which has the same value
    metric_names.TRAIN_LOSS: Exported("distseg_loss", "Training loss of the global batch"),
    metric_names.LEARNING_RATE: Exported("distseg_learning_rate", "Learning rate"),
    metric_names.IMAGES_PER_S: Exported(
        "distseg_images_per_second", "Images per second of all workers together, evaluations left out"
    ),
    metric_names.DATA_WAIT_FRACTION: Exported(
        "distseg_data_wait_ratio", "Fraction of the time that rank 0 waited for data"
    ),
    metric_names.MIOU: Exported("distseg_miou", "mIoU over all images of the last evaluation"),
}
DESCRIPTIONS = dict([STEP, MAX_STEPS, STEP_TIME, *LOGGED.values(), MIOU_WORST, CONDITION_MIOU])
_OF_CONDITIONS = (MIOU_WORST.gauge, CONDITION_MIOU.gauge)  # they have the tag `condition`

Values = dict[str, dict[str, float]]  # gauge -> condition, "" where the gauge has no such tag -> value


def values_of(step: int, metrics: Mapping[str, float], *, worst_condition: str, config: RunConfig) -> Values:
    """The gauges' values after these metrics were logged at a step; gauges that they do not concern are left out."""
    values: Values = {STEP.gauge: {"": float(step)}, MAX_STEPS.gauge: {"": float(config.optim.max_steps)}}
    values |= {LOGGED[name].gauge: {"": value} for name, value in metrics.items() if name in LOGGED}
    if (images_per_s := metrics.get(metric_names.IMAGES_PER_S, 0.0)) > 0:
        values[STEP_TIME.gauge] = {"": config.data.batch_size / images_per_s}
    if worst_condition and metric_names.MIOU_WORST in metrics:
        values[MIOU_WORST.gauge] = {worst_condition: metrics[metric_names.MIOU_WORST]}
    conditions = {name: metric_names.condition_of(name) for name in metrics}
    of_conditions = {condition: metrics[name] for name, condition in conditions.items() if condition is not None}
    return values | ({CONDITION_MIOU.gauge: of_conditions} if of_conditions else {})


class Exporter:
    """Keeps a run's newest values exported until it is closed. Never raises: the first failure is logged as a warning
    and ends the export."""

    def __init__(self, config: RunConfig, run_name: str, repeat_s: float = REPEAT_S) -> None:
        self._config, self._repeat_s = config, repeat_s
        self._tags = {"run": run_name, "experiment": config.tracking.experiment}
        self._gauges: dict[str, Gauge] = {}
        self._values: Values = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="ray-metrics", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float], worst_condition: str = "") -> None:
        with self._lock:  # a gauge's values are replaced as a whole: the worst condition may have changed
            self._values |= values_of(step, metrics, worst_condition=worst_condition, config=self._config)
        self._export()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=self._repeat_s)

    def _repeat(self) -> None:
        while not self._closed.wait(self._repeat_s):
            self._export()

    def _export(self) -> None:
        if self._closed.is_set():
            return
        try:
            with self._lock:
                for name, values in self._values.items():
                    for condition, value in values.items():
                        tags = {"condition": condition} if name in _OF_CONDITIONS else {}
                        self._gauge(name).set(value, tags=self._tags | tags)
        except Exception as error:  # noqa: BLE001 — monitoring must not stop a training
            self._closed.set()
            log.warning("metrics for Prometheus are no longer exported: %r", error)

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            tag_keys = (*self._tags, "condition") if name in _OF_CONDITIONS else tuple(self._tags)
            self._gauges[name] = Gauge(name, DESCRIPTIONS[name], tag_keys=tag_keys)
        return self._gauges[name]
