"""Metrics on their way to MLflow, and what is kept of them until they are there.

Metrics go through a queue and a thread: no step of training waits for the server. What the server has not confirmed
travels with each checkpoint, is sent again after a restart (each (metric, step) once), and what is left at the end is
written to `<run_uri>/journal/` as JSON lines.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distseg import storage
from distseg.errors import first_line
from distseg.tracking.client import connect, failures
from distseg.tracking.runs import METRICS_PER_CALL

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

BATCH_RECORDS = 50  # records of a few metrics each: below the metrics that one call may carry
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0

Record = dict[str, Any]  # {"step": int, "time_ms": int, "metrics": {name: float}}


class MetricLog:
    """Sends metrics in batches from a thread, in order, each (metric, step) once; never blocks, never raises.

    `open_run` is called when the first record is due: it returns the run's id and may raise TrackingError, in which
    case it is called again later. `earlier` are records of a previous process that may or may not have been sent.
    What the run has already, from a process that died, is never sent again.
    """

    def __init__(self, uri: str, open_run: Callable[[], str], *, earlier: list[Record]) -> None:
        self._uri, self._open_run = uri, open_run
        self._queue: deque[Record] = deque(earlier)
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._logged_steps: dict[str, set[int]] = {}
        self._run_id = ""
        self._thread = threading.Thread(target=self._send_all, name="metric-log", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        record = {"step": step, "time_ms": int(time.time() * 1000), "metrics": dict(metrics)}
        with self._changed:
            self._queue.append(record)
            self._changed.notify()

    def pending(self) -> list[Record]:
        """Records the server has not confirmed, oldest first."""
        with self._changed:
            return list(self._queue)

    def close(self, timeout_s: float = 30.0) -> list[Record]:
        """Sends what it can within `timeout_s` and returns what is left."""
        with self._changed:
            self._closing_at = time.monotonic() + timeout_s
            self._changed.notify()
        self._thread.join(timeout_s + 1)
        return self.pending()

    def _send_all(self) -> None:
        retry_s = FIRST_RETRY_S
        while (batch := self._next_batch()) is not None:
            try:
                self._send(batch)
            except failures() as error:
                if retry_s < LONGEST_RETRY_S:  # a few times is enough
                    log.warning("metrics wait for the MLflow server: %s", first_line(error))
                if not self._wait(retry_s):
                    return
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            with self._changed:
                for _ in batch:
                    self._queue.popleft()

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
        from mlflow.entities import Metric

        if not self._run_id:
            self._run_id = self._open_run()
        client = connect(self._uri)
        fresh: dict[tuple[str, int], Metric] = {}
        for record in batch:
            for name, value in record["metrics"].items():
                if record["step"] not in self._steps_logged(client, name):
                    at = (name, record["step"])
                    fresh.setdefault(at, Metric(name, round(value, 6), record["time_ms"], record["step"]))
        metrics = list(fresh.values())
        for start in range(0, len(metrics), METRICS_PER_CALL):
            client.log_batch(self._run_id, metrics=metrics[start : start + METRICS_PER_CALL])
        for name, step in fresh:
            self._logged_steps[name].add(step)

    def _steps_logged(self, client: "MlflowClient", name: str) -> set[int]:
        """Steps done again after a crash, or sent just before it, are not to be logged twice."""
        if name not in self._logged_steps:
            history = client.get_metric_history(self._run_id, name)
            self._logged_steps[name] = {metric.step for metric in history}
        return self._logged_steps[name]


def write_journal(run_uri: str, records: list[Record]) -> str:
    """Keeps unsent records as the run's next numbered journal segment (JSON lines). Returns its URI."""
    folder = storage.join(run_uri, "journal")
    number = max((int(Path(entry.uri).stem) for entry in storage.list_files(folder)), default=0) + 1
    uri = storage.join(folder, f"{number:06d}.jsonl")
    storage.write_bytes(uri, "".join(json.dumps(record) + "\n" for record in records).encode())
    return uri


def read_journal(run_uri: str) -> list[Record]:
    """All records that earlier processes could not send, oldest first."""
    records = []
    for entry in storage.list_files(storage.join(run_uri, "journal")):
        records += [json.loads(line) for line in storage.read_bytes(entry.uri).splitlines() if line.strip()]
    return records


def replace_journal(run_uri: str, records: list[Record]) -> None:
    """Makes `records` the whole journal. What was there is removed once they are written."""
    stale = [entry.uri for entry in storage.list_files(storage.join(run_uri, "journal"))]
    if records:
        write_journal(run_uri, records)
    for uri in stale:
        storage.delete(uri)
