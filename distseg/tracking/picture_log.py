"""Pictures of evaluations on their way to MLflow: a thread sends them, and no step of training waits for it.

Bounded: at most MAX_WAITING evaluations wait while the server answers, and only the newest one once it does not. What
is not sent at the end is not lost: each evaluation's checkpoint has its pictures, and `send_pictures` sends those.
"""

import io
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from PIL import Image

from distseg.errors import first_line
from distseg.tracking.client import connect, failures, named
from distseg.tracking.metric_log import FIRST_RETRY_S, LONGEST_RETRY_S

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MAX_WAITING = 4  # evaluations

_STORED = re.compile(r"images/(?P<name>.+)\+step\+(?P<step>\d+)\+timestamp\+\d+\+[^+]+\.png")


class PictureLog:
    """Sends JPEGs to the run's image grid, each (name, step) once; never blocks, never raises.

    `open_run` returns the run's id and may raise TrackingError, in which case it is called again later. `told` is what
    the user knows to be wrong already.
    """

    def __init__(self, uri: str, open_run: Callable[[], str], *, told: str = "") -> None:
        self._uri, self._open_run, self._told = uri, open_run, told
        self._waiting: deque[tuple[int, dict[str, bytes]]] = deque(maxlen=MAX_WAITING)
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._there: set[tuple[str, int]] | None = None  # what the run has
        self._thread = threading.Thread(target=self._send_all, name="picture-log", daemon=True)
        self._thread.start()

    def log(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """`pictures`: name, as `overlay/night`, -> JPEG. Beyond MAX_WAITING evaluations the oldest is dropped."""
        with self._changed:
            if pictures:
                self._waiting.append((step, dict(pictures)))
                self._changed.notify()

    def close(self, timeout_s: float) -> int | None:
        """Sends what it can within `timeout_s`; the newest step of what is left, None if nothing is."""
        with self._changed:
            self._closing_at = time.monotonic() + timeout_s
            self._changed.notify()
        self._thread.join(timeout_s + 1)
        with self._changed:
            return self._waiting[-1][0] if self._waiting else None

    def _send_all(self) -> None:
        retry_s = FIRST_RETRY_S
        while (oldest := self._oldest()) is not None:
            try:
                self._send(*oldest)
            except Exception as error:  # noqa: BLE001 — whatever a broken server makes the client raise
                self._there = None  # what was sent may have arrived all the same
                self._keep_the_newest()
                text = str(named(self._uri, error)) if isinstance(error, failures()) else first_line(error)
                if text != self._told:
                    log.warning("pictures wait: %s", text)
                    self._told = text
                if not self._wait(retry_s):
                    return
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            with self._changed:
                if self._waiting and self._waiting[0] is oldest:
                    self._waiting.popleft()

    def _oldest(self) -> tuple[int, dict[str, bytes]] | None:
        """Left in the queue until it is sent; None when closed and empty, or out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing_at is not None)
            out_of_time = self._closing_at is not None and time.monotonic() >= self._closing_at
            return None if not self._waiting or out_of_time else self._waiting[0]

    def _keep_the_newest(self) -> None:
        with self._changed:
            while len(self._waiting) > 1:
                self._waiting.popleft()

    def _wait(self, seconds: float) -> bool:
        """False when the log is closing and out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing_at is not None, timeout=seconds)
            if self._closing_at is None:
                return True
        time.sleep(max(0.0, min(FIRST_RETRY_S, self._closing_at - time.monotonic())))
        return time.monotonic() < self._closing_at

    def _send(self, step: int, pictures: Mapping[str, bytes]) -> None:
        run_id = self._open_run()
        client = connect(self._uri)
        if self._there is None:
            self._there = _pictures_of(client, run_id)
        _send_missing(client, run_id, step, pictures, self._there)


def send_pictures(uri: str, run_id: str, step: int, pictures: Mapping[str, bytes]) -> int:
    """Sends those that the run has not; returns how many. Raises TrackingError."""
    client = connect(uri)
    try:
        return _send_missing(client, run_id, step, pictures, _pictures_of(client, run_id)) if pictures else 0
    except failures() as error:
        raise named(uri, error) from None


def _send_missing(
    client: "MlflowClient", run_id: str, step: int, pictures: Mapping[str, bytes], there: set[tuple[str, int]]
) -> int:
    """Adds what it sends to `there`."""
    missing = [name for name in pictures if (name, step) not in there]
    for name in missing:
        image = Image.open(io.BytesIO(pictures[name]))
        client.log_image(run_id, image, key=name, step=step, synchronous=True)
        there.add((name, step))
    return len(missing)


def _pictures_of(client: "MlflowClient", run_id: str) -> set[tuple[str, int]]:
    """(name, step) of each that a run has: an evaluation done again after a crash is not shown twice."""
    matches = (_STORED.fullmatch(artifact.path) for artifact in client.list_artifacts(run_id, "images"))
    return {(found["name"].replace("~", "/"), int(found["step"])) for found in matches if found}
