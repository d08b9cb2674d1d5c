"""One training on a Ray cluster: configuration -> Ray Train's TorchTrainer -> outcome. The driver's side.

Every worker of the group is one rank (worker.py). Rank 0 hands its checkpoints to Ray Train, which uploads them to
`<checkpoint.uri>/<run name>`, keeps the best two by checkpoint.best_by and the newest, and replaces lost workers, or
goes on with fewer if `scaling.min_workers` allows it. The new group goes on from the newest undamaged checkpoint.
Errors that a restart would only repeat stop the run at once.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, LoggingConfig, TrainingFailedError, UserCallback

from distseg import stopping, storage, tracking
from distseg.config import RunConfig, to_dict
from distseg.data.shards import Manifest
from distseg.errors import TrainingError
from distseg.orchestration import cluster, compat, environment, failures, remote_files, watcher
from distseg.orchestration.trainer import LeanTorchTrainer, OneAddressConfig
from distseg.orchestration.worker import train_rank
from distseg.runs import (
    TRAINS_IT,
    Outcome,
    ProgressCallback,
    Run,
    begin_to_end,
    check_resume,
    close_early,
    close_logs,
    end_run,
    leave_run,
    logs_of,
    stop_notice,
    taken,
    with_absolute_paths,
)
from distseg.training import check_run, checkpoint
from distseg.training.checkpoint import ResumePoint

RESIZE_INTERVAL_S = 300.0  # taking in a machine that comes back is a restart, so not at once (Ray Train: 60)
_OPENING = "OPENING"  # a status within this module: an error then leaves nothing to end
COLLECTIVE_SLACK_S = 60.0  # on top of data.deadline_s: a rank may wait that long for a store


def train(
    config: RunConfig,
    *,
    resume: str | None = None,
    show: ProgressCallback | None = None,
    tags: Mapping[str, str] | None = None,
    callbacks: Sequence[UserCallback] = (),
    job: str = "",
    hands_workers_on: bool = False,
) -> Outcome | None:
    """Trains on the Ray cluster of this process (RAY_ADDRESS, a running one, or one started here).

    `tags` are added to the MLflow run. `callbacks` hear what rank 0 reports: step and scores of each checkpoint. `job`
    is the `job_id` of the process that began it all, by default this one. Another one is a search's, whose trial this
    is: then None is returned, and the search ends the run (`finalize_run`).

    `hands_workers_on`: this process may train once more, and that training may have the workers (kept_workers.py).

    All that can be known to fail is checked before anything is created. Raises the errors of a training, and
    ResourceError if the cluster can never hold what is asked.
    """
    config = with_absolute_paths(config)
    remote_files.check_name("checkpoint.uri", config.checkpoint.uri)
    with stopping.handled():
        manifest = check_run(config)
        run = Run.resume(resume, config) if resume else Run.new(config)
        run.tags |= tags or {}
        check_resume(run, config, manifest)
        storage.check_writable(run.uri.rpartition("/")[0])
        if config.scaling.min_workers:
            environment.set_defaults(environment.ELASTIC)
        if run.is_tracked:
            tracking.begin_to_connect(run.tracking_uri)
        cluster.join(run.uri)
        cluster.check_resources(config)
        cluster.check_reachable(run)
        run.job_id = job or cluster.job_id()
        with taken(run.uri, TRAINS_IT, owner=job or compat.submitted_job_id()):
            saved = check_resume(run, config, manifest)  # again: until now another process may have worked on it
            return _train(
                config,
                run,
                manifest,
                saved,
                show,
                callbacks,
                is_alone=not job,
                hands_workers_on=hands_workers_on,
            )


def _train(
    config: RunConfig,
    run: Run,
    manifest: Manifest,
    saved: ResumePoint | None,
    show: ProgressCallback | None,
    callbacks: Sequence[UserCallback],
    *,
    is_alone: bool,
    hands_workers_on: bool,
) -> Outcome | None:
    """`is_alone`: not a trial of a search, which ends the run of a trial that has done all its steps."""
    outcome, status, stop = None, "", None
    try:
        with watcher.watching(
            functools.partial(cluster.shortage, config), _shown(config, run, show, ends=is_alone)
        ) as watch:
            trainer = _trainer(config, run, watch.channel, callbacks)
            trainer.search_frees_place, trainer.hands_workers_on = not is_alone, hands_workers_on
            with stopping.gently(stop_notice(run), on_request=functools.partial(_end, run, watch, trainer)):
                status = _OPENING
                run.open(config, manifest, saved)
                status = "FAILED"
                watch.logs = logs_of(config, run)
                if run.is_resumed:
                    remote_files.forget_if_broken(run.uri)
                with failures.closing_if_ray_dies(run) if is_alone else contextlib.nullcontext():
                    _fit(trainer)
                status = "FINISHED"
    except stopping.StoppedError as error:
        if status:
            stop, status = error, "FINISHED" if status == "FINISHED" and not watch.was_stopped else "KILLED"
        raise
    finally:
        if status not in ("", _OPENING):
            close = functools.partial(close_logs, run, watch.logs, got_all=watch.has_heard_all)
            if status == "FINISHED" and not is_alone:
                leave_run(run, close)
            else:
                outcome = end_run(run, status, close, at_once=stop is not None and stop.at_once)
    return outcome


def _shown(config: RunConfig, run: Run, show: ProgressCallback | None, *, ends: bool) -> ProgressCallback:
    """`show`, which with the last step begins to end the run: its workers take seconds to save and to close."""
    has_begun = threading.Event()

    def shown(step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
        if ends and step >= config.optim.max_steps and not has_begun.is_set():
            has_begun.set()
            begin_to_end(run, config)
        if show is not None:
            show(step, metrics, worst_condition)

    return shown


def _fit(trainer: LeanTorchTrainer) -> None:
    """Raises an error of distseg, or StoppedError."""
    if stopping.is_requested():
        raise stopping.stopped()
    try:
        trainer.fit()
    except KeyboardInterrupt:
        trainer.abort()  # nobody waits for its workers any more
        raise
    except (TrainingFailedError, RayError) as error:  # RayError: the controller died, or could not begin
        if stopping.is_requested():  # `_end` has aborted it, or the workers were stopped from outside, too
            raise stopping.stopped() from error
        if isinstance(error, TrainingFailedError):
            raise failures.error_of(error) from error
        raise TrainingError(f"training failed: {failures.last_line(error)}") from error


def _end(run: Run, watch: watcher.Watcher, trainer: LeanTorchTrainer) -> None:
    """After a signal, in a thread: workers save and end. If there are none yet, the training is aborted."""
    watch.stop_workers()
    close_early(run)
    end_s = time.monotonic() + stopping.PATIENCE_S
    while not (watch.is_training or watch.done.is_set() or trainer.abort()) and time.monotonic() < end_s:
        time.sleep(0.1)


def _trainer(
    config: RunConfig, run: Run, channel: watcher.Channel, callbacks: Sequence[UserCallback]
) -> LeanTorchTrainer:
    scaling = config.scaling
    options = {"config": to_dict(config), "run": {**vars(run)}, "channel": channel}
    asked: Any = {  # Any, since type checkers see Ray Train's first version
        "num_workers": (scaling.min_workers, scaling.num_workers) if scaling.min_workers else scaling.num_workers,
        "use_gpu": scaling.gpu,
        "resources_per_worker": {"CPU": scaling.cpus_per_worker, **({"GPU": 1} if scaling.gpu else {})},
        "elastic_resize_monitor_interval_s": RESIZE_INTERVAL_S,
    }
    settings: Any = {
        "name": run.name,
        "storage_path": remote_files.path_in(run.uri.rpartition("/")[0]),
        "storage_filesystem": remote_files.file_system(run.uri),
        "failure_config": FailureConfig(max_failures=scaling.max_failures),
        "checkpoint_config": ray.train.CheckpointConfig(
            num_to_keep=checkpoint.NUM_BEST_KEPT,
            checkpoint_score_attribute=config.checkpoint.best_by,
            checkpoint_score_order="max",
        ),
        "callbacks": [failures.FailureCallback(channel), failures.GroupCallback(channel), *callbacks],
        "logging_config": LoggingConfig(log_level="WARNING"),
    }
    return LeanTorchTrainer(
        train_rank,
        train_loop_config=options,
        scaling_config=cast(Any, ray.train.ScalingConfig(**asked)),
        torch_config=OneAddressConfig(timeout_s=int(config.data.deadline_s + COLLECTIVE_SLACK_S)),
        run_config=cast(Any, ray.train.RunConfig(**settings)),
    )
