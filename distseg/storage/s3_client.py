"""Calls of S3 through boto3: one client per process, retries, one clear error each.

What may pass (a refused connection, 5xx, throttling, a body cut short) is retried; other 4xx fail at once. A server
that this process has never reached is tried for `retries.FIRST_CONTACT_S` only. So is an expired token: a role or
whoever writes the credentials file may be about to renew it, and a server of credentials may be busy.
Threads share one client; processes do not, so forking is safe. boto3 is imported at the first call, not before.
"""

import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from distseg.storage import retries
from distseg.storage.retries import AttemptError, retried
from distseg.storage.s3_errors import diagnose, is_of_credentials, redirected, server_of, unusable
from distseg.storage.store import DEADLINE_S, bucket_and_key, refuse_directory

METADATA_ATTEMPTS = 3  # EC2 refuses some of them where many processes start at once, and that reads as "no credentials"
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0  # of silence; completing a large upload takes a server a while

_T = TypeVar("_T")


def call(uri: str, deadline_s: float, action: Callable[[Any], _T]) -> _T:
    """`action(client)`, retried while that can help and time is left. Raises StorageError."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    def attempt() -> _T:
        connection = _connection(deadline_s)
        try:
            result = action(connection.client)
        except (BotoCoreError, ClientError, HTTPError, OSError) as error:
            connection.reached |= isinstance(error, ClientError) and not is_of_credentials(error)
            raise _failed(error, connection, deadline_s) from error
        connection.reached = True
        return result

    return retried(uri, attempt)


def object_of(uri: str) -> dict[str, Any]:
    """The Bucket and Key arguments of an S3 call."""
    refuse_directory(uri)
    bucket, key = bucket_and_key(uri)
    return {"Bucket": bucket, "Key": key}


# ---- the connection


@dataclass
class _Connection:
    """The client of this process for one set of credentials and one server."""

    client: Any
    server: str  # for error messages: no user name, no query
    reached: bool = False  # has the server ever answered?


def _failed(error: Exception, connection: _Connection, deadline_s: float) -> AttemptError:
    problem = diagnose(error, connection.server)
    if problem.renews:
        _connect.cache_clear()
    if not problem.may_pass:
        return AttemptError(problem.text, None)
    may_last = connection.reached and not problem.renews
    return AttemptError(problem.text, deadline_s if may_last else min(deadline_s, retries.FIRST_CONTACT_S))


_SETTINGS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
)
_connecting: dict[int, threading.Lock] = {}  # by process id: a lock held while forking stays locked in the child


def _connection(deadline_s: float = DEADLINE_S) -> _Connection:
    """Made at the first call of a process, and again when the settings change. Raises AttemptError."""
    from botocore.exceptions import BotoCoreError, CredentialRetrievalError

    process = os.getpid()
    with _connecting.setdefault(process, threading.Lock()):
        try:
            return _connect(process, tuple(map(os.environ.get, _SETTINGS)))
        except CredentialRetrievalError as error:
            raise AttemptError(diagnose(error, "").text, min(deadline_s, retries.FIRST_CONTACT_S)) from error
        except (BotoCoreError, ValueError, OSError) as error:
            raise AttemptError(unusable(error), None) from error


@functools.lru_cache(maxsize=8)
def _connect(process: int, settings: tuple[str | None, ...]) -> _Connection:
    """`process` and `settings` are the cache's key only: boto3 reads the settings from the environment itself."""
    import boto3
    import botocore.session
    from botocore.config import Config

    def client(addressing: str) -> Any:
        config = Config(
            # Not adaptive: its limiter makes forty 503s cost readers 55 s, the backoff of `retried` 2 s. Two requests
            # in each attempt of `retried`.
            retries={"mode": "standard", "total_max_attempts": 2},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            tcp_keepalive=True,
            max_pool_connections=64,
            # Sums beyond the protocol's own cost time on each read, and many servers other than AWS refuse them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3=cast(Any, {"addressing_style": addressing}),
        )
        return session.client("s3", config=config)

    core = botocore.session.get_session()
    if core.get_config_variable("metadata_service_num_attempts") == 1:  # boto3's default
        core.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
    session: Any = boto3.Session(botocore_session=core)
    asked = dict(core.get_scoped_config().get("s3") or {}).get("addressing_style")
    made = client(asked or "auto")
    host = urlsplit(made.meta.endpoint_url).hostname or ""
    if not asked and not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        made = client("path")  # servers other than AWS rarely have a host name for each bucket
    server = server_of(made.meta.endpoint_url)
    made.meta.events.register_first("needs-retry.s3", functools.partial(_refuse_redirect, server))
    return _Connection(made, server)


def _refuse_redirect(server: str, response: Any, **_: Any) -> None:
    """boto3 takes each redirect for that of a bucket in another region, and asks again and again where that is."""
    if response is None:
        return
    answer, parsed = response
    is_redirect = answer.status_code in (301, 302, 303, 307, 308)
    is_of_s3 = parsed.get("Error", {}).get("Code") in ("PermanentRedirect", "TemporaryRedirect")
    if is_redirect and not is_of_s3 and "x-amz-bucket-region" not in answer.headers:
        raise AttemptError(redirected(server, answer.headers.get("location", "")), None)
