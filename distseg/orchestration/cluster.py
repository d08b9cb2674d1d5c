"""The Ray cluster of this process: joined, and asked whether it can hold what a training needs."""

import json
import logging
import os
import socket
from typing import Any

import ray
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR  # not public
from ray.util import placement_group_table

from distseg import storage, tracking
from distseg.config import RunConfig
from distseg.errors import ConfigError, ResourceError, first_line
from distseg.runs import Run

log = logging.getLogger(__name__)

POLL_INTERVAL_S = "0.2"  # a checkpoint counts only once Ray Train's controller has polled for it (its default: 2 s)
CONNECT_TIMEOUT_S = 10.0

# Ray Train writes to S3 by pyarrow, whose checksums by default take the form of trailers, which S3 servers before 2025
# (Ceph 16 among them) refuse with status 411.
PLAIN_CHECKSUMS = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}

# For the processes of a cluster that is started here: large blocks of memory in huge pages, which glibc must be told
# before a process begins. Two workers that share a core's two threads trained 4% faster on it.
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # of GLIBC_TUNABLES


def join(run_uri: str) -> None:
    """Joins RAY_ADDRESS or a running cluster, else starts one here. Raises ResourceError if it does not answer."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_INTERVAL_S)
    if ray.is_initialized():
        return
    check_address(os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("GLIBC_TUNABLES", HUGE_PAGES)
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


def is_started_here() -> bool:
    """Whether the cluster is one that this process started, and that ends with it."""
    from ray._private import worker  # not public, but the only place that knows

    node: Any = worker._global_node
    return node is not None and bool(node.head)


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


def check_resources(config: RunConfig) -> None:
    """Raises ResourceError with the numbers if the cluster can never hold the workers.

    What an autoscaler may bring counts; what others use right now comes free again. Raises ConfigError where each
    change of the number of workers would begin again at step 0.
    """
    scaling = config.scaling
    if scaling.min_workers and not config.checkpoint.every_steps + config.evaluate.every_steps:
        raise ConfigError(
            f"scaling.min_workers = {scaling.min_workers}: each change of the number of workers goes back to a "
            "checkpoint; give checkpoint.every_steps"
        )
    least, limits = scaling.min_workers or scaling.num_workers, _autoscaler_limits()
    if limits is not None and limits.get("CPU", 0) >= least * scaling.cpus_per_worker:
        return
    if _num_workers_that_fit(config) >= least:
        return
    name = "scaling.min_workers" if scaling.min_workers else "scaling.num_workers"
    raise ResourceError(
        f"{name} = {least}: {_what_fits(config)}; lower {name} or scaling.cpus_per_worker, or add machines"
    )


def shortage(config: RunConfig) -> str:
    """Why a training that has asked for workers gets none; empty if it gets them."""
    least = config.scaling.min_workers or config.scaling.num_workers
    pending = [len(g["bundles"]) for g in placement_group_table().values() if g["state"] == "PENDING"]
    asked = max((number for number in pending if least <= number <= config.scaling.num_workers), default=0)
    if not asked and _num_workers_that_fit(config) >= least:
        return ""
    free = ray.available_resources()
    has = f"{int(free.get('CPU', 0))} CPUs, {int(free.get('GPU', 0))} GPUs"
    return f"{asked or least} are asked for; {_what_fits(config)}; free are {has}"


def _what_fits(config: RunConfig) -> str:
    alive = _alive()
    each = f"{config.scaling.cpus_per_worker} CPU" + (" and 1 GPU" if config.scaling.gpu else "")
    has = f"{int(sum(r.get('CPU', 0) for r in alive))} CPUs, {int(sum(r.get('GPU', 0) for r in alive))} GPUs"
    fits = _num_workers_that_fit(config)
    return f"the cluster ({len(alive)} machines, {has}) can hold {fits} workers of {each} each"


def _alive() -> list[dict[str, float]]:
    """The resources of each machine."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _num_workers_that_fit(config: RunConfig) -> int:
    fits = 0
    for resources in _alive():
        by_cpu = int(resources.get("CPU", 0)) // config.scaling.cpus_per_worker
        fits += min(by_cpu, int(resources.get("GPU", 0))) if config.scaling.gpu else by_cpu
    return fits


def capacity(config: RunConfig) -> int:
    """How many such trainings the cluster, or what its autoscaler may make of it, can hold at a time; at least 1."""
    fits, limits = _num_workers_that_fit(config), _autoscaler_limits()
    if limits is not None:
        by_cpu = limits.get("CPU", 0) // config.scaling.cpus_per_worker
        fits = max(fits, min(by_cpu, limits.get("GPU", 0)) if config.scaling.gpu else by_cpu)
    return max(1, fits // config.scaling.num_workers)


def _autoscaler_limits() -> dict[str, int] | None:
    """The most of each resource that the cluster's autoscaler may bring up; None without an autoscaler."""
    from ray._private.state import state  # not public, but the only place that knows

    return state.get_max_resources_from_cluster_config()


def check_reachable(run: Run) -> None:
    """Raises ConfigError if several machines would need a file that only one has."""
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(hosts) > 1 and tracking.is_local_file(run.tracking_uri):
        raise ConfigError(
            f"tracking.uri = {run.tracking_uri!r} is a file of one machine and the cluster has {len(hosts)}; "
            "give an MLflow server's URL, or off"
        )


def job_id() -> str:
    """What `ray job list` names this process by, if it is a submitted job, else the number of its connection to Ray."""
    submitted = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    return submitted.get("metadata", {}).get("job_submission_id") or str(ray.get_runtime_context().get_job_id())
