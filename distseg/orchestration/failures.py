"""How a training fails: what Ray Train raises -> an error of distseg that tells the user what happened.

Also the callbacks that hear of failures and new groups in Ray Train's controller, and tell the driver (watcher.py).
"""

import re
from typing import Any

from ray.train import TrainingFailedError, UserCallback

from distseg.errors import DistsegError, ResourceError, TrainingError
from distseg.orchestration import compat, watcher

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
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]


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
