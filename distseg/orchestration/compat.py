"""Every private name of Ray that distseg uses, each once.

Public names do not offer what is needed here, and private ones may move with any version of Ray. So each is looked up
when it is first used. If it is missing, `find` logs one line that says what is lost and returns None, and
distseg does without it: training goes on. TESTED says which versions have them all.

Private things are also used where they are overridden, in trainer.py and kept_workers.py: methods of `TorchTrainer`, of
its controller and its callbacks, of `FixedScalingPolicy` and of `WorkerGroup`. Ray calls them if it still knows them; a
version without them keeps its own behaviour. So does one whose controller cannot be run in this process: it is an actor
then.
"""

import contextlib
import functools
import importlib
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ray
import ray.actor
import ray.runtime_context
from ray.exceptions import AsyncioActorExit
from ray.util.client import ray as client
from ray.util.placement_group import PlacementGroup

log = logging.getLogger(__name__)

TESTED = "2.60.0"
"""The version of Ray in constraints.txt, with which the tests run."""

WRAPPED_ERROR_ATTRIBUTES = ("controller_failure", "_base_exc", "cause", "__cause__")
"""Where Ray's exceptions keep the exception that they wrap. A name that is missing is skipped."""

TRAIN = "ray.train.v2._internal"


def find(module: str, name: str, without: str) -> Any:
    """`name` of a private module of Ray; None if this version lacks it, and then `without` is logged: what is lost."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        warn_once(f"{module}.{name}", without)
        return None


@functools.cache
def warn_once(name: str, without: str) -> None:
    log.warning("Ray %s has no %s (tested: Ray %s): %s", ray.__version__, name, TESTED, without)


# ---- the cluster


def started_this_cluster() -> bool:
    """Whether this process started the cluster, which then ends with it. False if Ray does not tell."""
    node = find("ray._private.worker", "_global_node", "each training starts helpers that it does not need")
    return bool(getattr(node, "head", False))


def starts_a_cluster(address: str) -> bool:
    """Whether `ray.init` with this RAY_ADDRESS starts a cluster here. False if Ray does not tell."""
    if address == "local":
        return True
    without = "a cluster that is started here listens on all interfaces, not on loopback alone"
    find_address = find("ray._private.services", "canonicalize_bootstrap_address", without)
    return not address and find_address is not None and find_address(None) is None


def last_address() -> str:
    """host:port of the last `ray start` on this machine, which `ray.init` joins although that cluster may be dead.

    Empty if there was none, or if it was ended by `ray stop`, or if Ray does not tell.
    """
    read = find("ray._private.utils", "read_ray_address", "a dead cluster of this machine is waited for")
    return str(read() or "") if read is not None else ""


def listen_on_loopback() -> None:
    """Has the cluster that is started next listen on loopback alone, as Ray does on macOS and Windows."""
    module, name = "ray._private.ray_constants", "ENABLE_RAY_CLUSTER"
    if find(module, name, "a cluster that is started here listens on all interfaces") is not None:
        setattr(sys.modules[module], name, False)  # Ray reads the variable of environment.LOOPBACK once, when imported


def leave_out_last_words() -> None:
    """Has Ray not print, among our lines and once more at the end, the log of each raylet that died: stacks of C++.

    What has happened is told in our own words (failures.py), and the log lies on its machine.
    """
    printer = find("ray._private.ray_logging", "stdout_deduplicator", "the log of a lost machine is printed")
    if getattr(printer, "skip_re", "") is None:  # else the user has chosen what is left out, or it has another name
        printer.skip_re = re.compile("^Raylet is terminated")


class MachineType(NamedTuple):
    """What an autoscaler may bring up."""

    resources: dict[str, int]  # of one machine; empty if it does not tell
    max_count: int  # -1: any number


def autoscaler_machines() -> list[MachineType] | None:
    """The types of machines that the cluster's autoscaler may bring up; None without an autoscaler."""
    state = find("ray._private.state", "state", "what an autoscaler may bring up does not count")
    get_config = getattr(state, "get_cluster_config", None)
    config = get_config() if get_config is not None else None
    if config is None or not config.node_group_configs:
        return None
    return [MachineType(dict(group.resources), int(group.max_count)) for group in config.node_group_configs]


def submitted_job_id() -> str:
    """What `ray job list` names this process by; empty if it is no submitted job."""
    without = "a submitted job is named by the number of its connection"
    variable = find("ray._private.runtime_env.constants", "RAY_JOB_CONFIG_JSON_ENV_VAR", without)
    submitted = json.loads(os.environ.get(variable, "{}")) if variable is not None else {}
    return str(submitted.get("metadata", {}).get("job_submission_id") or "")


# ---- Ray Train


def checkpoint_snapshot_name() -> str:
    """The file in which Ray Train notes the checkpoints of a run."""
    fallback = "checkpoint_manager_snapshot.json"
    name = find(f"{TRAIN}.constants", "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME", f"{fallback} is taken for its name")
    return str(name or fallback)


CONTROLLER_STEP = "_run_control_loop_iteration"
"""The method that Ray Train's controller calls again and again until it has ended."""


def train_controller() -> Any:
    """The class of Ray Train's controller, if it can be run in this process; else None, and it has to be an actor."""
    without = "each training starts one process more"
    if client.is_connected():  # then this process is no member of the cluster
        return None
    found = find(f"{TRAIN}.execution.controller", "TrainController", without)
    needed: list[tuple[Any, str]] = [
        (found, CONTROLLER_STEP),
        (ray.actor, "exit_actor"),
        (ray.runtime_context.RuntimeContext, "current_actor"),
    ]
    for owner, name in needed:
        if owner is not None and not hasattr(owner, name):
            warn_once(f"{owner.__name__}.{name}", without)
            return None
    return found


_thread = threading.local()  # `log`: where what its controller says is kept; None or missing in all other threads


@contextlib.contextmanager
def as_a_controller(run_name: str) -> Iterator[None]:
    """While the block runs, Ray Train's controller works in this thread, and what it logs goes to a file of Ray's logs.

    It takes itself for an actor: its workers get its handle, None in a driver, and it ends by `exit_actor`, which here
    raises AsyncioActorExit, as it does in every actor of coroutines, and ends nothing more.
    """
    _let_threads_be_controllers()
    _thread.log = _controller_log(run_name)
    try:
        yield
    finally:
        _thread.log.close()
        _thread.log = None


def _own_log() -> logging.Handler | None:
    """This thread's, if a controller works in it."""
    log: logging.Handler | None = getattr(_thread, "log", None)
    return log


@functools.cache
def _let_threads_be_controllers() -> None:
    context_class: Any = ray.runtime_context.RuntimeContext
    exit_actor: Any = ray.actor.exit_actor
    current_actor = context_class.current_actor

    def leave() -> None:
        if _own_log() is not None:
            raise AsyncioActorExit
        exit_actor()

    def own_handle(context: Any) -> Any:
        is_here = _own_log() is not None and context.get_actor_id() is None
        return None if is_here else current_actor.__get__(context)

    ray.actor.exit_actor = leave
    context_class.current_actor = property(own_handle)
    logger = logging.getLogger("ray.train")
    logger.addHandler(_ToItsLog())
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


class _ToItsLog(logging.Handler):
    """Of Ray Train's logger: what a controller says goes to its file, all else where it would have gone."""

    def emit(self, record: logging.LogRecord) -> None:
        own, ray_logger = _own_log(), logging.getLogger("ray")
        if own is not None:
            own.handle(record)
        elif record.levelno >= ray_logger.getEffectiveLevel():
            ray_logger.callHandlers(record)


def _controller_log(run_name: str) -> logging.Handler:
    node = find("ray._private.worker", "_global_node", "what Ray Train's controller says is not kept")
    if node is None:
        return logging.NullHandler()
    folder = Path(node.get_logs_dir_path(), "train")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / f"ray-train-sys-controller-{run_name}.log")
    except OSError as error:  # the cluster is another user's, or the disk is full
        log.debug("what Ray Train's controller says is not kept: %s", error)
        return logging.NullHandler()
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a disk may be full later, too
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


_UPLOADS = "checkpoint_upload_threadpool"


def worker_group(controller: Any) -> Any:
    """The class of a controller's groups of workers, if the workers of one training can do another; else None."""
    without = "each trial of a search starts its workers anew"
    found = find(f"{TRAIN}.execution.worker_group", "WorkerGroup", without)
    context = None if found is None else find(f"{TRAIN}.execution.context", "TrainContext", without)
    if context is None:
        return None
    needed = [(found, name) for name in ("_create_placement_group", "_create_workers", "_get_worker_runtime_env")]
    for owner, name in [*needed, (context, _UPLOADS), (type(controller), "worker_group_cls")]:
        if not hasattr(owner, name):
            warn_once(f"{owner.__name__}.{name}", without)
            return None
    return controller.worker_group_cls


def let_upload_again() -> None:
    """In a worker that may have trained before: Ray Train then closed its process's threads for uploads for good."""
    get_context = find(f"{TRAIN}.execution.context", "get_train_context", "a worker that trains again fails once")
    if get_context is not None and hasattr(context := get_context(), _UPLOADS):
        setattr(context, _UPLOADS, ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload"))


def tells_places() -> bool:
    """Whether `places_of_the_dead` can tell."""
    without = "each trial of a search starts a helper, which needs Ray's dashboard to free a stopped trial's place"
    if find("ray.core.generated.gcs_pb2", "PlacementGroupTableData", without) is None:
        return False
    state = find("ray._private.state", "state", without)
    missing = [name for name in ("actor_table", "_connect_and_get_accessor") if not hasattr(state, name)]
    if state is not None and missing:
        warn_once(f"ray._private.state.state.{missing[0]}", without)
    return not missing


def places_of_the_dead() -> list[PlacementGroup]:
    """The placement groups that actors of this job asked for which are dead now. Only if `tells_places`."""
    state = importlib.import_module("ray._private.state").state
    table = importlib.import_module("ray.core.generated.gcs_pb2").PlacementGroupTableData
    job_id = ray.get_runtime_context().get_job_id()
    groups = map(table.FromString, state._connect_and_get_accessor().get_placement_group_table())
    held = [group for group in groups if group.state != table.REMOVED and group.creator_job_id.hex() == job_id]
    owners = {group.creator_actor_id.hex() for group in held}
    dead = {owner for owner in owners if state.actor_table(owner).get("State") == "DEAD"}  # a driver's is no actor's
    ids = [group.placement_group_id for group in held if group.creator_actor_id.hex() in dead]
    return [PlacementGroup(ray.PlacementGroupID(binary)) for binary in ids]


def draining_nodes() -> set[str]:
    """The ids of machines that are to be taken away. Empty if Ray does not tell."""
    state = find("ray._private.state", "state", "a trial may begin on a machine that is about to be taken away")
    tell = getattr(state, "get_draining_nodes", None)
    return set() if tell is None else set(tell())


def preemption_deadline_ms() -> int | None:
    """In a worker: when a machine of its group is to be taken away, since the epoch; 0: soon. None if none is."""
    without = "nothing is saved when a machine is about to be taken away"
    context = find(f"{TRAIN}.execution.context", "get_train_context", without)
    try:
        noticed = context().preemption_context.preemption_info
    except (AttributeError, TypeError, RuntimeError):  # other names, no such function, or no worker
        return None
    return None if noticed is None else int(noticed.deadline_ms or 0)


def worker_group_callback() -> Any:
    """The base class of callbacks that hear when a group of workers starts; without it, a class that hears nothing."""
    found = find(
        f"{TRAIN}.execution.callback", "WorkerGroupCallback", "nothing is said when a training starts again or resizes"
    )
    if found is not None:
        return found
    from ray.train import UserCallback

    return UserCallback


def fixed_scaling_policy() -> Any:
    """The class by which Ray Train decides a fixed number of workers; None if there is none."""
    return find(
        f"{TRAIN}.execution.scaling_policy", "FixedScalingPolicy", "each training starts Ray's autoscaling helper"
    )
