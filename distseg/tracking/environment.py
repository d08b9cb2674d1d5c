"""Environment variables of MLflow's client: all that distseg sets, and nowhere else. Each holds for the whole process.

MLflow reads them at each call, so they may be set after it was imported. A value that a user has set stays.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

TIMEOUT, TIMEOUT_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "15"
DEFAULTS = {
    # A request that creates something must not be repeated blindly: it would create it twice. Our callers retry
    # themselves, after checking whether the first request succeeded.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT: TIMEOUT_S,
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the programs print the link themselves
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # it would break the programs' own progress line
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a uv.lock in the working directory is logged with each model
}


def set_defaults() -> None:
    """Must be called before the first call of MLflow."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for noisy in ("mlflow.store.db.utils", "mlflow.utils.rest_utils"):  # tracebacks of what is said in one line
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def timeout_s() -> str:
    """Seconds that one HTTP request may take."""
    return os.environ.get(TIMEOUT, TIMEOUT_S)


def refused_credentials() -> str:
    """What a 401 means and what to do about it, by what MLflow's client has sent. No value is told."""
    names = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
    missing = [name for name in names if not os.environ.get(name)]
    has_file = False
    with contextlib.suppress(RuntimeError):  # no home
        has_file = Path("~/.mlflow/credentials").expanduser().exists()  # for what the environment lacks
    if not missing:
        return f"refuses this user and password (401): correct {names[0]} and {names[1]}"
    if has_file:
        return f"refuses this user and password (401): correct ~/.mlflow/credentials, or set {names[0]} and {names[1]}"
    if os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return f"refuses this token (401): correct MLFLOW_TRACKING_TOKEN, or set {names[0]} and {names[1]}"
    if len(missing) == 1:
        return f"refuses (401): set {missing[0]}, too"
    return f"refuses (401): set {names[0]} and {names[1]}, or MLFLOW_TRACKING_TOKEN"


def blocked_way(said: str, host: str | None) -> str:
    """What stops requests before the server, by what the HTTP client says, and what to set; empty if it is not that."""
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "its certificate is not trusted: set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of its authority's"
    if "WRONG_VERSION_NUMBER" in said:
        return "it does not answer in TLS: give its address with http://"
    if "ProxyError" in said:
        variable = "HTTPS_PROXY or HTTP_PROXY"
        return f"the proxy before it refuses or does not answer: correct {variable}, or add {host} to NO_PROXY"
    return ""


@contextlib.contextmanager
def extended_timeout(num_bytes: int, bytes_per_s: float = 4e6) -> Iterator[None]:
    """A longer HTTP timeout while a file is uploaded: the server answers only after it has stored the whole file.

    A timeout that a user has set stays.
    """
    if timeout_s() != TIMEOUT_S:
        yield
        return
    os.environ[TIMEOUT] = str(int(TIMEOUT_S) + int(num_bytes / bytes_per_s))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = TIMEOUT_S
