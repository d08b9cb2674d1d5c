"""config -> TorchTrainer -> fit: one training over a Ray cluster, with Ray Train V2.

Every worker of the group is one rank. Rank 0 hands checkpoints to Ray Train, which uploads them beside the training to
`<checkpoint.uri>/<run name>`, keeps the best two by val/mIoU and the newest, and replaces lost workers; the new group
goes on from the newest undamaged checkpoint. Errors that a restart would only repeat stop the run at once.
"""

import contextlib
import glob
import json
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR  # not public
from ray.train import CheckpointUploadMode, FailureConfig, LoggingConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import (  # not public, but the only way
    CHECKPOINT_MANAGER_SNAPSHOT_FILENAME,
    ENV_VARS_TO_PROPAGATE,
)
from ray.util.queue import Empty, Queue

from distseg import checkpoint, storage, tracking
from distseg.checkpoint import Checkpoint
from distseg.config import RunConfig, from_dict, to_dict
from distseg.ending import Outcome, close
from distseg.errors import ConfigError, DistsegError, ResourceError, TrainingError, first_line
from distseg.loop import World
from distseg.rank import Follower, RunReport
from distseg.ray_metrics import Exporter
from distseg.runs import Run, Show, check_run, fit_run, saved_before, with_absolute_paths

log = logging.getLogger(__name__)

CHECKPOINTS_KEPT = checkpoint.NUM_BEST_KEPT
NO_SCORE = -1.0  # of a checkpoint without an evaluation; Ray Train complains of each that has none
POLL_INTERVAL_S = "0.2"  # a checkpoint counts only once Ray Train's controller has polled for it (its default: 2 s)
CONNECT_TIMEOUT_S = 10.0
COLLECTIVE_SLACK_S = 60.0  # on top of data.deadline_s: a rank may wait that long for a store


def train(
    config: RunConfig,
    *,
    resume: str | None = None,
    show: Show | None = None,
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
    run = Run.again(resume, config) if resume else Run.new(config)
    run.tags |= tags or {}
    saved = saved_before(run, config, manifest)
    storage.check_writable(run.uri.rpartition("/")[0])
    join_cluster(run.uri)
    check_resources(config, ray.nodes(), autoscaler_limits())
    check_reachable(run, ray.nodes())
    run.job_id = job or job_id()
    run.open(config, manifest, saved)
    status = "FAILED"
    try:
        with _watching(show) as watcher, _interruptible(), _named_cluster():
            _trainer(config, run, watcher, callbacks).fit()
        status = "FINISHED"
    except TrainingFailedError as error:
        raise _cause(error) from error
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        outcome = close(run, status)
    return outcome


# ---------------------------------------------------------------------------------------------------------- the cluster


# Ray Train writes to S3 by pyarrow, whose checksums by default take the form of trailers, which S3 servers before 2025
# (Ceph 16 among them) refuse with status 411.
PLAIN_CHECKSUMS = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}


def join_cluster(run_uri: str) -> None:
    """Joins RAY_ADDRESS or a running cluster, else starts one here. Raises ResourceError if it does not answer."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_INTERVAL_S)
    if ray.is_initialized():
        return
    check_address(os.environ.get("RAY_ADDRESS", ""))
    try:
        needs_plain = storage.is_s3(run_uri) and not PLAIN_CHECKSUMS.keys() & os.environ.keys()
        env_vars = PLAIN_CHECKSUMS if needs_plain else {}
        os.environ.update(env_vars)
        ray.init(
            # Workers' warnings come by the watcher; their tracebacks are in Ray's logs, and here with --debug.
            log_to_driver=log.isEnabledFor(logging.DEBUG),
            logging_level=logging.WARNING,
            runtime_env={"env_vars": env_vars} if env_vars else None,
        )
    except Exception as error:  # noqa: BLE001 — what Ray raises where its own processes do not start is no narrower
        address = os.environ.get("RAY_ADDRESS", "")
        raise ResourceError(f"no Ray cluster answers at {address or 'this machine'}: {first_line(error)}") from None


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


def check_address(address: str) -> None:
    """Raises ResourceError if nobody listens at a host:port; Ray itself would try for minutes and say nothing."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # none, "auto" or "local"
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ResourceError(
            f"RAY_ADDRESS = {address}: no Ray cluster answers there ({error.strerror or error}); "
            "start one, correct it or unset it"
        ) from None


def check_resources(config: RunConfig, nodes: list[dict[str, Any]], limits: Mapping[str, int] | None) -> None:
    """Raises ResourceError with the numbers if the cluster can never hold the workers.

    `nodes` is `ray.nodes()`, `limits` what an autoscaler may grow to. What others use right now comes free again.
    """
    scaling = config.scaling
    if limits is not None and limits.get("CPU", 0) >= scaling.num_workers * scaling.cpus_per_worker:
        return
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    fits = _num_workers_that_fit(config, nodes)
    if fits >= scaling.num_workers:
        return
    each = f"{scaling.cpus_per_worker} CPU" + (" and 1 GPU" if scaling.gpu else "")
    has = f"{int(sum(r.get('CPU', 0) for r in alive))} CPUs, {int(sum(r.get('GPU', 0) for r in alive))} GPUs"
    raise ResourceError(
        f"scaling.num_workers = {scaling.num_workers}: the cluster ({len(alive)} machines, {has}) can hold {fits} "
        f"workers of {each} each; lower scaling.num_workers or scaling.cpus_per_worker, or add machines"
    )


def _num_workers_that_fit(config: RunConfig, nodes: list[dict[str, Any]]) -> int:
    fits = 0
    for resources in (node["Resources"] for node in nodes if node["Alive"]):
        by_cpu = int(resources.get("CPU", 0)) // config.scaling.cpus_per_worker
        fits += min(by_cpu, int(resources.get("GPU", 0))) if config.scaling.gpu else by_cpu
    return fits


def capacity(config: RunConfig, nodes: list[dict[str, Any]], limits: Mapping[str, int] | None) -> int:
    """How many such trainings the cluster, or what its autoscaler may make of it, can hold at a time; at least 1."""
    fits = _num_workers_that_fit(config, nodes)
    if limits is not None:
        by_cpu = limits.get("CPU", 0) // config.scaling.cpus_per_worker
        fits = max(fits, min(by_cpu, limits.get("GPU", 0)) if config.scaling.gpu else by_cpu)
    return max(1, fits // config.scaling.num_workers)


def autoscaler_limits() -> dict[str, int] | None:
    """The most of each resource that the cluster's autoscaler may bring up; None without an autoscaler."""
    from ray._private.state import state  # not public, but the only place that knows

    return state.get_max_resources_from_cluster_config()


def check_reachable(run: Run, nodes: list[dict[str, Any]]) -> None:
    """Raises ConfigError if several machines would need a file that only one has."""
    hosts = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    if len(hosts) > 1 and tracking.is_local_file(run.tracking_uri):
        raise ConfigError(
            f"tracking.uri = {run.tracking_uri!r} is a file of one machine and the cluster has {len(hosts)}; "
            "give an MLflow server's URL, or off"
        )


def job_id() -> str:
    """What `ray job list` names this process by, if it is a submitted job, else the number of its connection to Ray."""
    submitted = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    return submitted.get("metadata", {}).get("job_submission_id") or str(ray.get_runtime_context().get_job_id())


def _trainer(config: RunConfig, run: Run, watcher: Queue, callbacks: Sequence[UserCallback]) -> TorchTrainer:
    scaling = config.scaling
    options = {
        "config": to_dict(config),
        "run": {**vars(run)},
        "watcher": watcher,
    }
    settings: dict[str, Any] = {  # a dict, since type checkers see the arguments of Ray Train's first version
        "name": run.name,
        "storage_path": run.uri.rpartition("/")[0],
        "failure_config": FailureConfig(max_failures=scaling.max_failures),
        "checkpoint_config": ray.train.CheckpointConfig(
            num_to_keep=CHECKPOINTS_KEPT, checkpoint_score_attribute="val/mIoU", checkpoint_score_order="max"
        ),
        "callbacks": [_StopOnOurErrors(), *callbacks],
        "logging_config": LoggingConfig(log_level="WARNING"),
    }
    return TorchTrainer(
        _worker,
        train_loop_config=options,
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.num_workers,
            use_gpu=scaling.gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker, **({"GPU": 1} if scaling.gpu else {})},
        ),
        torch_config=TorchConfig(timeout_s=int(config.data.deadline_s + COLLECTIVE_SLACK_S)),
        run_config=ray.train.RunConfig(**settings),
    )


@contextlib.contextmanager
def _watching(show: Show | None) -> Iterator[Queue]:
    """A queue for what rank 0 logs, as Show takes it, and all ranks' warnings; shown by a thread of this process."""
    # On the head, which outlives other machines; in a trial of a search, where it is placed with the trial's driver.
    is_placed = ray.util.get_current_placement_group() is not None
    watcher = Queue(
        actor_options={"num_cpus": 0} | ({} if is_placed else {"resources": {"node:__internal_head__": 0.001}})
    )
    done = threading.Event()

    def draw() -> None:
        while not (done.is_set() and watcher.empty()):
            with contextlib.suppress(Empty):
                _show_item(watcher.get(timeout=0.5), show)

    thread = threading.Thread(target=draw, name="progress", daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        done.set()
        thread.join(timeout=5)
        watcher.shutdown(force=True)


def _show_item(item: tuple[int, dict[str, float], str] | str, show: Show | None) -> None:
    if isinstance(item, str):
        log.warning("%s", item)
    elif show is not None:
        show(*item)


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


class _StopOnOurErrors(UserCallback):
    """In the controller: an error that distseg raised on purpose would only be raised again after a restart."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            own = own_error(error)
            if own is not None:
                raise own


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
    saved = agreed_checkpoint(run.uri, world)
    with contextlib.ExitStack() as opened:
        report: Follower | RunReport = _RayFollower()
        if world.rank == 0:
            exporter = opened.enter_context(contextlib.closing(Exporter(config, run.name)))

            def show(step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
                _send(watcher, (step, dict(metrics), worst_condition))
                exporter.log(step, metrics, worst_condition)

            report = _RayReport(config, run, saved, show)
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


class _RayReport(RunReport):
    """Rank 0: Ray Train uploads its checkpoints beside the training, and prunes them."""

    def __init__(self, config: RunConfig, run: Run, saved: Checkpoint | None, show: Show | None = None) -> None:
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
        )
        self.journal.upload()


def forget_checkpoints(run_uri: str) -> None:
    """Of a stopped run, before its checkpoints are replaced: Ray Train would look for those it has noted."""
    storage.delete(storage.join(run_uri, CHECKPOINT_MANAGER_SNAPSHOT_FILENAME))


class _RayFollower(Follower):
    """The other ranks: Ray Train's report is a barrier."""

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        ray.train.report(_reported(step, metrics), checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
