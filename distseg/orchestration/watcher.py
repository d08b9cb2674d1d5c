"""What workers and controller tell the driver while a training runs: progress, warnings, and that workers start.

They put messages into a queue, an actor of Ray; `watching` reads it in a thread of the driver. A message is a tuple of
plain Python values, so that the actor need not import distseg:

    ("progress", step, metrics, worst condition)    rank 0 logged it
    ("warning", text)                               for the user
    ("starting",)                                   Ray Train asks for a group of workers
    ("started",)                                    the group trains
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import ray
from ray.util.queue import Empty, Queue

from distseg.errors import first_line

log = logging.getLogger(__name__)

SHORTAGE_AFTER_S = 20.0  # without workers, before the user is told
SHORTAGE_EVERY_S = 300.0  # until he is told again

OnProgress = Callable[[int, Mapping[str, float], str], None]


# ---- the sending side: workers and controller


def send_progress(queue: Queue, step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
    _send(queue, ("progress", step, dict(metrics), worst_condition))


def send_warning(queue: Queue, text: str) -> None:
    _send(queue, ("warning", text))


def send_starting(queue: Queue) -> None:
    _send(queue, ("starting",))


def send_started(queue: Queue) -> None:
    _send(queue, ("started",))


def _send(queue: Queue, message: tuple[Any, ...]) -> None:
    # Not `queue.put`: it waits for an answer, and a driver that is gone must not hold training back.
    cast(Any, queue.actor).put_nowait.remote(message)


class WarningsToDriver(logging.Handler):
    """Shows a worker's warnings where the user looks: at the driver."""

    def __init__(self, queue: Queue, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._queue, self._rank = queue, rank

    def emit(self, record: logging.LogRecord) -> None:
        send_warning(self._queue, f"worker {self._rank}: {record.getMessage()}")


# ---- the receiving side: the driver


@contextlib.contextmanager
def watching(shortage: Callable[[], str], on_progress: OnProgress | None) -> Iterator[Queue]:
    """A queue for the messages, read by a thread until the block ends.

    `on_progress` is called with what rank 0 logs. `shortage` says why no workers come, or nothing if they come: it is
    asked, and its answer logged, when a group is waited for too long. Else a full cluster would look like a hang.
    """
    queue = _make_queue()
    done = threading.Event()
    reader = _Reader(queue, done, shortage, on_progress)
    thread = threading.Thread(target=reader.run, name="progress", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        done.set()
        thread.join(timeout=5)
        queue.shutdown(force=True)


def _make_queue() -> Queue:
    """On the head, which outlives the other machines; in a trial of a search, where the trial's driver is placed."""
    options: dict[str, Any] = {"num_cpus": 0}
    if ray.util.get_current_placement_group() is None:
        options["resources"] = {"node:__internal_head__": 0.001}
    return Queue(actor_options=options)


class _Reader:
    """Reads the queue until `done` is set and the queue is empty."""

    def __init__(
        self, queue: Queue, done: threading.Event, shortage: Callable[[], str], on_progress: OnProgress | None
    ) -> None:
        self._queue, self._done, self._shortage, self._on_progress = queue, done, shortage, on_progress
        self._due_s = time.monotonic() + SHORTAGE_AFTER_S  # when to say that workers are waited for

    def run(self) -> None:
        try:
            while not (self._done.is_set() and self._queue.empty()):
                with contextlib.suppress(Empty):
                    self._handle(*self._queue.get(timeout=0.5))
                self._tell_shortage()
        except Exception as error:  # noqa: BLE001 — whatever Ray raises: training goes on without its display
            if not self._done.is_set():
                log.warning("progress is no longer shown: %s", first_line(error))

    def _handle(self, kind: str, *values: Any) -> None:
        match kind:
            case "starting":
                self._due_s = min(self._due_s, time.monotonic() + SHORTAGE_AFTER_S)
            case "started":
                self._due_s = math.inf
            case "warning":
                log.warning("%s", *values)
            case "progress" if self._on_progress is not None:
                self._on_progress(*values)

    def _tell_shortage(self) -> None:
        if time.monotonic() <= self._due_s:
            return
        if missing := self._shortage():
            log.warning("waiting for workers: %s", missing)
        self._due_s = time.monotonic() + (SHORTAGE_EVERY_S if missing else SHORTAGE_AFTER_S)
