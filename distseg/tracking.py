"""The only importer of mlflow. One MLflow run per training, whatever happens to processes and servers.

The driver opens the run and closes it; rank 0 sends metrics through a `MetricLog`, whose thread does the waiting, so a
slow or dead server never holds training back. What the server has not confirmed is `pending`: it travels in every
checkpoint, is sent again after a restart (each (metric, step) once), and what is left at the end is written to
`<run_uri>/journal/` as JSON lines.

A run is found by its tag `distseg.run` (its name, unique), so it can be opened late when the server was down at first.
"""

import json
import logging
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distseg import storage
from distseg.config import RunConfig, dotted_fields, to_dict
from distseg.errors import TrackingError, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

OFF = "off"
RUN_TAG = "distseg.run"
DESCRIPTION_TAG = "mlflow.note.content"
BATCH_RECORDS = 50  # records of a few metrics each: below the 1,000 metrics that one log_batch may carry
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
_METRICS_PER_CALL = 1000

# The fields that tell runs apart in the MLflow table; the whole configuration is an artifact.
PARAMS = (
    "model.name",
    "model.backbone",
    "model.bins",
    "model.se_ratio",
    "loss.aux_weight",
    "optim.name",
    "optim.lr",
    "optim.max_steps",
    "data.batch_size",
    "data.train_conditions",
    "seed",
)


class Point(NamedTuple):
    """One value of a metric."""

    step: int
    value: float
    time_s: float  # since the epoch


History = Mapping[str, Sequence[Point]]  # of each metric, by step
Record = dict[str, Any]  # {"step": int, "time_ms": int, "metrics": {name: float}}


def resolve_uri(uri: str) -> str:
    """tracking.uri as given, else MLFLOW_TRACKING_URI, else SQLite in ./runs (absolute, its directory made)."""
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if chosen:
        return chosen
    folder = Path("runs").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def is_local_file(uri: str) -> bool:
    """Whether only processes of one machine can reach it."""
    return uri.startswith("sqlite:")


def _client(uri: str) -> "MlflowClient":
    # Short retries: waiting is the caller's thread's business. Read by mlflow at each call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


def _failures() -> tuple[type[Exception], ...]:
    """What a server that is down, slow, full or refusing makes the client, or a call of ours around it, raise."""
    import requests
    from mlflow.exceptions import MlflowException

    return TrackingError, MlflowException, requests.RequestException, OSError


def open_run(uri: str, experiment: str, run_name: str, config: RunConfig, tags: Mapping[str, str]) -> str:
    """Creates the run with its tags, params and config/resolved.json, or finds it again. Returns its id.

    Raises TrackingError if the server does not answer or refuses.
    """
    client = _client(uri)
    try:
        run_id = _find_run(client, experiment, run_name)
        if run_id is None:
            all_tags = {"stage": "train", **tags, RUN_TAG: run_name}
            run = client.create_run(_experiment_id(client, uri, experiment), run_name=run_name, tags=all_tags)
            run_id = str(run.info.run_id)
            fields = dotted_fields(config)
            _log_params(client, run_id, {name: _short(fields[name]) for name in PARAMS})
            client.log_dict(run_id, to_dict(config), "config/resolved.json")
        else:
            client.update_run(run_id, status="RUNNING")
        return run_id
    except _failures() as error:
        raise TrackingError(f"MLflow at {_shown(uri)}: {first_line(error)}") from None


def _shown(uri: str) -> str:
    """The URI without a password."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if rest else uri


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])


def _experiment_id(client: "MlflowClient", uri: str, experiment: str) -> str:
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return str(found.experiment_id)
    # A server knows where artifacts go; for a file we say so, or they would land in the working directory.
    artifacts = None
    if is_local_file(uri):
        artifacts = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / experiment).as_uri()
    return str(client.create_experiment(experiment, artifact_location=artifacts))


def find_run(uri: str, experiment: str, run_name: str) -> str:
    """The id of a run by its name. Raises TrackingError if the server does not answer or has no such run."""
    try:
        run_id = _find_run(_client(uri), experiment, run_name)
    except _failures() as error:
        raise TrackingError(f"MLflow at {_shown(uri)}: {first_line(error)}") from None
    if run_id is None:
        raise TrackingError(f"MLflow at {_shown(uri)} has no run named {run_name} in experiment {experiment}")
    return run_id


def _find_run(client: "MlflowClient", experiment: str, run_name: str) -> str | None:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = client.search_runs([found.experiment_id], f"tags.`{RUN_TAG}` = '{run_name}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


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
            except _failures() as error:
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
        client = _client(self._uri)
        fresh: dict[tuple[str, int], Metric] = {}
        for record in batch:
            for name, value in record["metrics"].items():
                if record["step"] not in self._steps_logged(client, name):
                    at = (name, record["step"])
                    fresh.setdefault(at, Metric(name, round(value, 6), record["time_ms"], record["step"]))
        metrics = list(fresh.values())
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
        for name, step in fresh:
            self._logged_steps[name].add(step)

    def _steps_logged(self, client: "MlflowClient", name: str) -> set[int]:
        """Steps done again after a crash, or sent just before it, are not to be logged twice."""
        if name not in self._logged_steps:
            history = client.get_metric_history(self._run_id, name)
            self._logged_steps[name] = {metric.step for metric in history}
        return self._logged_steps[name]


def read_history(uri: str, run_id: str, names: Sequence[str]) -> dict[str, list[Point]]:
    """What the server has of these metrics, by step. Raises TrackingError if it does not answer or refuses."""
    client = _client(uri)
    try:
        found = {name: client.get_metric_history(run_id, name) for name in names}
    except _failures() as error:
        raise TrackingError(f"MLflow at {_shown(uri)}: {first_line(error)}") from None
    return {
        name: sorted(Point(metric.step, metric.value, metric.timestamp / 1000) for metric in metrics)
        for name, metrics in found.items()
    }


def finish_run(uri: str, run_id: str, status: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
    """Logs what is left to be looked at and the final tags, and closes the run as FINISHED, FAILED or KILLED.

    Raises TrackingError if the server does not answer or refuses.
    """
    client = _client(uri)
    try:
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
        if files:
            with tempfile.TemporaryDirectory() as folder:
                for name, data in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                client.log_artifacts(run_id, folder)
        client.set_terminated(run_id, status)
    except _failures() as error:
        raise TrackingError(f"MLflow at {_shown(uri)}: {first_line(error)}") from None


def finish_search(
    uri: str,
    run_id: str,
    status: str,
    metrics: Mapping[str, float],
    curve: Sequence[tuple[int, float]],
    texts: Mapping[str, str],
) -> None:
    """Logs what came of a search, and closes its run. `curve`: (optimiser steps spent, best objective until then).

    Raises TrackingError if the server does not answer or refuses.
    """
    from mlflow.entities import Metric

    client = _client(uri)
    now_ms = int(time.time() * 1000)
    try:
        known = {metric.step for metric in client.get_metric_history(run_id, "search/best_so_far")}
        points = [Metric("search/best_so_far", value, now_ms, steps) for steps, value in curve if steps not in known]
        points += [Metric(name, value, now_ms, 0) for name, value in metrics.items()]
        for start in range(0, len(points), _METRICS_PER_CALL):
            client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_CALL])
        for name, text in texts.items():
            client.log_text(run_id, text, name)
        client.set_terminated(run_id, status)
    except _failures() as error:
        raise TrackingError(f"MLflow at {_shown(uri)}: {first_line(error)}") from None


def run_link(uri: str, run_id: str, experiment: str) -> str:
    """Where a browser shows the run: a URL, or for SQLite the command that serves it."""
    if is_local_file(uri):
        return f"mlflow ui --backend-store-uri {uri}    (run {run_id})"
    try:
        found = _client(uri).get_experiment_by_name(experiment)
    except _failures():
        return f"{_shown(uri)}    (it does not answer now; run {run_id})"
    experiment_id = found.experiment_id if found is not None else "0"
    return f"{_shown(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


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
