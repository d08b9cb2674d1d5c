"""Where the training loop reports to: rank 0 to the run's directory and towards MLflow, the other ranks to nowhere."""

import json
from typing import Any

from distseg import evaluation, storage, tracking
from distseg.config import RunConfig
from distseg.runs.mlflow_logs import Logs, logs_of, note_end
from distseg.runs.provenance import ENVIRONMENT_FILE, environment
from distseg.runs.run import ProgressCallback, Run
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint


class RunReporter:
    """Rank 0's reporter: metrics and pictures to MLflow and the journal, checkpoints into the run's directory.

    `saved`: the checkpoint that the run goes on from. `show`: is called with each record too. `logs`: by default those
    that send from this process.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Run,
        saved: Checkpoint | None,
        show: ProgressCallback | None = None,
        logs: Logs | None = None,
    ) -> None:
        self.config, self.run, self.show = config, run, show
        about = json.dumps(environment(run.job_id), indent=1)
        storage.write_bytes(storage.join(run.uri, ENVIRONMENT_FILE), about.encode())
        tracking.reopen_journal(run.uri)
        known = tracking.read_journal(run.uri, run.mlflow_name)
        records = tracking.without_repeats([*known, *(saved.records if saved else [])])
        self.journal = tracking.Journal(run.uri, run.mlflow_name)
        self.journal.keep(records[len(known) :])
        self.logs = logs_of(config, run) if logs is None else logs
        self.logs.metrics(records)
        if saved is not None:
            self.pictures(saved.step, evaluation.overlay_pictures(saved.evaluation))  # those that MLflow lacks

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        self.logs.metrics([self.journal.append(step, metrics)])
        if self.show is not None:
            self.show(step, metrics, worst_condition)

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None:
        if pictures:
            self.logs.pictures(step, pictures)

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
        """Closes the logs, then uploads what the journal has left, for at most its UPLOAD_WAIT_S, and notes its end."""
        left = self.logs.close()
        self.journal.close()
        if left is not None:
            note_end(self.run, left)


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
