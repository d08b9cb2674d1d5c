"""Metrics as they are kept and as they are read: records of one step each, and the history of one metric."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

MetricRecord = dict[str, Any]  # {"step": int, "time_ms": int since the epoch, "metrics": {name: float}}


class MetricPoint(NamedTuple):
    """One value of a metric."""

    step: int
    value: float
    time_s: float  # since the epoch


History = Mapping[str, Sequence[MetricPoint]]  # metric -> its values, by step


def without_repeats(records: Iterable[MetricRecord]) -> list[MetricRecord]:
    """The records with each (metric, step) once: the first one counts."""
    seen: set[tuple[str, int]] = set()
    kept = []
    for record in records:
        fresh = {name: value for name, value in record["metrics"].items() if (name, record["step"]) not in seen}
        if fresh:
            seen.update((name, record["step"]) for name in fresh)
            kept.append(record | {"metrics": fresh})
    return kept


def history_of(records: Iterable[MetricRecord], names: Sequence[str]) -> History:
    """The values of the metrics `names`, by step. A metric that was never measured is left out."""
    history: dict[str, list[MetricPoint]] = {}
    for record in records:
        for name in record["metrics"].keys() & set(names):
            point = MetricPoint(record["step"], record["metrics"][name], record["time_ms"] / 1000)
            history.setdefault(name, []).append(point)
    return {name: sorted(history[name]) for name in names if name in history}
