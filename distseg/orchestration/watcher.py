"""What workers and controller tell the driver while a training runs, and what the driver tells them: to end.

All goes through one actor of Ray, the channel. `watching` makes it and reads it in a thread of the driver; the next
training of the process, as that of another trial, has the same one. A message is a tuple of plain Python values:

    ("progress", step, metrics, worst condition)    rank 0 logged it
    ("metrics", records)                            for MLflow
    ("pictures", step, name -> JPEG)                for MLflow
    ("warning", text)                               for the user
    ("starting",)                                   Ray Train asks for a group of workers
    ("started",)                                    the group trains
    ("stopped",)                                    it has saved and ended, because the driver wanted it to
    ("over",)                                       says the driver itself: its thread need not wait for more
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ray

from distseg import stopping
from distseg.errors import first_line
from distseg.orchestration import compat
from distseg.runs import Left, Logs, NoLogs
from distseg.tracking import MetricRecord

log = logging.getLogger(__name__)

SHORTAGE_AFTER_S = 20.0  # without workers, before the user is told
SHORTAGE_EVERY_S = 300.0  # until he is told again
HANDED_OVER_S = 10.0  # at the end of a worker, for its last messages to arrive at the channel
ANSWERS_WITHIN_S = 5.0  # an actor that has served another training of this process
NOTICED_EVERY_S = 1.0  # a worker looks for a notice; clouds give 30 to 120 s

OnProgress = Callable[[int, Mapping[str, float], str], None]
Message = tuple[Any, ...]


class _Post:
    """The actor. It serves one training at a time and ignores what is still said for an earlier one."""

    def __init__(self, training: str) -> None:
        self._begin(training)

    def _begin(self, training: str) -> None:
        self._serves = training
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._stop = asyncio.Event()

    async def serve(self, training: str) -> None:
        self._stop.set()  # whoever of the earlier training still waits for it is to end
        self._begin(training)

    async def put(self, training: str, message: Message) -> None:
        if training == self._serves:
            self._messages.put_nowait(message)

    async def take(self, training: str, timeout_s: float) -> list[Message]:
        """All that are there; if there are none, the next one, or none after a time."""
        taken: list[Message] = []
        if training != self._serves:
            return taken
        with contextlib.suppress(asyncio.TimeoutError):
            taken.append(await asyncio.wait_for(self._messages.get(), timeout_s))
        while training == self._serves and not self._messages.empty():
            taken.append(self._messages.get_nowait())
        return taken

    async def stop(self, training: str) -> None:
        if training == self._serves:
            self._stop.set()

    async def stopped(self, training: str) -> None:
        if training == self._serves:
            await self._stop.wait()


class Channel(NamedTuple):
    """What the processes of one training are given of the actor."""

    actor: Any
    training: str

    def put(self, message: Message) -> Any:
        """The answer need not be waited for."""
        return self.actor.put.remote(self.training, message)

    def take(self, timeout_s: float) -> list[Message]:
        taken: list[Message] = ray.get(self.actor.take.remote(self.training, timeout_s))
        return taken

    def stop(self) -> None:
        self.actor.stop.remote(self.training)

    def wait_for_stop(self) -> None:
        ray.get(self.actor.stopped.remote(self.training))


# ---- in workers and in the controller


def send_progress(channel: Channel, step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
    _send(channel, ("progress", step, dict(metrics), worst_condition))


def send_warning(channel: Channel, text: str) -> None:
    _send(channel, ("warning", text))


def send_starting(channel: Channel) -> None:
    _send(channel, ("starting",))


def send_started(channel: Channel) -> None:
    _send(channel, ("started",))


def send_stopped(channel: Channel) -> None:
    _send(channel, ("stopped",))


def _send(channel: Channel, message: Message) -> None:
    channel.put(message)  # without waiting for an answer: a driver that is gone must not hold training back


@contextlib.contextmanager
def hearing(channel: Channel, rank: int) -> Iterator[None]:
    """In a worker, while it trains: it hears the driver and notices, and the driver hears its warnings.

    Afterwards nothing of it is left: the process may do another training.
    """
    ended, warnings = threading.Event(), WarningsToDriver(channel, rank)
    stopping.take_announcement()
    logging.getLogger("distseg").addHandler(warnings)
    _hear_stop(channel, ended)
    _hear_preemption(rank, ended)
    try:
        yield
    finally:
        ended.set()
        logging.getLogger("distseg").removeHandler(warnings)


def _hear_stop(channel: Channel, ended: threading.Event) -> None:
    """From now on `stopping.is_requested` tells in this process when the driver wants it to end."""

    def wait() -> None:
        with contextlib.suppress(Exception):  # whatever Ray raises when the training ends and the channel with it
            channel.wait_for_stop()
            if not ended.is_set():
                stopping.request()

    threading.Thread(target=wait, name="stopping", daemon=True).start()


def _hear_preemption(rank: int, ended: threading.Event) -> None:
    """From now on each notice that a machine of the group is to be taken away makes the training save.

    Ray Train hears of it from Ray (`ray drain-node`, autoscalers), tells all workers, and replaces them when the time
    is over. Without the checkpoint, the steps since the last one would be lost.
    """

    def wait() -> None:
        known: int | None = None
        while not ended.wait(NOTICED_EVERY_S):
            deadline_ms = compat.preemption_deadline_ms()
            if deadline_ms is not None and deadline_ms != known:
                if rank == 0:
                    left_s = deadline_ms / 1000 - time.time()
                    when = f"in {left_s:.0f} s" if left_s > 0 else "soon"
                    log.warning("a machine is to be taken away %s: the newest step is saved", when)
                stopping.announce()
            known = deadline_ms

    threading.Thread(target=wait, name="preemption", daemon=True).start()


class LogsToDriver:
    """Hands a worker's metrics and pictures over to the driver, which sends them to MLflow."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._num_records = 0
        self._on_their_way: list[Any] = []  # answers to messages; a large one may be overtaken by those after it
        self._has_failed = False

    def metrics(self, records: Sequence[MetricRecord]) -> None:
        self._num_records += len(records)
        if records:
            self._put(("metrics", list(records)))

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        self._put(("pictures", step, dict(pictures)))

    def _put(self, message: Message) -> None:
        try:
            if self._on_their_way:
                _, self._on_their_way = ray.wait(self._on_their_way, num_returns=len(self._on_their_way), timeout=0)
            self._on_their_way.append(self._channel.put(message))
        except Exception as error:  # noqa: BLE001 — whatever Ray raises, as if its object store is full
            self._fail(error)

    def close(self) -> Left | None:
        """All is left, as far as a worker knows; None if it did not arrive."""
        try:
            ray.get(self._on_their_way, timeout=HANDED_OVER_S)
        except Exception as error:  # noqa: BLE001 — whatever Ray raises
            self._fail(error)
        return None if self._has_failed else Left(self._num_records, True)

    def _fail(self, error: Exception) -> None:
        """The journal has the metrics, and what arrived is not sent twice."""
        if not self._has_failed:
            log.warning("metrics wait: %s", first_line(error))
        self._has_failed = True


class WarningsToDriver(logging.Handler):
    """Shows a worker's warnings where the user looks: at the driver."""

    def __init__(self, channel: Channel, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._channel, self._rank = channel, rank

    def emit(self, record: logging.LogRecord) -> None:
        send_warning(self._channel, f"worker {self._rank}: {record.getMessage()}")


# ---- in the driver


@contextlib.contextmanager
def watching(shortage: Callable[[], str], on_progress: OnProgress | None) -> Iterator["Watcher"]:
    """Reads a new channel in a thread until the block ends.

    `on_progress` is called with what rank 0 logs. `shortage` says why no workers come, or nothing if they come: it is
    asked, and its answer logged, when a group is waited for too long. Else a full cluster would look like a hang.
    """
    watcher = Watcher(_open_channel(), shortage, on_progress)
    thread = threading.Thread(target=watcher.run, name="progress", daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.done.set()
        with contextlib.suppress(Exception):  # whatever Ray raises: then it ends by itself
            watcher.channel.put(("over",))
        thread.join(timeout=5)
        _idle.append(watcher.channel.actor)


_idle: list[Any] = []  # actors of this process that serve no training; they end with it


def _open_channel() -> Channel:
    """Of an idle actor that still answers, else of a new one.

    That is made on the head, which outlives the other machines; in a trial of a search, where the trial's driver is
    placed.
    """
    training = uuid.uuid4().hex
    while _idle:
        actor = _idle.pop()
        with contextlib.suppress(Exception):  # whatever Ray raises: it is dead, or of a cluster that was left
            ray.get(actor.serve.remote(training), timeout=ANSWERS_WITHIN_S)
            return Channel(actor, training)
    options: dict[str, Any] = {"num_cpus": 0}
    if ray.util.get_current_placement_group() is None:
        options["resources"] = {"node:__internal_head__": 0.001}
    return Channel(ray.remote(**options)(_Post).remote(training), training)


class Watcher:
    """Reads the channel until `done` is set and the channel is empty."""

    def __init__(self, channel: Channel, shortage: Callable[[], str], on_progress: OnProgress | None) -> None:
        self.channel, self.done = channel, threading.Event()
        self.logs: Logs = NoLogs()  # for MLflow; set before the first worker begins
        self.is_training, self.was_stopped, self.has_heard_all = False, False, False
        self._shortage, self._on_progress = shortage, on_progress
        self._due_s = time.monotonic() + SHORTAGE_AFTER_S  # when to say that workers are waited for

    def stop_workers(self) -> None:
        """Lets them save the newest step and end; those that start later end as soon as they have begun."""
        self.channel.stop()

    def run(self) -> None:
        try:
            while True:
                is_last = self.done.is_set()  # asked first: what was sent until then is still read
                for kind, *values in self.channel.take(0.0 if is_last else 0.5):
                    self._handle(kind, *values)
                if is_last:
                    self.has_heard_all = True
                    return
                self._tell_shortage()
        except Exception as error:  # noqa: BLE001 — whatever Ray raises: training goes on without its display
            if not self.done.is_set():
                log.warning("progress is no longer shown: %s", first_line(error))

    def _handle(self, kind: str, *values: Any) -> None:
        match kind:
            case "starting":
                self.is_training = False
                self._due_s = min(self._due_s, time.monotonic() + SHORTAGE_AFTER_S)
            case "started":
                self.is_training = True
                self._due_s = math.inf
            case "stopped":
                self.was_stopped = True
            case "metrics":
                self.logs.metrics(*values)
            case "pictures":
                self.logs.pictures(*values)
            case "warning":
                log.warning("%s", *values)
            case "progress":
                self._show(*values)

    def _show(self, step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
        if self._on_progress is None:
            return
        try:
            self._on_progress(step, metrics, worst_condition)
        except Exception as error:  # noqa: BLE001 — a user's function: MLflow gets the rest
            self._on_progress = None
            log.warning("progress is no longer shown: %s", first_line(error))

    def _tell_shortage(self) -> None:
        if time.monotonic() <= self._due_s:
            return
        if missing := self._shortage():
            log.warning("waiting for workers: %s", missing)
        self._due_s = time.monotonic() + (SHORTAGE_EVERY_S if missing else SHORTAGE_AFTER_S)
