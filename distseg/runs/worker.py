"""One rank of a training: where it reports to, and, without Ray, the training itself."""

import json
import logging
import os
import threading
from typing import Any

import torch.distributed as dist

from distseg import evaluation, storage, tracking
from distseg.config import RunConfig, check_divides
from distseg.errors import ResourceError, StorageError
from distseg.evaluation import World, torchrun_world
from distseg.runs.finalize import Outcome, finalize
from distseg.runs.provenance import ENVIRONMENT_FILE, environment
from distseg.runs.run import ProgressCallback, Run, check_run, fit_run, load_resume_checkpoint, with_absolute_paths
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class RunReporter:
    """fit's Report on rank 0: metrics to MLflow and to whoever watches, checkpoints into the run's directory."""

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
        self._opening = threading.Lock()  # two threads must not create two runs
        if run.is_tracked:
            uri, known_problem = run.tracking_uri, run.problem
            self.metric_log = tracking.MetricLog(uri, self._open_run, earlier=records, known_problem=known_problem)
            self.picture_log = tracking.PictureLog(uri, self._open_run, known_problem=known_problem)
        if saved is not None:
            self.pictures(saved.step, evaluation.overlay_pictures(saved.evaluation))  # unless MLflow has them

    def _open_run(self, afresh: bool = False) -> str:
        """The MLflow run's id, as it is known; `afresh`: as the server has it now, which may be another by then."""
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
        """Writes the checkpoint and removes what is neither the newest nor one of the best two."""
        assert saved is not None
        checkpoint.save(self.run.uri, saved)
        checkpoint.prune(self.run.uri)
        self.journal.upload()

    def close(self) -> None:
        """Sends what it can within tracking's CLOSE_WAIT_S; what MLflow does not get then is in the journal.

        Pictures are given as long again, if the metrics have arrived; those left are in the checkpoints.
        """
        unsent, pictures_of = [], None
        if self.metric_log is not None and self.picture_log is not None:
            unsent = self.metric_log.close()
            pictures_of = self.picture_log.close(timeout_s=0.0 if unsent else tracking.CLOSE_WAIT_S)
        self.journal.close()
        place = (self.run.tracking_uri, self.run.run_id)
        try:
            tracking.close_journal(self.run.uri, *place, len(unsent), has_pictures_left=pictures_of is not None)
        except StorageError as error:
            log.warning("%s", error)


def train_without_ray(
    config: RunConfig, *, resume: str | None = None, show: ProgressCallback | None = None
) -> Outcome | None:
    """One rank of a training without Ray, alone or as torchrun's environment says. The outcome on rank 0, else None."""
    check_divides(config.data.batch_size, [int(os.environ.get("WORLD_SIZE", 1))], config.optim.accumulate_steps)
    config = with_absolute_paths(config)
    manifest = check_run(config)
    world = torchrun_world()
    if config.scaling.gpu and world.device.type != "cuda":
        raise ResourceError("scaling.gpu = True: torch sees no GPU on this machine; give False, or use another machine")
    run = agreed_run(config, resume, world)
    saved = load_resume_checkpoint(run, config, manifest)
    report: RunReporter | NullReporter = NullReporter()
    if world.rank == 0:
        run.open(config, manifest, saved)
        report = RunReporter(config, run, saved, show)
    status = "FAILED"
    try:
        fit_run(config, world, report, resume=saved, run_id=run.run_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        report.close()
        outcome = finalize(run, status) if world.rank == 0 else None
    return outcome


def agreed_run(config: RunConfig, resume: str | None, world: World) -> Run:
    """The run that --resume names, or a new one; its name is rank 0's on every rank."""
    run = [Run.resume(resume, config) if resume else Run.new(config)]
    if world.size > 1:
        dist.broadcast_object_list(run, src=0)
    return run[0]


class NullReporter:
    """fit's Report on every rank but 0, which only keeps step."""

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
