"""Sends metrics to MLflow, each (metric, step) once. Nothing is lost if that fails: the journal has them too."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from distseg.tracking.client import CLOSE_WAIT_S, as_tracking_error, connect, metric_name, rounded, server_errors
from distseg.tracking.metric_records import MetricRecord
from distseg.tracking.mlflow_runs import METRICS_PER_CALL
from distseg.tracking.send_queue import SendQueue

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH_RECORDS = 50  # of a few metrics each: fewer than METRICS_PER_CALL in all


class Sender:
    """Puts records into an MLflow run with the times they have. What the run has already is not sent again."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._logged_steps: dict[str, set[int]] = {}

    def send(self, records: Sequence[MetricRecord]) -> int:
        """Returns how many values were new. Raises one of `server_errors`; some values may have arrived even then.

        It is harmless to send those again: of rows with equal name, step, time and value MLflow keeps one.
        """
        from mlflow.entities import Metric

        fresh: dict[tuple[str, int], Metric] = {}
        for record in records:
            for name, value in ((metric_name(name), value) for name, value in record["metrics"].items()):
                if record["step"] not in self._steps_logged(name):
                    at = (name, record["step"])
                    fresh.setdefault(at, Metric(name, rounded(value), record["time_ms"], record["step"]))
        metrics = list(fresh.values())
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_CALL])
        for name, step in fresh:
            self._logged_steps[name].add(step)
        return len(metrics)

    def _steps_logged(self, name: str) -> set[int]:
        """What the run has: steps that are repeated after a crash must not be logged twice."""
        if name not in self._logged_steps:
            history = self._client.get_metric_history(self.run_id, name)
            self._logged_steps[name] = {metric.step for metric in history}
        return self._logged_steps[name]


def send_records(uri: str, run_id: str, records: Sequence[MetricRecord]) -> int:
    """Sends the values that the run lacks and returns how many those were. Raises TrackingError."""
    try:
        sender = Sender(connect(uri), run_id)
        starts = range(0, len(records), BATCH_RECORDS)
        return sum(sender.send(records[start : start + BATCH_RECORDS]) for start in starts)
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None


class MetricLog:
    """Sends records in batches from a thread, in order. `add` never waits, and nothing raises.

    `open_run(afresh)` returns the run's id and may raise TrackingError. It is called with False before the first
    record, and with True after each failure, because the server that comes back may be another one.
    `earlier`: the records of earlier processes of this run. `known_problem`: the warning that the user has seen
    already, which is not repeated.
    """

    def __init__(
        self, uri: str, open_run: Callable[[bool], str], *, earlier: Sequence[MetricRecord], known_problem: str = ""
    ) -> None:
        self._uri, self._open_run = uri, open_run
        self._sender: Sender | None = None
        self._has_failed = False
        self._queue = SendQueue(
            uri,
            self._send,
            what="metrics",
            failed=self._fail,
            at_once=BATCH_RECORDS,
            earlier=earlier,
            known_problem=known_problem,
        )

    def add(self, record: MetricRecord) -> None:
        self._queue.add(record)

    def close(self, timeout_s: float = CLOSE_WAIT_S) -> list[MetricRecord]:
        """Sends what it can within `timeout_s` and returns what is left."""
        return self._queue.close(timeout_s)

    def _send(self, batch: Sequence[MetricRecord]) -> None:
        if self._sender is None:
            self._sender = Sender(connect(self._uri), self._open_run(self._has_failed))
        self._sender.send(batch)

    def _fail(self) -> None:
        self._sender, self._has_failed = None, True
