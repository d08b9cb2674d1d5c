"""The MLflow server: which one it is, how to reach it, and what it raises when it does not answer.

Whatever the server does, nobody waits for it longer than the times below. Each limits a whole phase, not one call:

    OPEN_WAIT_S       once, when a training begins
    CLOSE_EARLY_S     once, when it is stopped from outside, for the status alone
    CLOSE_WAIT_S      once, when it ends, for the metrics in the queue; if all have arrived, as long for the pictures
    FINISH_WAIT_S     once after that, for the report, the tags and the status
    MODEL_WAIT_S      once after that, if the server has taken all the rest, for the model and its registration

In between, a training never waits: metrics go through a queue. What was not sent in time is in the run's directory, and
`python -m distseg.sync` sends it. A SQLite file needs no limit: it answers at once or fails.
"""

import logging
import os
import posixpath
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from distseg.errors import ConfigError, TrackingError, first_line
from distseg.tracking import environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

OFF = "off"  # a tracking.uri
OPEN_WAIT_S, CLOSE_EARLY_S, CLOSE_WAIT_S, FINISH_WAIT_S, MODEL_WAIT_S = 10.0, 3.0, 10.0, 20.0, 120.0

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
    """MLflow's client for this server. Makes the tables of a SQLite file that does not exist yet."""
    environment.set_defaults()
    import mlflow

    path = uri.removeprefix("sqlite:///")
    if path not in (uri, "", ":memory:") and "?" not in path:  # a plain path, without options of SQLite
        _make_tables(Path(path))
    return mlflow.MlflowClient(tracking_uri=uri)


def _make_tables(path: Path) -> None:
    """Makes the tables of a SQLite file that does not exist yet, quickly.

    MLflow would make them with a thousand writes to the disk, which takes seconds. Here MLflow makes them in memory
    (/dev/shm, where the system has it), and the finished file is copied. If another process makes the file meanwhile,
    that one is kept. If anything fails here, MLflow makes the tables itself, later.
    """
    memory = Path("/dev/shm")  # noqa: S108 — the folder used there has an unpredictable name
    if path.exists() or not path.parent.is_dir() or not memory.is_dir():
        return
    import mlflow

    try:  # the copy is made beside its final place, since a link cannot cross file systems
        with tempfile.TemporaryDirectory(dir=memory) as there, tempfile.TemporaryDirectory(dir=path.parent) as here:
            made, copied = Path(there, path.name), Path(here, path.name)
            mlflow.MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
            shutil.copyfile(made, copied)
            os.link(copied, path)
    except Exception as error:  # noqa: BLE001 — no room, a file system without links, or any error of MLflow
        log.debug("%s is left to MLflow: %s", path, first_line(error))


def server_errors() -> tuple[type[Exception], ...]:
    """The exceptions of a call of MLflow whose server is down, slow, full or refuses."""
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
        what = f"no answer within {environment.timeout_s()} s"
    return TrackingError(f"MLflow at {without_password(uri)}: {what}")


def _http_status(error: Exception) -> int | None:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    response = getattr(error, "response", None)  # of requests
    return None if response is None else int(response.status_code)


def call_with_timeout(seconds: float, uri: str, call: Callable[[], T], *, attempts: int = 1) -> T:
    """Returns what `call` returns. After a TrackingError it is tried again a second later, `attempts` times in all.

    Raises the last TrackingError, or after `seconds` a TrackingError that says so. In the second case `call` goes on in
    its thread, and nobody waits for it: before it creates something it must look whether that exists.
    """
    if is_local_file(uri):
        return call()
    answer: Future[T] = Future()

    def try_repeatedly() -> None:
        for left in reversed(range(attempts)):
            try:
                answer.set_result(call())
                return
            except Exception as error:  # noqa: BLE001 — raised again in the waiting thread
                if not left or not isinstance(error, TrackingError):
                    answer.set_exception(error)
                    return
            time.sleep(1.0)

    threading.Thread(target=try_repeatedly, name="mlflow", daemon=True).start()
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
    """`name` without characters that MLflow refuses: one bad name, as a class may have, would hold back all metrics."""
    return posixpath.normpath(re.sub(r"[^\w.\- :/]", "_", name)).lstrip("./")


def rounded(value: float) -> float:
    """A metric as it is logged, with six significant digits. (Six decimals would lose small learning rates.)"""
    return float(f"{value:.6g}")
