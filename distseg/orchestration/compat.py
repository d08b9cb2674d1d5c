"""Every private name of Ray that distseg uses, each once.

Public names do not offer what is needed here, and private ones may move with any version of Ray. So each is looked up
when it is first used. If it is missing, `find` logs one line that says what is lost and returns None, and
distseg does without it: training goes on. TESTED says which versions have them all.

Two more private things are used where they are overridden: the methods of `TorchTrainer` and of `FixedScalingPolicy` in
trainer.py. Ray calls them if it still knows them; a version without them keeps its own behaviour.
"""

import contextlib
import functools
import importlib
import json
import logging
import os
from typing import Any

import ray

log = logging.getLogger(__name__)

TESTED = "2.60.0"
"""The version of Ray in constraints.txt, with which the tests run."""

WRAPPED_ERROR_ATTRIBUTES = ("controller_failure", "_base_exc", "cause", "__cause__")
"""Where Ray's exceptions keep the exception that they wrap. A name that is missing is skipped."""

_TRAIN = "ray.train.v2._internal"


def find(module: str, name: str, without: str) -> Any:
    """`name` of a private module of Ray; None if this version lacks it, and then `without` is logged: what is lost."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        _warn_once(f"{module}.{name}", without)
        return None


@functools.cache
def _warn_once(name: str, without: str) -> None:
    log.warning("Ray %s has no %s (tested: Ray %s): %s", ray.__version__, name, TESTED, without)


# ---- the cluster


def started_this_cluster() -> bool:
    """Whether this process started the cluster, which then ends with it. False if Ray does not tell."""
    node = find("ray._private.worker", "_global_node", "each training starts helpers that it does not need")
    return bool(getattr(node, "head", False))


def autoscaler_limits() -> dict[str, int] | None:
    """The most of each resource that the cluster's autoscaler may bring up; None without an autoscaler."""
    state = find("ray._private.state", "state", "what an autoscaler may bring up does not count")
    get_limits = getattr(state, "get_max_resources_from_cluster_config", None)
    limits: dict[str, int] | None = get_limits() if get_limits is not None else None
    return limits


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
    name = find(f"{_TRAIN}.constants", "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME", f"{fallback} is taken for its name")
    return str(name or fallback)


def pass_to_controller(variable: str) -> None:
    """Has Ray Train hand an environment variable of this process to the controller of a training."""
    passed = find(
        f"{_TRAIN}.constants",
        "ENV_VARS_TO_PROPAGATE",
        f"{variable} is not passed on; on a machine with two clusters a stopped trial may keep its workers' place",
    )
    with contextlib.suppress(AttributeError):  # None, or no longer a set
        passed.add(variable)


def worker_group_callback() -> Any:
    """The base class of callbacks that hear when a group of workers starts; without it, a class that hears nothing."""
    found = find(
        f"{_TRAIN}.execution.callback", "WorkerGroupCallback", "nothing is said when a training starts again or resizes"
    )
    if found is not None:
        return found
    from ray.train import UserCallback

    return UserCallback


def fixed_scaling_policy() -> Any:
    """The class by which Ray Train decides a fixed number of workers; None if there is none."""
    return find(
        f"{_TRAIN}.execution.scaling_policy", "FixedScalingPolicy", "each training starts Ray's autoscaling helper"
    )
