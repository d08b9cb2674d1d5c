"""The MLflow server: which one it is, how to reach it, and what it raises when it does not answer.

Whatever the server does, nobody waits for it longer than the times below. Each limits a whole phase, not one call (a
call that was given up ends by itself after environment.TIMEOUT_S, in its own thread):

    OPEN_WAIT_S       once, when a training begins
    CLOSE_EARLY_S     at each of at most three tries, when it is stopped or fails, for the status alone
    CLOSE_WAIT_S      once, when it ends, for the metrics in the queue; if all have arrived, as long for the pictures
    FINISH_WAIT_S     after that, for each of: metrics that are left; pictures that are left; report, tags and status
    MODEL_WAIT_S      once after that, if the server has taken all the rest, for the model and its registration

In between, a training never waits: metrics go through a queue. What was not sent in time is in the run's directory, and
`python -m distseg.sync` sends it. A SQLite file answers at once or fails; LOCKED_WAIT_S is how long another program may
hold it.
"""

import contextlib
import logging
import os
import posixpath
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

from distseg.errors import TrackingError, first_line
from distseg.tracking import environment
from distseg.tracking.address import is_local_file, is_on_this_machine, tracking_address, without_password
from distseg.tracking.mlflow_formats import KIND_OF_EXPERIMENT

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

OPEN_WAIT_S, CLOSE_EARLY_S, CLOSE_WAIT_S, FINISH_WAIT_S, MODEL_WAIT_S = 10.0, 3.0, 10.0, 20.0, 120.0
LOCKED_WAIT_S = 8.0  # below OPEN_WAIT_S; the trials of a search write one after the other
TRY_OUT_WAIT_S = 120.0  # nothing waits for it but a person who looks for what is wrong

T = TypeVar("T")

_one_makes_tables = threading.Lock()


def resolve_uri(uri: str) -> str:
    """tracking.uri as given, else MLFLOW_TRACKING_URI, else SQLite in ./runs (absolute, its directory made)."""
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if chosen:
        return chosen
    folder = Path("runs").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def checked_uri(name: str, uri: str) -> str:
    """`resolve_uri` of what a user gives as option `name`, as an address. Raises ConfigError, see address.py."""
    if not uri and not os.environ.get("MLFLOW_TRACKING_URI"):
        return resolve_uri(uri)
    return tracking_address(name if uri else f"{name}, of MLFLOW_TRACKING_URI", resolve_uri(uri))


def connect(uri: str) -> "MlflowClient":
    """MLflow's client for this server. Makes the tables of a SQLite file that does not exist yet."""
    environment.set_defaults()
    import mlflow

    path = uri.removeprefix("sqlite:///")
    if path not in (uri, "", ":memory:") and "?" not in path:  # a plain path, without options of SQLite
        if not Path(path).exists() and not os.access(Path(path).parent, os.W_OK | os.X_OK):  # MLflow tries for minutes
            raise TrackingError(f"MLflow at {uri}: {_SQLITE_PROBLEMS['unable to open database file']}")
        with _one_makes_tables:
            _make_tables(Path(path))
        _check_not_locked(uri, Path(path))
    try:
        return mlflow.MlflowClient(tracking_uri=uri)
    except server_errors() as error:
        raise as_tracking_error(uri, error) from None


def begin_to_connect(uri: str) -> None:
    """Imports MLflow in a thread, and makes the tables of a SQLite file that is none yet: seconds of the first call.

    For callers that have other things to wait for meanwhile. What goes wrong is said by the first call itself.
    """

    def load() -> None:
        with contextlib.suppress(Exception):  # a damaged installation, a file of another program
            import mlflow  # noqa: F401 — what takes the time

            if is_local_file(uri):
                connect(uri)

    threading.Thread(target=load, name="begins to connect to MLflow").start()


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


def _check_not_locked(uri: str, path: Path) -> None:
    """Raises TrackingError if another program holds a SQLite file. MLflow itself would try for most of a minute."""
    try:
        place = f"{path.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(place, LOCKED_WAIT_S, isolation_level=None, uri=True)) as file:
            file.execute("BEGIN IMMEDIATE")
            file.execute("ROLLBACK")
    except sqlite3.Error as error:  # all else is for MLflow to say
        if "locked" in str(error):
            raise as_tracking_error(uri, error) from None


def server_errors() -> tuple[type[Exception], ...]:
    """The exceptions of a call of MLflow whose server is down, slow, full, refuses, or is no MLflow server."""
    import requests
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # JSONDecodeError: what answers is a page, not JSON
    return (
        TrackingError,
        MlflowException,
        requests.RequestException,
        OSError,
        ParseError,
        JSONDecodeError,
        SQLAlchemyError,
    )


_REMOVED = "the file was removed or replaced; what it lacks is in the run's directory, and distseg.sync sends it"
_SQLITE_PROBLEMS = {  # what SQLite says: what that means, and what helps
    "database is locked": "another program holds the file; close it, or wait",
    "readonly database": "the file or its directory may not be written; change its owner or mode",
    "disk is full": "the disk is full; free some space",
    "disk I/O error": "the file cannot be read or written; was it removed, is the disk full?",
    "unable to open database file": "the file cannot be opened; is its directory there, may it be written?",
    "no such table": _REMOVED,
    "file is not a database": "the file is not a database; move it away",
    "malformed": "the file is damaged; move it away",
}
_NOT_MLFLOW = (
    "something answers, but not as MLflow does: is a login page before it, or another program there? Give the address "
    "of MLflow itself, and MLFLOW_TRACKING_TOKEN or MLFLOW_TRACKING_USERNAME if it asks for them"
)


def as_tracking_error(uri: str, error: Exception) -> TrackingError:
    """One of `server_errors` in one line: the server, what it did, and what to do where that is known."""
    if isinstance(error, TrackingError):
        return error
    status, what, text = _http_status(error), first_line(error), str(error)
    if is_local_file(uri):
        what = _sqlite_problem(Path(uri.partition(":///")[2].partition("?")[0]), text) or what
    elif status == 401:
        what = environment.refused_credentials()
    elif isinstance(error, JSONDecodeError) or "valid JSON" in text or "<html" in text.lower():
        what = _NOT_MLFLOW
    elif status == 403:
        what = f"refuses (403), this user or this address of the server (its --allowed-hosts): {what}"
    elif blocked := environment.blocked_way(text, urlsplit(uri).hostname):
        what = blocked
    elif "timeout exception" in what or "timed out" in what:
        what = f"no answer within {environment.timeout_s()} s"
    return TrackingError(f"MLflow at {without_password(uri)}: {what.replace(uri, without_password(uri))}")


def _sqlite_problem(path: Path, said: str) -> str:
    """Empty if it is unknown. SQLite also calls a file read-only that was removed while it was open."""
    may_write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    if not path.exists() or ("readonly database" in said and may_write):
        return _REMOVED
    return next((meaning for sign, meaning in _SQLITE_PROBLEMS.items() if sign in said), "")


@contextlib.contextmanager
def storing_files(uri: str) -> Iterator[None]:
    """While files are sent: the store that MLflow keeps them in is another server, whose client raises what it likes.

    Raises TrackingError for that.
    """
    try:
        yield
    except server_errors():
        raise
    except Exception as error:  # noqa: BLE001 — see above
        raise TrackingError(
            f"MLflow at {without_password(uri)}: the store of its artifacts takes no files: {first_line(error)}"
        ) from None


def _http_status(error: Exception) -> int | None:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    response = getattr(error, "response", None)  # of requests
    return None if response is None else int(response.status_code)


def experiment_id(client: "MlflowClient", uri: str, experiment: str) -> str:
    """The id of the experiment, which is created if it is not there. Raises TrackingError if it was deleted."""
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"MLflow at {without_password(uri)}: the experiment {experiment!r} was deleted; restore it (mlflow "
                f"experiments restore --experiment-id {found.experiment_id}), or give another by "
                "--tracking.experiment, or to distseg.sync by --experiment"
            )
        _warn_of_local_artifacts(uri, experiment, str(found.artifact_location or ""))
        return str(found.experiment_id)
    # A server has a place for artifacts. For a SQLite file we name one, else MLflow takes the working directory.
    artifacts = None
    if is_local_file(uri):
        file = Path(uri.partition(":///")[2].partition("?")[0]).absolute()
        artifacts = (file.parent / "mlartifacts" / quote(experiment, safe=" ").replace("..", "%2E%2E")).as_uri()
    return str(client.create_experiment(experiment, artifact_location=artifacts, tags=KIND_OF_EXPERIMENT))


@cache  # one line for each process
def _warn_of_local_artifacts(uri: str, experiment: str, location: str) -> None:
    """A server that was started without --artifacts-destination tells its clients to write to a path of its own."""
    if _is_of_the_clients_disk(uri, location):
        log.warning(
            "MLflow at %s keeps the artifacts of %r in %s, which each machine takes for a place of its own: the server "
            "will not have them; start it with --artifacts-destination, and give a new --tracking.experiment",
            *(without_password(uri), experiment, location),
        )


def _is_of_the_clients_disk(uri: str, location: str) -> bool:
    """Whether a server of another machine names a directory for artifacts: clients write to their own disk then."""
    is_path = not urlsplit(location).scheme or location.startswith("file:")
    return is_path and not is_on_this_machine(uri)


def try_out(uri: str, experiment: str) -> None:
    """Does at the server what a training will need: a run in the experiment, an artifact of it. Then deletes the run.

    Raises TrackingError in one line if the server does not answer within TRY_OUT_WAIT_S, or any of it is refused.
    """
    import mlflow  # noqa: F401 — before the clock begins: on a busy node it takes longer than the server

    def attempt() -> None:
        try:
            client = connect(uri)
            run = client.create_run(experiment_id(client, uri, experiment), tags={"stage": "doctor"}, run_name="doctor")
            try:
                location = str(run.info.artifact_uri)
                if _is_of_the_clients_disk(uri, location):
                    raise TrackingError(
                        f"MLflow at {without_password(uri)}: tells its clients to keep artifacts in {location}, on "
                        "their own disks; start it with --artifacts-destination, and give another --experiment"
                    )
                with storing_files(uri):
                    client.log_text(run.info.run_id, "An artifact can be written.", "doctor.txt")
                    found = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
                if "doctor.txt" not in found:
                    raise TrackingError(f"MLflow at {without_password(uri)}: does not have the artifact it was sent")
            finally:
                client.set_terminated(run.info.run_id, status="KILLED")
                client.delete_run(run.info.run_id)
        except server_errors() as error:
            raise as_tracking_error(uri, error) from None

    call_with_timeout(TRY_OUT_WAIT_S, uri, attempt)


def call_with_timeout(seconds: float, uri: str, call: Callable[[], T], *, attempts: int = 1) -> T:
    """Returns what `call` returns. After a TrackingError it is tried again a second later, `attempts` times in all.

    Raises the last TrackingError, or after `seconds` a TrackingError that says so. In the second case `call` goes on in
    its thread, and nobody waits for it: before it creates something it must look whether that exists. A file of this
    machine is called once, and waited for.
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


def run_link(uri: str, run_id: str, experiment: str) -> str:
    """How to see the run in a browser: a URL, or for a SQLite file the command that serves it."""
    if is_local_file(uri):
        return f"mlflow ui --backend-store-uri {uri}    (run {run_id})"
    try:
        found = connect(uri).get_experiment_by_name(experiment)
    except server_errors():
        return f"{without_password(uri)}    (it does not answer now; run {run_id})"
    experiment_id = found.experiment_id if found is not None else "0"
    # Without workflowType MLflow opens the page in its mode for language models, which has other sections.
    page = f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{without_password(uri).rstrip('/')}/{page}"


def metric_name(name: str) -> str:
    """`name` without characters that MLflow refuses: one bad name, as a class may have, would hold back all metrics."""
    return posixpath.normpath(re.sub(r"[^\w.\- :/]", "_", name)).lstrip("./")


def rounded(value: float) -> float:
    """A metric as it is logged, with six significant digits. (Six decimals would lose small learning rates.)"""
    return float(f"{value:.6g}")
