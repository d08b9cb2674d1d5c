"""The MLflow server: which one, how to reach it, and what it raises when it does not answer."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distseg.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

OFF = "off"  # a tracking.uri
TIMEOUT, TIMEOUT_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "15"


def resolve_uri(uri: str) -> str:
    """tracking.uri as given, else MLFLOW_TRACKING_URI, else SQLite in ./runs (absolute, its directory made)."""
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if chosen:
        return chosen
    folder = Path("runs").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def is_local_file(uri: str) -> bool:
    """Whether only processes of one machine can reach it."""
    return uri.startswith("sqlite:")


def connect(uri: str) -> "MlflowClient":
    # Short retries: waiting is the caller's thread's business. Read by mlflow at each call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault(TIMEOUT, TIMEOUT_S)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def patient(num_bytes: int, bytes_per_s: float = 4e6) -> Iterator[None]:
    """For an upload, which a server answers when it has passed the whole file on. A user's own timeout stays."""
    if os.environ.get(TIMEOUT, TIMEOUT_S) != TIMEOUT_S:
        yield
        return
    os.environ[TIMEOUT] = str(int(TIMEOUT_S) + int(num_bytes / bytes_per_s))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = TIMEOUT_S


def failures() -> tuple[type[Exception], ...]:
    """What a server that is down, slow, full or refusing makes the client, or a call of ours around it, raise."""
    import requests
    from mlflow.exceptions import MlflowException

    return TrackingError, MlflowException, requests.RequestException, OSError


def shown(uri: str) -> str:
    """The URI without a password."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if rest else uri
