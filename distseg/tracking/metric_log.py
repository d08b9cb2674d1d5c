"""Metrics on their way to MLflow.

They go through a queue and a thread: no step of training waits for the server. What the server has not confirmed stays
in the queue and is tried again, at most LONGEST_RETRY_S after it has come back. The journal has it too.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from distseg.errors import first_line
from distseg.tracking.client import CLOSE_WAIT_S, as_logged, connect, failures, named
from distseg.tracking.journal import Record
from distseg.tracking.runs import METRICS_PER_CALL

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

BATCH_RECORDS = 50  # records of a few metrics each: below the metrics that one call may carry
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
LAST_TRIES = 3  # at the end, a second apart: a server that refuses them is not waited for any longer


class Sender:
    """Puts records into an MLflow run with their own times, each (metric, step) once, whoever has sent it."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._logged_steps: dict[str, set[int]] = {}

    def send(self, records: Sequence[Record]) -> int:
        """Returns how many values the run did not have. Raises one of `failures`; then some may have arrived.

        To send those again is harmless: MLflow keeps rows once that are equal in name, step, time and value.
        """
        from mlflow.entities import Metric

        fresh: dict[tuple[str, int], Metric] = {}
        for record in records:
            for name, value in record["metrics"].items():
                if record["step"] not in self._steps_logged(name):
                    at = (name, record["step"])
                    fresh.setdefault(at, Metric(name, as_logged(value), record["time_ms"], record["step"]))
        metrics = list(fresh.values())
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_CALL])
        for name, step in fresh:
            self._logged_steps[name].add(step)
        return len(metrics)

    def _steps_logged(self, name: str) -> set[int]:
        """Steps done again after a crash, or sent just before it, are not to be logged twice."""
        if name not in self._logged_steps:
            history = self._client.get_metric_history(self.run_id, name)
            self._logged_steps[name] = {metric.step for metric in history}
        return self._logged_steps[name]


def send_records(uri: str, run_id: str, records: Sequence[Record]) -> int:
    """Sends what the run has not yet; returns how many values that were. Raises TrackingError."""
    try:
        sender = Sender(connect(uri), run_id)
        starts = range(0, len(records), BATCH_RECORDS)
        return sum(sender.send(records[start : start + BATCH_RECORDS]) for start in starts)
    except failures() as error:
        raise named(uri, error) from None


class MetricLog:
    """Sends records in batches from a thread, in order; never blocks, never raises.

    `open_run` returns the run's id and may raise TrackingError. It is called with False when the first record is due,
    and with True after each failure, as a server that comes back may be another. `earlier` are the records of previous
    processes, and `told` is what the user knows to be wrong already.
    """

    def __init__(self, uri: str, open_run: Callable[[bool], str], *, earlier: Sequence[Record], told: str = "") -> None:
        self._uri, self._open_run = uri, open_run
        self._queue: deque[Record] = deque(earlier)
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._sender: Sender | None = None
        self._told = told
        self._has_failed = False
        self._thread = threading.Thread(target=self._send_all, name="metric-log", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        with self._changed:
            self._queue.append(record)
            self._changed.notify()

    def pending(self) -> list[Record]:
        """Records the server has not confirmed, oldest first."""
        with self._changed:
            return list(self._queue)

    def close(self, timeout_s: float = CLOSE_WAIT_S) -> list[Record]:
        """Sends what it can within `timeout_s`, or until LAST_TRIES have failed, and returns what is left."""
        with self._changed:
            self._closing_at = time.monotonic() + timeout_s
            self._changed.notify()
        self._thread.join(timeout_s)
        return self.pending()

    def _send_all(self) -> None:
        retry_s, tries_left = FIRST_RETRY_S, LAST_TRIES
        while (batch := self._next_batch()) is not None:
            try:
                self._send(batch)
            except Exception as error:  # noqa: BLE001 — whatever a broken server makes the client raise
                self._sender, self._has_failed = None, True
                self._tell(error)
                tries_left -= self._closing_at is not None
                if not tries_left or not self._wait(retry_s):
                    return
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            with self._changed:
                for _ in batch:
                    self._queue.popleft()
            if self._told:
                log.info("the MLflow server takes metrics again")
                self._told = ""

    def _tell(self, error: Exception) -> None:
        """Once, until something else is wrong or all is well."""
        text = str(named(self._uri, error)) if isinstance(error, failures()) else first_line(error)
        if text != self._told:
            log.warning("metrics wait: %s", text)
            self._told = text

    def _next_batch(self) -> list[Record] | None:
        """The oldest records, left in the queue until confirmed; None when closed and empty, or out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing_at is not None)
            out_of_time = self._closing_at is not None and time.monotonic() > self._closing_at
            return None if not self._queue or out_of_time else list(self._queue)[:BATCH_RECORDS]

    def _wait(self, seconds: float) -> bool:
        """False when the log is closing and out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing_at is not None, timeout=seconds)
            if self._closing_at is None:
                return True
        time.sleep(min(FIRST_RETRY_S, max(0.0, self._closing_at - time.monotonic())))
        return time.monotonic() < self._closing_at

    def _send(self, batch: list[Record]) -> None:
        if self._sender is None:
            self._sender = Sender(connect(self._uri), self._open_run(self._has_failed))
        self._sender.send(batch)
