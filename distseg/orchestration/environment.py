"""Every environment variable of this process that distseg sets for Ray, and why.

A variable that the user has set stays as it is. Ray reads most of them when its first object is made, so they are set
just before that and stay set, except those that `temporary` sets for a block.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping

ALWAYS: Mapping[str, str] = {
    # A checkpoint counts only once Ray Train's controller has polled for it (its default: 2 s).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # How often Ray Train asks whether a machine is to be taken away (its default: 5 s). Some clouds give 30 s in all.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}

NEW_CLUSTER: Mapping[str, str] = {
    # Large blocks of memory in huge pages, which glibc must be told before a process begins. Two workers that share a
    # core's two threads trained 4% faster with it.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

NEW_CLUSTER_OF_CPUS: Mapping[str, str] = {
    # Also one arena: Ray Train trains in a thread, whose own arena would give a step's memory back to the system and
    # fetch fresh pages in the next one, whatever `keep_freed_memory` says. Not where a GPU trains: there it would
    # gain nothing, and the many threads that decode might wait for each other.
    "GLIBC_TUNABLES": f"{NEW_CLUSTER['GLIBC_TUNABLES']}:glibc.malloc.arena_max=1",
}

ALONE: Mapping[str, str] = {
    # A Ray that is started here reports to nobody outside; who starts one himself has read what Ray says about it.
    "RAY_USAGE_STATS_ENABLED": "0",
}

LOOPBACK: Mapping[str, str] = {
    # For a cluster that is started here: nobody else need reach it. Ray's name for it is from the systems where this
    # is its default. The libraries that exchange gradients choose an interface themselves.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}

S3: Mapping[str, str] = {
    # Ray Tune writes to S3 by pyarrow. Its checksums come as trailers by default, which S3 servers before 2025 (Ceph
    # 16 among them) refuse with status 411.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
}

ELASTIC: Mapping[str, str] = {
    # Then a training whose number of workers may change tries another number (Ray Train's default: 60 s).
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}

SEARCH: Mapping[str, str] = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a search writes records of its own
    "RAY_AIR_NEW_OUTPUT": "0",  # and has a display of its own
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",  # a stopped trial would keep its workers for minutes
    "TUNE_GLOBAL_CHECKPOINT_S": "5",  # how often Ray Tune's state is written
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is a KeyboardInterrupt, as everywhere
}

CONTROLLER_LOG = "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING"
"""'0' while Ray Train's controller is made in this process: it would close every handler of Python's logging here, and
print on the terminal. See compat.py, `as_a_controller`."""


def set_defaults(variables: Mapping[str, str]) -> None:
    """Sets those that are not set yet."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def prepare_search() -> None:
    """For a search by Ray Tune, in the process that runs it."""
    set_defaults(SEARCH)


@contextlib.contextmanager
def temporary(name: str, value: str) -> Iterator[None]:
    """Sets a variable for the block, then puts back what was there."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
