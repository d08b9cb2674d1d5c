"""Pictures of evaluations on their way to MLflow.

Bounded: at most MAX_WAITING evaluations wait while the server answers, and only the newest one once it does not. What
is not sent at the end is not lost: each evaluation's checkpoint has its pictures, and `send_pictures` sends those.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from distseg.evaluation import without_prediction
from distseg.tracking.client import as_tracking_error, connect, server_errors
from distseg.tracking.send_queue import SendQueue

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_WAITING = 4  # evaluations

_STORED = re.compile(r"images/(?P<name>.+)\+step\+(?P<step>\d+)\+timestamp\+\d+\+[^+]+\.png")


class _Drawn(NamedTuple):
    """One evaluation's."""

    step: int
    pictures: dict[str, bytes]  # name, as `overlay/night`, -> JPEG


class PictureLog:
    """Sends JPEGs to the run's image grid, each (name, step) once; never blocks, never raises.

    `open_run` returns the run's id and may raise TrackingError, in which case it is called again later. `told` is what
    the user knows to be wrong already.
    """

    def __init__(self, uri: str, open_run: Callable[[], str], *, known_problem: str = "") -> None:
        self._uri, self._open_run = uri, open_run
        self._there: set[tuple[str, int]] | None = None  # what the run has; None: to be asked
        self._outbox = SendQueue(
            uri, self._send, what="pictures", failed=self._fail, limit=MAX_WAITING, known_problem=known_problem
        )

    def log(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """`pictures`: name, as `overlay/night`, -> JPEG. Beyond MAX_WAITING evaluations the oldest is dropped."""
        if pictures:
            self._outbox.add(_Drawn(step, dict(pictures)))

    def close(self, timeout_s: float) -> int | None:
        """Sends what it can within `timeout_s`; the newest step of what is left, None if nothing is."""
        left = self._outbox.close(timeout_s)
        return left[-1].step if left else None

    def _send(self, batch: Sequence[_Drawn]) -> None:
        run_id = self._open_run()
        client = connect(self._uri)
        if self._there is None:
            self._there = _pictures_of(client, run_id)
        for drawn in batch:
            _send_missing(client, run_id, drawn.step, drawn.pictures, self._there)

    def _fail(self) -> None:
        self._there = None  # what was sent may have arrived all the same


def send_pictures(uri: str, run_id: str, step: int, pictures: Mapping[str, bytes]) -> int:
    """Sends those that the run has not; returns how many. Raises TrackingError."""
    client = connect(uri)
    try:
        return _send_missing(client, run_id, step, pictures, _pictures_of(client, run_id)) if pictures else 0
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None


def _send_missing(
    client: "MlflowClient", run_id: str, step: int, pictures: Mapping[str, bytes], there: set[tuple[str, int]]
) -> int:
    """Adds what it sends to `there`. MLflow's page begins at step 0, where it would show an empty grid."""
    missing = [name for name in pictures if (name, step) not in there]
    for name in missing:
        without_password = (
            {step: pictures[name]}
            if (name, 0) in there
            else {0: without_prediction(pictures[name]), step: pictures[name]}
        )
        for at, jpeg in without_password.items():
            client.log_image(run_id, Image.open(io.BytesIO(jpeg)), key=name, step=at, synchronous=True)
            there.add((name, at))
    return len(missing)


def _pictures_of(client: "MlflowClient", run_id: str) -> set[tuple[str, int]]:
    """(name, step) of each that a run has: an evaluation done again after a crash is not shown twice."""
    matches = (_STORED.fullmatch(artifact.path) for artifact in client.list_artifacts(run_id, "images"))
    return {(found["name"].replace("~", "/"), int(found["step"])) for found in matches if found}
