"""Sends the pictures of evaluations to MLflow.

Memory is bounded: the pictures of at most MAX_WAITING evaluations wait, and only the newest while the server does not
answer. Of pictures that are not sent, the checkpoints that are kept have those of the best and the newest evaluation;
`send_pictures` sends them later.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from distseg.evaluation import with_note
from distseg.tracking.client import as_tracking_error, connect, server_errors, storing_files
from distseg.tracking.mlflow_formats import pictures_in
from distseg.tracking.send_queue import SendQueue

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_WAITING = 4  # evaluations


class _Evaluation(NamedTuple):
    step: int
    pictures: dict[str, bytes]  # name, as `overlay/night`, -> JPEG


class PictureLog:
    """Sends JPEGs to the run's image grid, each (name, step) once. `log` never waits, and nothing raises.

    `open_run` returns the run's id; if it raises TrackingError it is called again later. `known_problem`: the warning
    that the user has seen already, which is not repeated.
    """

    def __init__(self, uri: str, open_run: Callable[[], str], *, known_problem: str = "") -> None:
        self._uri, self._open_run = uri, open_run
        self._stored: set[tuple[str, int]] | None = None  # (name, step) that the run has; None: not asked yet
        self._queue = SendQueue(
            uri, self._send, what="pictures", failed=self._fail, limit=MAX_WAITING, known_problem=known_problem
        )

    def log(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """`pictures`: name, as `overlay/night`, -> JPEG. Above MAX_WAITING evaluations the oldest is dropped."""
        if pictures:
            self._queue.add(_Evaluation(step, dict(pictures)))

    def close(self, timeout_s: float) -> int | None:
        """Sends what it can within `timeout_s`. Returns the newest step that is left, or None if all was sent."""
        left = self._queue.close(timeout_s)
        return left[-1].step if left else None

    def _send(self, batch: Sequence[_Evaluation]) -> None:
        run_id = self._open_run()
        client = connect(self._uri)
        if self._stored is None:
            self._stored = _pictures_of(client, run_id)
        for drawn in batch:
            _send_missing(client, self._uri, run_id, drawn.step, drawn.pictures, self._stored)

    def _fail(self) -> None:
        self._stored = None  # the failed call may have stored some: ask again


def send_pictures(uri: str, run_id: str, step: int, pictures: Mapping[str, bytes]) -> int:
    """Sends the pictures that the run lacks and returns how many those were. Raises TrackingError."""
    client = connect(uri)
    try:
        return _send_missing(client, uri, run_id, step, pictures, _pictures_of(client, run_id)) if pictures else 0
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None


def _send_missing(
    client: "MlflowClient",
    uri: str,
    run_id: str,
    step: int,
    pictures: Mapping[str, bytes],
    stored: set[tuple[str, int]],
) -> int:
    """Adds what it sends to `stored`.

    MLflow's page of images opens at step 0, before anything is predicted. For that step the first picture of each name
    is sent as well, with a line that says so.
    """
    missing = [name for name in pictures if (name, step) not in stored]
    for name in missing:
        jpegs = {step: pictures[name]}
        if (name, 0) not in stored:
            jpegs = {0: with_note(pictures[name], f"this is of step {step}; move the slider for the others")} | jpegs
        for at, jpeg in jpegs.items():
            with storing_files(uri):
                client.log_image(run_id, _quickly_saved(jpeg), key=name, step=at, synchronous=True)
            stored.add((name, at))
    return len(missing)


def _quickly_saved(jpeg: bytes) -> Image.Image:
    """MLflow saves it as PNG: at Pillow's own level in twice the time, for a file that is 8% smaller."""
    image = Image.open(io.BytesIO(jpeg))
    setattr(image, "save", functools.partial(image.save, compress_level=1))  # noqa: B010 — mypy takes it for a method
    return image


def _pictures_of(client: "MlflowClient", run_id: str) -> set[tuple[str, int]]:
    """(name, step) of each picture that a run has: an evaluation repeated after a crash must not be shown twice."""
    return pictures_in(artifact.path for artifact in client.list_artifacts(run_id, "images"))
