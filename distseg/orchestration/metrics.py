"""What rank 0 of a training tells Prometheus, by the metrics endpoint of its Ray node.

Gauges, tagged `run` and `experiment`; those of one condition also `condition`. Ray puts `ray_` before each name.
Ray forgets a gauge about 20 s after it was set, so all are set again every few seconds for as long as the training
lives: mIoU is there between evaluations, and what has ended is gone.
"""

import logging
import threading
from collections.abc import Mapping

from ray.util.metrics import Gauge

from distseg.config import RunConfig

log = logging.getLogger(__name__)

REPEAT_S = 5.0  # Ray collects every 10 s
STEP, MAX_STEPS, STEP_TIME = "distseg_step", "distseg_max_steps", "distseg_step_seconds"
MIOU_WORST, CONDITION_MIOU = "distseg_miou_worst", "distseg_condition_miou"
MEASURED = {  # as it is logged -> as it is exported
    "train/loss": "distseg_loss",
    "train/lr": "distseg_learning_rate",
    "train/images_per_s": "distseg_images_per_second",
    "train/data_wait_fraction": "distseg_data_wait_ratio",
    "val/mIoU": "distseg_miou",
}
DESCRIPTIONS = {
    STEP: "Optimiser steps done",
    MAX_STEPS: "Optimiser steps that the run is to do",
    STEP_TIME: "Seconds per optimiser step, evaluations left out, since it was last logged",
    "distseg_loss": "Training loss of the global batch",
    "distseg_learning_rate": "Learning rate",
    "distseg_images_per_second": "Images per second of all workers together, evaluations left out",
    "distseg_data_wait_ratio": "Fraction of the time that rank 0 waited for data",
    "distseg_miou": "mIoU over all images of the last evaluation",
    MIOU_WORST: "mIoU of the worst condition, over the classes that have truth in every condition",
    CONDITION_MIOU: "mIoU of each condition in the last evaluation",
}
_OF_CONDITIONS = (MIOU_WORST, CONDITION_MIOU)
_CONDITION_PREFIX = "val/mIoU/"

Values = dict[str, dict[str, float]]  # gauge -> condition, "" where the gauge has no such tag -> value


def values_of(step: int, metrics: Mapping[str, float], *, worst_condition: str, config: RunConfig) -> Values:
    """What the metrics logged at a step make of the gauges; those that they say nothing of are left out."""
    values: Values = {STEP: {"": float(step)}, MAX_STEPS: {"": float(config.optim.max_steps)}}
    values |= {MEASURED[name]: {"": value} for name, value in metrics.items() if name in MEASURED}
    if metrics.get("train/images_per_s", 0.0) > 0:
        values[STEP_TIME] = {"": config.data.batch_size / metrics["train/images_per_s"]}
    if worst_condition and "val/mIoU_worst" in metrics:
        values[MIOU_WORST] = {worst_condition: metrics["val/mIoU_worst"]}
    of_conditions = {
        name.removeprefix(_CONDITION_PREFIX): value
        for name, value in metrics.items()
        if name.startswith(_CONDITION_PREFIX)
    }
    return values | ({CONDITION_MIOU: of_conditions} if of_conditions else {})


class Exporter:
    """Keeps a run's newest values exported until it is closed. Never raises: the first failure is warned of, and ends
    the export."""

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
        with self._lock:  # by gauge: another condition than before may be the worst
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
        except Exception as error:  # noqa: BLE001 — no picture of a training may stop it
            self._closed.set()
            log.warning("metrics for Prometheus are no longer exported: %r", error)

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            tag_keys = (*self._tags, "condition") if name in _OF_CONDITIONS else tuple(self._tags)
            self._gauges[name] = Gauge(name, DESCRIPTIONS[name], tag_keys=tag_keys)
        return self._gauges[name]
