"""The MLflow server: which one, how to reach it, and what it raises when it does not answer.

Whatever the server does, nobody waits for it longer than these, which hold together, not for each call:

    OPEN_WAIT_S       once, when a training begins
    CLOSE_WAIT_S      once, when it ends, for metrics still on their way, and as long for pictures if those are through
    FINISH_WAIT_S     once after that, for the report, the tags and the status
    MODEL_WAIT_S      once after that, if the server has taken all the rest, for the model and its registration

Between beginning and end a training never waits: metrics go through a queue. What was not sent in time is in the run's
directory, and `python -m distseg.sync` sends it. A SQLite file is no server: it answers at once or fails.
"""

import contextlib
import logging
import os
import posixpath
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from distseg.errors import ConfigError, TrackingError, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

OFF = "off"  # a tracking.uri
TIMEOUT, TIMEOUT_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "15"
OPEN_WAIT_S, CLOSE_WAIT_S, FINISH_WAIT_S, MODEL_WAIT_S = 10.0, 10.0, 20.0, 120.0

T = TypeVar("T")


def resolve_uri(uri: str) -> str:
    """tracking.uri as given, else MLFLOW_TRACKING_URI, else SQLite in ./runs (absolute, its directory made)."""
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if chosen:
        return chosen
    folder = Path("runs").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def checked_uri(name: str, uri: str) -> str:
    """`resolve_uri` of what a user gives as option `name`. Raises ConfigError for a URI that carries a password."""
    uri = resolve_uri(uri)
    if "@" in uri.partition("://")[2].partition("/")[0]:
        raise ConfigError(
            f"{name} carries a user or password, which would be kept with the run: give the server's plain URL "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return uri


def is_local_file(uri: str) -> bool:
    """Whether only processes of one machine can reach it."""
    return uri.startswith("sqlite:")


def connect(uri: str) -> "MlflowClient":
    # No retries: a request that creates something and is repeated unseen would create it twice. Who calls tries again,
    # having looked what is there. Read by mlflow at each call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault(TIMEOUT, TIMEOUT_S)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    path = uri.removeprefix("sqlite:///")
    if path not in (uri, "", ":memory:") and "?" not in path:  # a file, and nothing said of how to open it
        _make_tables(Path(path))
    return mlflow.MlflowClient(tracking_uri=uri)


def _make_tables(path: Path) -> None:
    """The tables of a SQLite file that is not there yet.

    MLflow makes them in a thousand writes, each of which waits for the disk, seconds in all. So they are made in
    memory, where the system has a folder for that, and copied. A file that another process makes meanwhile stays, and
    what does not succeed here is left to MLflow.
    """
    memory = Path("/dev/shm")  # noqa: S108 — no name in it is foreseeable: see below
    if path.exists() or not path.parent.is_dir() or not memory.is_dir():
        return
    import mlflow

    try:  # two folders, since the file must be where its name will be
        with tempfile.TemporaryDirectory(dir=memory) as there, tempfile.TemporaryDirectory(dir=path.parent) as here:
            made, copied = Path(there, path.name), Path(here, path.name)
            mlflow.MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
            shutil.copyfile(made, copied)
            os.link(copied, path)
    except Exception as error:  # noqa: BLE001 — no room, no links on that file system, whatever MLflow makes of it
        log.debug("%s is left to MLflow: %s", path, first_line(error))


@contextlib.contextmanager
def extended_timeout(num_bytes: int, bytes_per_s: float = 4e6) -> Iterator[None]:
    """For an upload, which a server answers when it has passed the whole file on. A user's own timeout stays."""
    if os.environ.get(TIMEOUT, TIMEOUT_S) != TIMEOUT_S:
        yield
        return
    os.environ[TIMEOUT] = str(int(TIMEOUT_S) + int(num_bytes / bytes_per_s))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = TIMEOUT_S


def server_errors() -> tuple[type[Exception], ...]:
    """What a server that is down, slow, full or refusing makes the client, or a call of ours around it, raise."""
    import requests
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from mlflow.exceptions import MlflowException

    return TrackingError, MlflowException, requests.RequestException, OSError, ParseError


def as_tracking_error(uri: str, error: Exception) -> TrackingError:
    """One of `failures` in one line: the server, what it did, and what to do where that is known."""
    if isinstance(error, TrackingError):
        return error
    status = _http_status(error)
    what = first_line(error)
    if status == 401:
        what = (
            "refuses (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
            "here and where the workers run"
        )
    elif status == 403:
        what = f"refuses (403), this user or this address of the server (its --allowed-hosts): {what}"
    elif "timeout exception" in what or "timed out" in what:
        what = f"no answer within {os.environ.get(TIMEOUT)} s"
    return TrackingError(f"MLflow at {without_password(uri)}: {what}")


def _http_status(error: Exception) -> int | None:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    response = getattr(error, "response", None)  # of requests
    return None if response is None else int(response.status_code)


def call_with_timeout(seconds: float, uri: str, call: Callable[[], T], *, attempts: int = 1) -> T:
    """What `call` gives, which is tried again a second after a TrackingError.

    Raises the last TrackingError; and after `seconds`, whatever `call` is doing, one that says so. It is then left to
    itself in its thread, so it must look before it does what may not be done twice.
    """
    if is_local_file(uri):
        return call()
    answer: Future[T] = Future()

    def ask() -> None:
        for left in reversed(range(attempts)):
            try:
                answer.set_result(call())
                return
            except Exception as error:  # noqa: BLE001 — all of them belong to whoever waits
                if not left or not isinstance(error, TrackingError):
                    answer.set_exception(error)
                    return
            time.sleep(1.0)

    threading.Thread(target=ask, name="mlflow", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():
            raise
        raise TrackingError(f"MLflow at {without_password(uri)}: not done within {seconds:.0f} s") from None


def without_password(uri: str) -> str:
    """The URI without a password."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if rest else uri


def metric_name(name: str) -> str:
    """As MLflow takes it: a class may have any name, but one metric that is refused would hold back all others."""
    return posixpath.normpath(re.sub(r"[^\w.\- :/]", "_", name)).lstrip("./")


def rounded(value: float) -> float:
    """A metric as it is kept: six significant digits, so that small learning rates are not rounded away."""
    return float(f"{value:.6g}")
