"""The MLflow server: which one, how to reach it, and what it raises when it does not answer."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from distseg.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

OFF = "off"  # a tracking.uri


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
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


def failures() -> tuple[type[Exception], ...]:
    """What a server that is down, slow, full or refusing makes the client, or a call of ours around it, raise."""
    import requests
    from mlflow.exceptions import MlflowException

    return TrackingError, MlflowException, requests.RequestException, OSError


def shown(uri: str) -> str:
    """The URI without a password."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if rest else uri
