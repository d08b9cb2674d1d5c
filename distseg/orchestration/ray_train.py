"""config -> TorchTrainer -> fit: one training over a Ray cluster, with Ray Train V2.

Every worker of the group is one rank. Rank 0 hands checkpoints to Ray Train, which uploads them beside the training to
`<checkpoint.uri>/<run name>`, keeps the best two by val/mIoU and the newest, and replaces lost workers, or goes on with
fewer where `scaling.min_workers` allows it; the new group goes on from the newest undamaged checkpoint. Errors that a
restart would only repeat stop the run at once.
"""

import contextlib
import glob
import json
import logging
import math
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import CheckpointUploadMode, FailureConfig, LoggingConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig
from ray.train.v2._internal.constants import (  # not public, but the only way
    CHECKPOINT_MANAGER_SNAPSHOT_FILENAME,
    ENV_VARS_TO_PROPAGATE,
)
from ray.train.v2._internal.execution.callback import WorkerGroupCallback  # not public either
from ray.util.queue import Empty, Queue

from distseg import storage
from distseg.config import RunConfig, from_dict, to_dict
from distseg.errors import DistsegError, ResourceError, TrainingError, first_line
from distseg.evaluation import World
from distseg.orchestration import cluster
from distseg.orchestration.metrics import Exporter
from distseg.orchestration.trainer import LeanTorchTrainer
from distseg.runs import (
    NullReporter,
    Outcome,
    ProgressCallback,
    Run,
    RunReporter,
    check_run,
    finalize,
    fit_run,
    load_resume_checkpoint,
    with_absolute_paths,
)
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)

CHECKPOINTS_KEPT = checkpoint.NUM_BEST_KEPT
NO_SCORE = -1.0  # of a checkpoint without an evaluation; Ray Train complains of each that has none
SHORTAGE_AFTER_S, SHORTAGE_EVERY_S = 20.0, 300.0  # without workers before that is said, and until it is said again
GROUP_START_TIMEOUT_S = "20"  # then an elastic run tries another number of workers (Ray Train's default: 60)
RESIZE_INTERVAL_S = 300.0  # a machine that comes back is taken in by a restart, so not at once (Ray Train: 60)
STARTING, STARTED = True, False  # said to who watches: workers are waited for, they train. Plain: it imports no more
COLLECTIVE_SLACK_S = 60.0  # on top of data.deadline_s: a rank may wait that long for a store


def train(
    config: RunConfig,
    *,
    resume: str | None = None,
    show: ProgressCallback | None = None,
    tags: Mapping[str, str] | None = None,
    callbacks: Sequence[UserCallback] = (),
    job: str = "",
) -> Outcome:
    """Trains on the Ray cluster of this process (RAY_ADDRESS, a running one, or one started here).

    `tags` are the MLflow run's; `callbacks` hear what rank 0 reports: step and scores of each checkpoint; `job` is
    `job_id` of the process that began it all, by default this one.

    Everything that can be known to fail is checked before anything is created. Raises the errors of `fit`, and
    ResourceError if the cluster can never hold what is asked.
    """
    config = with_absolute_paths(config)
    manifest = check_run(config)
    run = Run.resume(resume, config) if resume else Run.new(config)
    run.tags |= tags or {}
    saved = load_resume_checkpoint(run, config, manifest)
    storage.check_writable(run.uri.rpartition("/")[0])
    if config.scaling.min_workers:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", GROUP_START_TIMEOUT_S)
    cluster.join(run.uri)
    cluster.check_resources(config)
    cluster.check_reachable(run)
    run.job_id = job or cluster.job_id()
    run.open(config, manifest, saved)
    if resume:
        _forget_if_broken(run.uri)
    status = "FAILED"
    try:
        with _watching(config, show) as watcher, _interruptible(), _named_cluster():
            _trainer(config, run, watcher, callbacks).fit()
        status = "FINISHED"
    except TrainingFailedError as error:
        raise _cause(error) from error
    except RayError as error:  # what controls the training died, or could not begin
        raise TrainingError(f"training failed: {_last_line(error)}") from error
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        outcome = finalize(run, status)
    return outcome


@contextlib.contextmanager
def _named_cluster() -> Iterator[None]:
    """RAY_ADDRESS for what Ray Train starts.

    When a controller dies, a helper of Ray Train frees its workers' place. It finds the cluster by RAY_ADDRESS, or
    not at all where a machine has two: then the place of a stopped trial would never be free again.
    """
    given = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    try:
        yield
    finally:
        os.environ.pop("RAY_ADDRESS")
        if given is not None:
            os.environ["RAY_ADDRESS"] = given


def _trainer(config: RunConfig, run: Run, watcher: Queue, callbacks: Sequence[UserCallback]) -> LeanTorchTrainer:
    scaling = config.scaling
    options = {
        "config": to_dict(config),
        "run": {**vars(run)},
        "watcher": watcher,
    }
    asked: Any = {  # Any, since type checkers see Ray Train's first version
        "num_workers": (scaling.min_workers, scaling.num_workers) if scaling.min_workers else scaling.num_workers,
        "use_gpu": scaling.gpu,
        "resources_per_worker": {"CPU": scaling.cpus_per_worker, **({"GPU": 1} if scaling.gpu else {})},
        "elastic_resize_monitor_interval_s": RESIZE_INTERVAL_S,
    }
    settings: Any = {
        "name": run.name,
        "storage_path": run.uri.rpartition("/")[0],
        "failure_config": FailureConfig(max_failures=scaling.max_failures),
        "checkpoint_config": ray.train.CheckpointConfig(
            num_to_keep=CHECKPOINTS_KEPT, checkpoint_score_attribute="val/mIoU", checkpoint_score_order="max"
        ),
        "callbacks": [_Failures(watcher), _Groups(watcher), *callbacks],
        "logging_config": LoggingConfig(log_level="WARNING"),
    }
    return LeanTorchTrainer(
        _worker,
        train_loop_config=options,
        scaling_config=cast(Any, ray.train.ScalingConfig(**asked)),
        torch_config=TorchConfig(timeout_s=int(config.data.deadline_s + COLLECTIVE_SLACK_S)),
        run_config=cast(Any, ray.train.RunConfig(**settings)),
    )


@contextlib.contextmanager
def _watching(config: RunConfig, show: ProgressCallback | None) -> Iterator[Queue]:
    """A queue for what rank 0 logs, as Show takes it, and all ranks' warnings; shown by a thread of this process.

    It also warns when the workers are waited for, as otherwise a cluster that is full or has lost a machine says
    nothing.
    """
    # On the head, which outlives other machines; in a trial of a search, where it is placed with the trial's driver.
    is_placed = ray.util.get_current_placement_group() is not None
    watcher = Queue(
        actor_options={"num_cpus": 0} | ({} if is_placed else {"resources": {"node:__internal_head__": 0.001}})
    )
    done = threading.Event()

    def draw() -> None:
        due_s = time.monotonic() + SHORTAGE_AFTER_S  # when to say that workers are waited for
        while not (done.is_set() and watcher.empty()):
            with contextlib.suppress(Empty):
                item = watcher.get(timeout=0.5)
                if item is STARTING:
                    due_s = min(due_s, time.monotonic() + SHORTAGE_AFTER_S)
                elif item is STARTED:
                    due_s = math.inf
                elif isinstance(item, str):
                    log.warning("%s", item)
                elif show is not None:
                    show(*item)
            if time.monotonic() > due_s:
                if missing := cluster.shortage(config):
                    log.warning("waiting for workers: %s", missing)
                due_s = time.monotonic() + (SHORTAGE_EVERY_S if missing else SHORTAGE_AFTER_S)

    def draw_while_it_lasts() -> None:
        try:
            draw()
        except Exception as error:  # noqa: BLE001 — whatever Ray raises: training goes on without being watched
            if not done.is_set():
                log.warning("progress is no longer shown: %s", first_line(error))

    thread = threading.Thread(target=draw_while_it_lasts, name="progress", daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        done.set()
        thread.join(timeout=5)
        watcher.shutdown(force=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ray Train answers Ctrl-C by stopping the workers and then leaving the program; here it is a KeyboardInterrupt."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # as in a search, where Ray Train leaves signals alone
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


class _Failures(UserCallback):
    """In the controller: says which worker failed; an error that distseg raised on purpose stops the run."""

    def __init__(self, watcher: Queue) -> None:
        self._watcher, self._told = watcher, ""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            own = own_error(error)
            if own is not None:
                raise own  # a restart would only raise it again
        failed = "; ".join(f"worker {rank} failed: {_last_line(e)}" for rank, e in sorted(worker_exceptions.items()))
        if failed != self._told:  # asked again and again while Ray waits for the others
            _send(self._watcher, failed)
            _send(self._watcher, STARTING)
            self._told = failed


class _Groups(WorkerGroupCallback):
    """In the controller: a group of workers is asked for, at the start, after a failure and when it grows."""

    def __init__(self, watcher: Queue) -> None:
        self._watcher, self._num_workers = watcher, 0

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        _send(self._watcher, STARTING)
        now, before = worker_group_context.num_workers, self._num_workers
        if before:
            others = "" if now == before else f" with {now} workers instead of {before}"
            _send(self._watcher, f"starting again from the newest checkpoint{others}")
        self._num_workers = now


def own_error(error: BaseException | None) -> DistsegError | None:
    """The DistsegError inside Ray's wrappings, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DistsegError):
            return error
        inner = (getattr(error, name, None) for name in ("controller_failure", "_base_exc", "cause", "__cause__"))
        error = next((e for e in inner if isinstance(e, BaseException)), None)
    return None


_OUT_OF_MEMORY = re.compile(r"low on memory.*?([\d.]+ ?GB) used / ([\d.]+ ?GB) limit", re.DOTALL)


def _cause(error: TrainingFailedError) -> DistsegError:
    own = own_error(error)
    if own is not None:
        return own
    failures = getattr(error, "worker_failures", {})
    for text in map(str, (*failures.values(), error)):
        if found := _OUT_OF_MEMORY.search(text):
            return ResourceError(
                f"a machine ran out of memory ({found[1]} of {found[2]} in use) and Ray killed the training there; "
                "lower data.batch_size, data.crop_px or the size of the network, or use machines with more memory"
            )
    for rank, failure in failures.items():
        return TrainingError(f"worker {rank} failed and restarts are used up: {_last_line(failure)}")
    return TrainingError(f"training failed: {_last_line(error)}")


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]


# ------------------------------------------------------------------------------------------------------------- a worker


def _worker(options: Mapping[str, Any]) -> None:
    """What each worker of the group runs: one rank of `fit`."""
    config, run = from_dict(options["config"]), Run(**options["run"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config.scaling.cpus_per_worker)
    world = World(context.get_world_rank(), context.get_world_size(), device)
    watcher = options["watcher"]
    logging.getLogger("distseg").addHandler(_WarningsToDriver(watcher, world.rank))
    logging.getLogger().setLevel(logging.WARNING)  # Ray sets it to INFO, and its own lines and boto3's come with it
    if world.rank == 0:
        _send(watcher, STARTED)
    saved = agreed_checkpoint(run.uri, world)
    with contextlib.ExitStack() as opened:
        report: NullReporter | RunReporter = _RayNullReporter()
        if world.rank == 0:
            exporter = opened.enter_context(contextlib.closing(Exporter(config, run.name)))

            def show(step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
                _send(watcher, (step, dict(metrics), worst_condition))
                exporter.log(step, metrics, worst_condition)

            report = _RayReporter(config, run, saved, show)
        opened.enter_context(contextlib.closing(report))
        fit_run(config, world, report, resume=saved, run_id=run.run_id)


def _send(watcher: Queue, item: object) -> None:
    # Not `watcher.put`: it waits, and a driver that is gone must not hold training back.
    cast(Any, watcher.actor).put_nowait.remote(item)


class _WarningsToDriver(logging.Handler):
    """What distseg warns of on a worker is said where the user looks."""

    def __init__(self, watcher: Queue, rank: int) -> None:
        super().__init__(logging.WARNING)
        self.watcher, self.rank = watcher, rank

    def emit(self, record: logging.LogRecord) -> None:
        _send(self.watcher, f"worker {self.rank}: {record.getMessage()}")


def agreed_checkpoint(run_uri: str, world: World) -> Checkpoint | None:
    """The newest undamaged checkpoint, the same on all ranks: rank 0 chooses, the others read its choice."""
    chosen = checkpoint.newest(run_uri) if world.rank == 0 else None
    uris = [chosen[0] if chosen else None]
    if world.size > 1:
        dist.broadcast_object_list(uris, src=0)
    if chosen is not None:
        return chosen[1]
    return checkpoint.read(uris[0]) if uris[0] else None


_TOLD = ("val/mIoU", "val/mIoU_worst", "val/mIoU_mean_conditions")


def _reported(step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """What Ray Train keeps checkpoints by, val/mIoU, the lowest if there is none; and what a search needs to know."""
    return {"step": step, "val/mIoU": NO_SCORE} | {name: metrics[name] for name in _TOLD if name in metrics}


class _RayReporter(RunReporter):
    """Rank 0: Ray Train uploads its checkpoints beside the training, and prunes them."""

    def __init__(
        self, config: RunConfig, run: Run, saved: Checkpoint | None, show: ProgressCallback | None = None
    ) -> None:
        super().__init__(config, run, saved, show)
        self._prefix = f"distseg-checkpoint-{run.name}-"
        for left_by_a_killed_worker in Path(tempfile.gettempdir()).glob(f"{glob.escape(self._prefix)}*"):
            shutil.rmtree(left_by_a_killed_worker, ignore_errors=True)

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        assert saved is not None
        folder = tempfile.mkdtemp(prefix=self._prefix)  # Ray Train removes it after the upload
        checkpoint.write(Path(folder), saved)
        ray.train.report(
            _reported(step, metrics),
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=checkpoint.new_name(step),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._upload,
        )
        self.journal.upload()

    def _upload(self, saved: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """In our order: Ray Train's own would write what marks a checkpoint as whole before the weights."""
        target = storage.join(self.run.uri, name)
        with saved.as_directory() as folder:
            checkpoint.upload(Path(folder), target)
        return ray.train.Checkpoint(target)


def _forget_if_broken(run_uri: str) -> None:
    """What Ray Train noted of the checkpoints, if it names one that is no longer there, or is another Ray's."""
    uri = storage.join(run_uri, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME)
    if not storage.exists(uri):
        return
    try:
        noted = json.loads(storage.read_bytes(uri))
        results = [*noted["checkpoint_results"], *noted["pending_training_results"]]
        places = [storage.join(run_uri, result["checkpoint_dir_name"], checkpoint.META_FILE) for result in results]
        is_sound = noted["ray_version"] == ray.__version__ and all(map(storage.exists, places))
    except (ValueError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        storage.delete(uri)


def forget_checkpoints(run_uri: str) -> None:
    """Of a stopped run, before its checkpoints are replaced: Ray Train would look for those it has noted."""
    storage.delete(storage.join(run_uri, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME))


class _RayNullReporter(NullReporter):
    """The other ranks: Ray Train's report is a barrier."""

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        ray.train.report(_reported(step, metrics), checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
