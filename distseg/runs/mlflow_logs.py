"""The way of metrics and pictures from a reporter to MLflow: queues whose threads send, of which no step waits.

A worker of Ray has none of its own: to import MLflow takes two seconds of a core, in which it could train. It hands
over to the process that drives the training, which has imported it.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from distseg import tracking
from distseg.config import RunConfig
from distseg.errors import StorageError, TrackingError
from distseg.runs.run import Run
from distseg.tracking import MetricRecord

log = logging.getLogger(__name__)


class Logs(Protocol):
    """Where a reporter's metrics and pictures go on their way to MLflow. Nothing but `close` waits, nothing raises."""

    def metrics(self, records: Sequence[MetricRecord]) -> None: ...

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None: ...

    def close(self) -> "Left | None":
        """What is left behind; None: that is not known."""


class Left(NamedTuple):
    """What MLflow did not get: metrics are in the journal, pictures of the best and newest in the checkpoints."""

    num_records: int
    has_pictures: bool


class NoLogs:
    """Of a run that MLflow does not track."""

    def metrics(self, records: Sequence[MetricRecord]) -> None:
        pass

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        pass

    def close(self) -> Left:
        return Left(0, False)


class MlflowLogs:
    """Sends from threads of this process, to the run of the MLflow server, which is created if it does not exist."""

    def __init__(self, config: RunConfig, run: Run) -> None:
        self._config, self._run = config, run
        self._is_another = False  # the MLflow run is not the one that got the first records: it was deleted
        self._opening = threading.Lock()  # held while the MLflow run is created: two threads must not create two
        uri, known = run.tracking_uri, run.problem
        self._metric_log = tracking.MetricLog(uri, self._open_run, earlier=[], known_problem=known)
        self._picture_log = tracking.PictureLog(uri, self._open_run, known_problem=known)

    def _open_run(self, afresh: bool = False) -> str:
        """The id of the MLflow run. `afresh`: ask the server for it, even if an id is known."""
        with self._opening:
            if afresh or not self._run.run_id:
                known, self._run.run_id = self._run.run_id, self._run.find_or_create(self._config)
                self._is_another = self._is_another or known not in ("", self._run.run_id)
            return self._run.run_id

    def metrics(self, records: Sequence[MetricRecord]) -> None:
        for record in records:
            self._metric_log.add(record)

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        self._picture_log.log(step, pictures)

    def close(self) -> Left:
        """Sends waiting metrics for at most tracking.CLOSE_WAIT_S, and if all arrived, pictures for as long again."""
        unsent = self._metric_log.close()
        step = self._picture_log.close(timeout_s=0.0 if unsent else tracking.CLOSE_WAIT_S)
        if self._is_another:
            return Left(max(1, len(unsent)), True)
        return Left(len(unsent), step is not None)


def logs_of(config: RunConfig, run: Run) -> MlflowLogs | NoLogs:
    return MlflowLogs(config, run) if run.is_tracked else NoLogs()


def close_logs(run: Run, logs: Logs, *, got_all: bool) -> None:
    """Closes logs to which a reporter of another process has handed over.

    If that has noted its end in the journal, and all arrived here (`got_all`), what was sent is noted there instead.
    """
    left = logs.close()
    if left is not None and got_all:
        note_end(run, left, instead=True)


def note_end(run: Run, left: Left, *, instead: bool = False) -> None:
    """In the journal; `instead`: of another note, if there is one. If it fails, all is sent once more: a warning."""
    try:
        if not instead or tracking.read_journal_end(run.uri) is not None:
            tracking.close_journal(run.uri, run.tracking_uri, run.run_id, *left)
    except (StorageError, TrackingError) as error:
        log.warning("%s", error)
