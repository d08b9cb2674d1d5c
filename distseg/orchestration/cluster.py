"""The Ray cluster of this process: join it, and ask whether it can hold what a training needs."""

import contextlib
import logging
import os
import re
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ray
from ray.util import placement_group_table, remove_placement_group

from distseg import stopping, storage, tracking
from distseg.config import RunConfig
from distseg.errors import ConfigError, ResourceError, first_line
from distseg.orchestration import compat, environment
from distseg.runs import Run

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
PLACES_FREED_EVERY_S = 0.5
LEAST_PROCESSES = 300  # processes and threads of a Ray that is started here; one worker on two cores took 559


def join(run_uri: str) -> None:
    """Joins RAY_ADDRESS or a running cluster, else starts one here. Raises ResourceError if it does not answer."""
    environment.set_defaults(environment.ALWAYS)
    if ray.is_initialized():
        return
    address = _address()
    starts_here = compat.starts_a_cluster(address)
    if starts_here:
        _check_number_of_processes()
    environment.set_defaults(environment.NEW_CLUSTER if _has_gpu() else environment.NEW_CLUSTER_OF_CPUS)
    if starts_here:
        environment.set_defaults(environment.ALONE)
        _stay_on_loopback()
    try:
        is_set = environment.S3.keys() & os.environ.keys()
        env_vars = dict(environment.S3) if storage.is_s3(run_uri) and not is_set else {}
        environment.set_defaults(env_vars)
        # Workers' warnings come through watcher.py; tracebacks are in Ray's logs, and with --debug also here.
        shows_all = log.isEnabledFor(logging.DEBUG)
        if not shows_all:
            compat.leave_out_last_words()
        ray.init(
            address or None,
            include_dashboard=False,  # of one that is started here: eleven processes that work beside a training
            log_to_driver=shows_all,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": env_vars} if env_vars else None,
        )
    except SystemExit:  # Ray's own answer to SIGTERM until `take_back`
        raise stopping.StoppedError(signal.SIGTERM) from None
    except Exception as error:  # noqa: BLE001 — Ray raises no narrower class if its own processes do not start
        where = address or "this machine"
        raise _other_version(where, str(error)) or ResourceError(
            f"no Ray cluster answers at {where}: {first_line(error)}"
        ) from None
    finally:
        # Ray leaves its process at SIGTERM, and its library in C++ even aborts it: no run would be closed.
        stopping.take_back()
        _tighten_token()


def _address() -> str:
    """RAY_ADDRESS, if somebody answers there; if it is not set and the last cluster started here is dead, `local`."""
    address = os.environ.get("RAY_ADDRESS", "")
    check_address(address)
    last = "" if address else compat.last_address()
    reason = _silence(last)
    if reason:
        log.warning(
            "the Ray cluster of the last `ray start` here, %s, does not answer (%s): a new one is started on this "
            "machine; `ray stop` forgets the old one, RAY_ADDRESS names another",
            *(last, reason),
        )
        return "local"
    return address


def _has_gpu() -> bool:
    """By the devices of the drivers of Nvidia, of Windows below Linux, and of AMD; torch would take seconds to ask."""
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "dxg", "kfd"))


def _check_number_of_processes() -> None:
    """Raises ResourceError where Ray would try for a minute, print tracebacks and then blame itself."""
    limits = [(_group_limit(), "that of its container")]
    if os.getuid() != 0:  # root's is not enforced
        limits.append((resource.getrlimit(resource.RLIMIT_NPROC)[0], "ulimit -u"))
    for limit, name in limits:
        if 0 <= limit < LEAST_PROCESSES:
            raise ResourceError(
                f"this process may have {limit} processes and threads, Ray needs {LEAST_PROCESSES} and more: raise the "
                f"limit ({name}), join a cluster (RAY_ADDRESS), or train without Ray (torchrun)"
            )


def _group_limit() -> int:
    """Of the control group, the container's; -1 if there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "pids"):
                continue
            top = Path("/sys/fs/cgroup", controllers)
            for place in (top / path.strip("/"), top):  # a container may be told the path that it has outside
                if (place / "pids.max").exists():
                    return int((place / "pids.max").read_text())  # "max" is no number
    return -1


def _other_version(address: str, said: str) -> ResourceError | None:
    """The error, if Ray has said, in seven lines, that the cluster's versions are not those of this process."""
    found = re.findall(r"Ray: (\S+)\s+Python: (\S+)", said)
    if "Version mismatch" not in said or len(found) != 2:
        return None
    theirs, ours = (f"Ray {of_ray} and Python {of_python}" for of_ray, of_python in found)
    return ResourceError(
        f"the Ray cluster at {address} has {theirs}, this program {ours}: install the cluster's versions here, or run "
        "the program there (python -m cluster.submit)"
    )


def _stay_on_loopback() -> None:
    """The cluster that this process starts: not on all interfaces, as Ray does, unless the user has said otherwise."""
    has_chosen = environment.LOOPBACK.keys() & os.environ.keys()
    has_loopback = "lo" in (name for _, name in socket.if_nameindex())
    if has_loopback and not has_chosen:
        environment.set_defaults(environment.LOOPBACK)
        compat.listen_on_loopback()


def _tighten_token() -> None:
    """Ray writes the token by which programs are let into the cluster so that every user of the machine can read it."""
    with contextlib.suppress(OSError, RuntimeError):  # there is none, it is another user's, or there is no home
        token = Path.home() / ".ray" / "auth_token"
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


@contextlib.contextmanager
def places_come_free() -> Iterator[None]:
    """While the block runs, the place of a trial's workers becomes free within a second when the trial has died.

    Ray frees it when the search ends. Ray Train has a helper that frees it, a process for each trial, but only the
    place in which the workers began: a trial that is stopped dies together with them, and a controller that still sees
    them go asks for another with its last words. No other trial would begin.
    """
    done = threading.Event()

    def free() -> None:
        while not done.wait(PLACES_FREED_EVERY_S):
            try:
                for place in compat.places_of_the_dead():
                    remove_placement_group(place)
            except Exception as error:  # noqa: BLE001 — whatever Ray raises; the next time it may answer
                log.debug("places of stopped trials wait: %s", error)

    if compat.tells_places():
        threading.Thread(target=free, name="places", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def check_address(address: str) -> None:
    """Raises ResourceError if nobody listens at a host:port; Ray itself would try for minutes and say nothing."""
    reason = _silence(address)
    if reason:
        raise ResourceError(
            f"RAY_ADDRESS = {address}: no Ray cluster answers there ({reason}); start one, correct it or unset it"
        )


def _silence(address: str) -> str:
    """Why nobody answers at a host:port; empty if somebody does, and for other words: none, `auto`, `local`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            return error.strerror or str(error)
    return ""


def check_resources(config: RunConfig) -> None:
    """Raises ResourceError with the numbers if the cluster can never hold the workers.

    Machines that an autoscaler may add count, and so do resources that others use now, as they become free again.
    Raises ConfigError if a change of the number of workers would begin again at step 0, and for a checkpoint.uri in a
    user's own object store: Ray Train was tried with directories and S3 alone, and Ray Tune knows no others.
    """
    uri, scaling = config.checkpoint.uri, config.scaling
    if storage.is_remote(uri) and not storage.is_s3(uri):
        raise ConfigError(f"checkpoint.uri = {uri}: Ray keeps checkpoints in directories and S3 only; give one")
    if scaling.min_workers and not config.checkpoint.every_steps + config.evaluate.every_steps:
        raise ConfigError(
            f"scaling.min_workers = {scaling.min_workers}: each change of the number of workers goes back to a "
            "checkpoint; give checkpoint.every_steps"
        )
    least, machines = scaling.min_workers or scaling.num_workers, compat.autoscaler_machines()
    if _num_workers_that_fit(config) >= least:
        return
    name = "scaling.min_workers" if scaling.min_workers else "scaling.num_workers"
    can_hold = _what_fits(config)
    if machines is not None:
        if any(machine.max_count and not machine.resources for machine in machines):
            log.warning(
                "%s = %d: %s; the autoscaler does not tell what its machines have: they are waited for",
                *(name, least, can_hold),
            )
            return
        brought_up = _num_workers_brought_up(config, machines)
        if brought_up >= least:
            return
        can_hold += f", and its autoscaler can bring up machines for {brought_up}"
    raise ResourceError(f"{name} = {least}: {can_hold}; lower {name} or scaling.cpus_per_worker, or add machines")


def shortage(config: RunConfig) -> str:
    """Why a training that waits for workers does not get them; empty if it gets them."""
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
    return sum(_num_workers_on(resources, config) for resources in _alive())


def _num_workers_on(resources: Mapping[str, float], config: RunConfig) -> int:
    """On one machine."""
    by_cpu = int(resources.get("CPU", 0)) // config.scaling.cpus_per_worker
    return min(by_cpu, int(resources.get("GPU", 0))) if config.scaling.gpu else by_cpu


def _num_workers_brought_up(config: RunConfig, machines: Sequence[compat.MachineType]) -> int:
    """The most on all machines that an autoscaler may have at a time, those that are there already included."""
    each = [(_num_workers_on(machine.resources, config), machine.max_count) for machine in machines]
    return sum(sys.maxsize if count < 0 < fits else fits * max(0, count) for fits, count in each)


def capacity(config: RunConfig) -> int:
    """How many such trainings the cluster can hold at a time, with all that its autoscaler may add; at least 1."""
    fits = max(_num_workers_that_fit(config), _num_workers_brought_up(config, compat.autoscaler_machines() or ()))
    return max(1, fits // config.scaling.num_workers)


def check_reachable(run: Run) -> None:
    """Raises ConfigError if the tracking server is a file of this machine and the cluster has several machines."""
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(hosts) > 1 and tracking.is_local_file(run.tracking_uri):
        raise ConfigError(
            f"tracking.uri = {run.tracking_uri!r} is a file of one machine and the cluster has {len(hosts)}; "
            "give an MLflow server's URL, or off"
        )


def job_id() -> str:
    """The name by which `ray job list` shows this process; if it is no submitted job, the number of its connection."""
    return compat.submitted_job_id() or str(ray.get_runtime_context().get_job_id())
