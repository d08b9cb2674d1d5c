"""Things on their way to the MLflow server: a queue and a thread, so that no step of training waits for the server.

What the server has not confirmed stays in the queue and is tried again, at most LONGEST_RETRY_S after it has come back.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from distseg.errors import first_line
from distseg.tracking.client import as_tracking_error, server_errors

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
LAST_TRIES = 3  # at the end, a second apart: a server that refuses them is not waited for any longer


class SendQueue(Generic[T]):
    """Gives items to `send` in order, up to `at_once` of them; `add` never waits, and nothing raises.

    What `send` raises is told in one line that begins with `what`, once until something else is wrong (`told`: what the
    user knows already), and passed on to `failed`. With a `limit`, the oldest of more items are dropped; once the
    server does not answer, all but the newest.
    """

    def __init__(
        self,
        uri: str,
        send: Callable[[Sequence[T]], None],
        *,
        what: str,
        failed: Callable[[], None],
        at_once: int = 1,
        limit: int | None = None,
        earlier: Iterable[T] = (),
        known_problem: str = "",
    ) -> None:
        self._uri, self._send, self._what, self._failed = uri, send, what, failed
        self._at_once, self._limit, self._known_problem = at_once, limit, known_problem
        self._queue: deque[T] = deque(earlier, maxlen=limit)
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._thread = threading.Thread(target=self._send_all, name=f"mlflow-{what}", daemon=True)
        self._thread.start()

    def add(self, item: T) -> None:
        with self._changed:
            self._queue.append(item)
            self._changed.notify()

    def waiting(self) -> list[T]:
        """What the server has not confirmed, oldest first."""
        with self._changed:
            return list(self._queue)

    def close(self, timeout_s: float) -> list[T]:
        """Sends what it can within `timeout_s`, or until LAST_TRIES have failed, and returns what is left."""
        with self._changed:
            self._closing_at = time.monotonic() + timeout_s
            self._changed.notify()
        self._thread.join(timeout_s)
        return self.waiting()

    def _send_all(self) -> None:
        retry_s, tries_left = FIRST_RETRY_S, LAST_TRIES
        while (batch := self._oldest()) is not None:
            try:
                self._send(batch)
            except Exception as error:  # noqa: BLE001 — whatever a broken server makes the client raise
                self._failed()
                self._tell(error)
                self._drop_all_but_the_newest()
                tries_left -= self._closing_at is not None
                if not tries_left or not self._wait(retry_s):
                    return
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            self._remove(batch)
            if self._known_problem:
                log.info("the MLflow server takes %s again", self._what)
                self._known_problem = ""

    def _oldest(self) -> list[T] | None:
        """Left in the queue until confirmed; None when closed and empty, or out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing_at is not None)
            out_of_time = self._closing_at is not None and time.monotonic() >= self._closing_at
            return None if not self._queue or out_of_time else list(self._queue)[: self._at_once]

    def _remove(self, sent: Sequence[T]) -> None:
        with self._changed:
            for item in sent:
                if self._queue and self._queue[0] is item:  # else it was dropped meanwhile
                    self._queue.popleft()

    def _tell(self, error: Exception) -> None:
        text = str(as_tracking_error(self._uri, error)) if isinstance(error, server_errors()) else first_line(error)
        if text != self._known_problem:
            log.warning("%s wait: %s", self._what, text)
            self._known_problem = text

    def _drop_all_but_the_newest(self) -> None:
        with self._changed:
            while self._limit is not None and len(self._queue) > 1:
                self._queue.popleft()

    def _wait(self, seconds: float) -> bool:
        """False when it is closing and out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing_at is not None, timeout=seconds)
            if self._closing_at is None:
                return True
        time.sleep(max(0.0, min(FIRST_RETRY_S, self._closing_at - time.monotonic())))
        return time.monotonic() < self._closing_at
