"""Where the training loop reports to: rank 0 to MLflow and the run's directory, the other ranks to nowhere."""

import json
import logging
import threading
from typing import Any

from distseg import evaluation, storage, tracking
from distseg.config import RunConfig
from distseg.errors import StorageError
from distseg.runs.provenance import ENVIRONMENT_FILE, environment
from distseg.runs.run import ProgressCallback, Run
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class RunReporter:
    """Rank 0's reporter: metrics and pictures to MLflow and the journal, checkpoints into the run's directory.

    `saved`: the checkpoint that the run goes on from. `show`: is called with each record too.
    """

    def __init__(
        self, config: RunConfig, run: Run, saved: Checkpoint | None, show: ProgressCallback | None = None
    ) -> None:
        self.config, self.run, self.show = config, run, show
        about = json.dumps(environment(run.job_id), indent=1)
        storage.write_bytes(storage.join(run.uri, ENVIRONMENT_FILE), about.encode())
        tracking.reopen_journal(run.uri)
        known = tracking.read_journal(run.uri, run.mlflow_name)
        records = tracking.without_repeats([*known, *(saved.records if saved else [])])
        self.journal = tracking.Journal(run.uri, run.mlflow_name)
        self.journal.keep(records[len(known) :])
        self.metric_log: tracking.MetricLog | None = None
        self.picture_log: tracking.PictureLog | None = None
        self._opening = threading.Lock()  # held while the MLflow run is created: two threads must not create two
        if run.is_tracked:
            uri, known_problem = run.tracking_uri, run.problem
            self.metric_log = tracking.MetricLog(uri, self._open_run, earlier=records, known_problem=known_problem)
            self.picture_log = tracking.PictureLog(uri, self._open_run, known_problem=known_problem)
        if saved is not None:
            self.pictures(saved.step, evaluation.overlay_pictures(saved.evaluation))  # those that MLflow lacks

    def _open_run(self, afresh: bool = False) -> str:
        """The id of the MLflow run. `afresh`: ask the server for it, even if an id is known."""
        with self._opening:
            if afresh or not self.run.run_id:
                self.run.run_id = self.run.find_or_create(self.config)
            return self.run.run_id

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        record = self.journal.append(step, metrics)
        if self.metric_log is not None:
            self.metric_log.add(record)
        if self.show is not None:
            self.show(step, metrics, worst_condition)

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None:
        if self.picture_log is not None:
            self.picture_log.log(step, pictures)

    def pending_records(self) -> list[dict[str, Any]]:
        return self.journal.waiting()

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        """Writes the checkpoint, and removes all but the newest and the best two."""
        assert saved is not None
        self.run.write_again_if_removed(self.config)
        checkpoint.save(self.run.uri, saved)
        checkpoint.prune(self.run.uri)
        self.journal.upload()

    def close(self) -> None:
        """Sends waiting metrics for at most tracking.CLOSE_WAIT_S, and if all arrived, pictures for as long again; then
        uploads what the journal has left (at most its UPLOAD_WAIT_S), and notes there what was sent.

        What MLflow does not get: metrics are in the journal, pictures of the best and newest in the checkpoints.
        """
        unsent, unsent_pictures_step = [], None
        if self.metric_log is not None and self.picture_log is not None:
            unsent = self.metric_log.close()
            unsent_pictures_step = self.picture_log.close(timeout_s=0.0 if unsent else tracking.CLOSE_WAIT_S)
        self.journal.close()
        place = (self.run.tracking_uri, self.run.run_id)
        try:
            tracking.close_journal(
                self.run.uri, *place, len(unsent), has_pictures_left=unsent_pictures_step is not None
            )
        except StorageError as error:
            log.warning("%s", error)


class NullReporter:
    """The reporter of every other rank. It only takes part in `save`, which all ranks call together."""

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        raise AssertionError("only rank 0 logs")

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None:
        raise AssertionError("only rank 0 sends pictures")

    def pending_records(self) -> list[dict[str, Any]]:
        raise AssertionError("only rank 0 keeps records")

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass
