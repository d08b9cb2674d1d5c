"""A queue whose thread sends items to the MLflow server, so that no training step waits for the server.

An item stays in the queue until the server has confirmed it. Failed calls are repeated, with at most LONGEST_RETRY_S
between two of them.
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
LAST_TRIES = 3  # calls that may fail after `close`, about a second apart


class SendQueue(Generic[T]):
    """Passes items to `send` in order, up to `at_once` in one call. `add` never waits, and nothing raises.

    If `send` raises, `failed` is called, and the error is logged as one line that begins with `what`. The same error is
    logged once (`known_problem`: an error that the user has seen already). With a `limit`, the oldest items above
    it are dropped, and while the server does not answer, all but the newest.
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
        """Items that the server has not confirmed, oldest first."""
        with self._changed:
            return list(self._queue)

    def close(self, timeout_s: float) -> list[T]:
        """Sends until `timeout_s` are over or LAST_TRIES calls have failed. Returns the items that are left."""
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
            except Exception as error:  # noqa: BLE001 — a broken server can make the client raise anything
                self._failed()
                self._warn_once(error)
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
        """The next items, which stay in the queue. None if it is closed and empty, or out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing_at is not None)
            out_of_time = self._closing_at is not None and time.monotonic() >= self._closing_at
            return None if not self._queue or out_of_time else list(self._queue)[: self._at_once]

    def _remove(self, sent: Sequence[T]) -> None:
        with self._changed:
            for item in sent:
                if self._queue and self._queue[0] is item:  # else the limit dropped it meanwhile
                    self._queue.popleft()

    def _warn_once(self, error: Exception) -> None:
        text = str(as_tracking_error(self._uri, error)) if isinstance(error, server_errors()) else first_line(error)
        if text != self._known_problem:
            log.warning("%s wait: %s", self._what, text)
            self._known_problem = text

    def _drop_all_but_the_newest(self) -> None:
        with self._changed:
            while self._limit is not None and len(self._queue) > 1:
                self._queue.popleft()

    def _wait(self, seconds: float) -> bool:
        """False if it is closing and out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing_at is not None, timeout=seconds)
            if self._closing_at is None:
                return True
        time.sleep(max(0.0, min(FIRST_RETRY_S, self._closing_at - time.monotonic())))
        return time.monotonic() < self._closing_at
