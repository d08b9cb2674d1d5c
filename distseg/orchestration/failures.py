"""How a training fails: what Ray Train raises -> an error of distseg that tells the user what happened.

Also the callbacks that hear of failures and new groups in Ray Train's controller, and tell the driver (watcher.py); and
what happens when Ray itself dies under the driver.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import psutil  # type: ignore[import-untyped]
import ray
from ray.train import TrainingFailedError, UserCallback

from distseg.errors import DistsegError, ResourceError, TrainingError
from distseg.orchestration import compat, watcher
from distseg.runs import Run, end_run
from distseg.terminal import visible

# A checkpoint that Ray Train wants to prune; the file that it notes them in.
_REMOVED = re.compile(r"(?:Path not found: \(.*, |Failed to open local file '(?=.*No such file))([^\s')]+)")
_OUT_OF_MEMORY = re.compile(r"low on memory.*?([\d.]+ ?GB) used / ([\d.]+ ?GB) limit", re.DOTALL)


def error_of(failure: TrainingFailedError) -> DistsegError:
    """The error to raise for a failed training, in one line."""
    own = own_error(failure)
    if own is not None:
        return own
    workers = getattr(failure, "worker_failures", {})
    for text in map(str, (*workers.values(), failure)):
        if found := _OUT_OF_MEMORY.search(text):
            return ResourceError(
                f"a machine ran out of memory ({found[1]} of {found[2]} in use) and Ray killed the training there; "
                "lower data.batch_size, data.crop_px or the size of the network, or use machines with more memory"
            )
    if found := _REMOVED.search(str(failure)):
        return TrainingError(
            f"{found[1]} was removed while the run was training; if it has saved since, go on with: python -m "
            f"distseg.train --resume {found[1].rpartition('/')[0]}"
        )
    for rank, error in workers.items():
        return TrainingError(f"worker {rank} failed and restarts are used up: {last_line(error)}")
    return TrainingError(f"training failed: {last_line(failure)}")


def own_error(error: BaseException | None) -> DistsegError | None:
    """The DistsegError inside Ray's wrappings, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DistsegError):
            return error
        inner = (getattr(error, name, None) for name in compat.WRAPPED_ERROR_ATTRIBUTES)
        error = next((e for e in inner if isinstance(e, BaseException)), None)
    return None


def last_line(error: BaseException) -> str:
    """Of its message, at most 300 characters: where a traceback says what went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]


class FailureCallback(UserCallback):
    """Tells which worker failed. An error that distseg raised on purpose stops the run at once."""

    def __init__(self, channel: watcher.Channel) -> None:
        self._channel, self._last_told = channel, ""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            own = own_error(error)
            if own is not None:
                raise own  # a restart would only raise it again
        failed = "; ".join(f"worker {rank} failed: {last_line(e)}" for rank, e in sorted(worker_exceptions.items()))
        if failed != self._last_told:  # Ray Train calls this again and again while it waits for the other workers
            watcher.send_warning(self._channel, failed)
            watcher.send_starting(self._channel)
            self._last_told = failed


_WorkerGroupCallback: Any = compat.worker_group_callback()


class GroupCallback(_WorkerGroupCallback):  # type: ignore[misc]  # its base is looked up, see compat.py
    """Tells that a group of workers is asked for: at the start, after a failure, and when the number changes."""

    def __init__(self, channel: watcher.Channel) -> None:
        self._channel, self._num_workers = channel, 0

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        watcher.send_starting(self._channel)
        now, before = worker_group_context.num_workers, self._num_workers
        if before:
            others = "" if now == before else f" with {now} workers instead of {before}"
            watcher.send_warning(self._channel, f"starting again from the newest checkpoint{others}")
        self._num_workers = now


LOOKED_AFTER_EVERY_S = 1.0
GONE_AFTER_S = 3.0  # for what is never started again
HEAD_GONE_AFTER_S = 30.0  # a head that others started may be restarted; Ray gives up after 60 s

Address = tuple[str, int]


@contextlib.contextmanager
def closing_if_ray_dies(run: Run) -> Iterator[None]:
    """While the block runs: if the head's GCS or this machine's raylet is gone, closes the run and exits with 1.

    Nobody else can close it: Ray then ends this process from C++, ten seconds after its raylet and a minute after the
    GCS. What counts is that nobody listens at its port any more; a machine that is only cut off is left to Ray.
    """
    gcs_host, _, gcs_port = ray.get_runtime_context().gcs_address.rpartition(":")
    watched = {"its head's GCS": (gcs_host.strip("[]"), int(gcs_port))}
    own_id = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == own_id:
            watched["this machine's raylet"] = (str(node["NodeManagerAddress"]), int(node["NodeManagerPort"]))
    head_s = GONE_AFTER_S if compat.started_this_cluster() else HEAD_GONE_AFTER_S
    done = threading.Event()
    own: set[Any] = set()  # the processes of a cluster that ends with this process

    def note_own_processes() -> None:
        if compat.started_this_cluster():  # now, as those of a dead raylet are nobody's children any more
            own.update(psutil.Process().children(recursive=True))

    def watch() -> None:
        gone = wait_until_gone(watched, {"its head's GCS": head_s}, done, at_each_look=note_own_processes)
        if gone:
            _close(run, gone, own)

    thread = threading.Thread(target=watch, name="is Ray alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()  # if it is closing the run, this process ends there


def wait_until_gone(
    watched: Mapping[str, Address],
    patience_s: Mapping[str, float],
    done: threading.Event,
    at_each_look: Callable[[], None] = lambda: None,
) -> str:
    """The name of the first address at which connections were refused for so long; empty if `done` comes first."""
    refused_since_s: dict[str, float] = {}
    while not done.wait(LOOKED_AFTER_EVERY_S):
        at_each_look()
        for name, address in watched.items():
            if not _refuses(address):
                refused_since_s.pop(name, None)
            elif time.monotonic() - refused_since_s.setdefault(name, time.monotonic()) >= patience_s.get(
                name, GONE_AFTER_S
            ):
                return name
    return ""


def _refuses(address: Address) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # cut off, or too busy to answer
        return False
    return False


def _close(run: Run, gone: str, own_processes: Iterable[Any]) -> None:
    """Without Ray, and before Ray ends this process. The processes end first: they would train on for a while, beside a
    run that is resumed at once."""
    for process in own_processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    try:
        end_run(run, "FAILED", lambda: None, at_once=True)
    finally:
        shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a live display hides
        error = f"Ray died ({gone} does not answer); go on with: python -m distseg.train --resume {run.uri}"
        with contextlib.suppress(OSError):
            print(f"{shown}error: {visible(error)}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(TrainingError.exit_code)
