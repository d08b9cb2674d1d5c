"""S3 by boto3, for `distseg.storage` alone: objects by `s3://bucket/key`, retries, deadlines, one clear error each.

What can pass (a refused connection, 5xx, throttling, a body cut short) is retried with backoff for `deadline_s` seconds
without progress, overrun by at most the attempt under way; what cannot (other 4xx) fails at once. A server that this
process has never reached is given `FIRST_CONTACT_S` only, so that a mistyped address does not look like a hang; so is
an expired token, which whoever renews it (a role, a file) may be about to renew.
Threads share one client; processes do not, so forking is safe. boto3 is imported at the first use, not before.
"""

import contextlib
import functools
import io
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from distseg.errors import StorageError
from distseg.storage.s3_errors import code, diagnose

FIRST_CONTACT_S = 20.0
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0  # of silence; completing a large upload takes a server a while
PART_BYTES = 16 << 20  # of a multipart upload; S3 wants at least 5 MiB, and at most MAX_PARTS of them
MAX_PARTS = 10_000
CHUNK_BYTES = 1 << 20

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _object(uri: str) -> dict[str, Any]:
    """The Bucket and Key arguments of an S3 call."""
    bucket, key = bucket_and_key(uri)
    if not key or key.endswith("/"):
        raise StorageError(f"{uri}: names a directory, but a file is expected here")
    return {"Bucket": bucket, "Key": key}


# ---- reading


class S3File(io.RawIOBase):
    """Bytes [start, start + length) of an object, read forward; after a break, from where it broke, if unchanged."""

    def __init__(self, uri: str, start: int, length: int | None, deadline_s: float) -> None:
        super().__init__()
        self._uri = uri
        self._deadline_s = deadline_s
        self._position = start
        self._stop = start if length == 0 else None if length is None else start + length
        self._etag: str | None = None
        self._body: Any = None
        if length != 0:
            _call(uri, deadline_s, self._open)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._num_left()]
        if not view:
            return 0
        num_read = _call(self._uri, self._deadline_s, lambda client: self._read_some(client, view))
        self._position += num_read
        return num_read

    def readall(self) -> bytes:
        data = bytearray(self._num_left())
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, view: memoryview) -> int:
        """Reads until the view is full or the file ends."""
        done = 0
        while done < len(view) and (num_read := self.readinto(view[done : done + CHUNK_BYTES])):
            done += num_read
        return done

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
        super().close()

    def _num_left(self) -> int:
        return 0 if self._stop is None else self._stop - self._position

    def _read_some(self, client: Any, view: memoryview) -> int:
        from botocore.exceptions import BotoCoreError, IncompleteReadError

        if self._body is None:
            self._open(client)
        body, self._body = self._body, None
        try:
            num_read = int(body.readinto(view))
            if not num_read:
                raise IncompleteReadError(actual_bytes=0, expected_bytes=len(view))
        except BotoCoreError:
            body.close()
            raise
        self._body = body
        return num_read

    def _open(self, client: Any) -> None:
        """Asks for what is left. The first answer settles where the file ends and which version it is."""
        from botocore.exceptions import ClientError

        request = _object(self._uri)
        if self._position or self._stop is not None:
            last = "" if self._stop is None else self._stop - 1
            request["Range"] = f"bytes={self._position}-{last}"
        if self._etag:
            request["IfMatch"] = self._etag
        try:
            answer = client.get_object(**request)
        except ClientError as error:
            if code(error) != "InvalidRange":
                raise
            self._stop = self._position  # starts at or behind the end
            return
        if self._position and not answer.get("ContentRange", "").startswith(f"bytes {self._position}-"):
            raise StorageError(f"{self._uri}: the server does not do range reads; use another S3 server")
        self._etag = answer["ETag"]
        self._stop = self._position + answer["ContentLength"]
        self._body = answer["Body"]


def num_bytes(uri: str, deadline_s: float) -> int | None:
    """The size of an object, None if there is none. Asks for its first byte, as only a GET says why it failed."""
    from botocore.exceptions import ClientError

    def size(client: Any) -> int | None:
        try:
            answer = client.get_object(**_object(uri), Range="bytes=0-0")
        except ClientError as error:
            if code(error) == "InvalidRange":
                return 0  # an empty object has no first byte
            if code(error) == "NoSuchKey":
                return None
            raise
        answer["Body"].read()
        return int(answer["ContentRange"].rpartition("/")[2])

    return _call(uri, deadline_s, size)


def list_objects(uri: str, deadline_s: float) -> Iterator[tuple[str, int]]:
    """(uri, bytes) of all below a prefix, in the server's order, which is by name."""
    bucket, _ = bucket_and_key(uri)
    for page in _pages(uri, deadline_s):
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):  # some tools store an empty object for a directory
                yield f"s3://{bucket}/{item['Key']}", item["Size"]


def list_prefixes(uri: str, deadline_s: float) -> Iterator[str]:
    """The names right below a prefix that have something below them."""
    for page in _pages(uri, deadline_s, Delimiter="/"):
        for item in page.get("CommonPrefixes", []):
            yield item["Prefix"].rstrip("/").rpartition("/")[2]


def _pages(uri: str, deadline_s: float, **options: str) -> Iterator[dict[str, Any]]:
    bucket, key = bucket_and_key(uri)
    request = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key.strip("/") else "", **options}
    while True:
        page = _call(uri, deadline_s, lambda client: client.list_objects_v2(**request))
        yield page
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


# ---- writing


def put(uri: str, data: bytes, deadline_s: float) -> None:
    _call(uri, deadline_s, lambda client: client.put_object(**_object(uri), Body=data))


def put_in_parts(uri: str, handle: int, size: int, deadline_s: float) -> None:
    """An open file, in parts that are retried one by one. If one cannot be sent, those that were are removed again."""
    part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
    num_parts = -(-size // part_bytes)
    started = _call(uri, deadline_s, lambda client: client.create_multipart_upload(**_object(uri)))
    upload = {**_object(uri), "UploadId": started["UploadId"]}

    def send(number: int) -> dict[str, Any]:
        data = os.pread(handle, part_bytes, (number - 1) * part_bytes)
        answer = _call(uri, deadline_s, lambda client: client.upload_part(**upload, PartNumber=number, Body=data))
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(send, range(1, num_parts + 1)))
        _call(uri, deadline_s, lambda client: _complete(client, upload, parts, size))
    except BaseException:
        with contextlib.suppress(StorageError):  # the first failure is the one to tell
            _call(uri, FIRST_CONTACT_S, lambda client: client.abort_multipart_upload(**upload))
        raise


def _complete(client: Any, upload: dict[str, Any], parts: list[dict[str, Any]], size: int) -> None:
    from botocore.exceptions import ClientError

    try:
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    except ClientError as error:
        if code(error) != "NoSuchUpload":
            raise
        # An earlier try may have done it and only its answer been lost.
        there = client.head_object(Bucket=upload["Bucket"], Key=upload["Key"])
        if there["ContentLength"] != size or not there["ETag"].strip('"').endswith(f"-{len(parts)}"):
            raise


def delete(uri: str, deadline_s: float) -> None:
    _call(uri, deadline_s, lambda client: client.delete_object(**_object(uri)))


def delete_prefix(uri: str, deadline_s: float) -> None:
    bucket, key = bucket_and_key(uri)
    if not key.strip("/"):
        raise StorageError(f"{uri}: refusing to delete a whole bucket; name a prefix in it")
    keys = [bucket_and_key(found)[1] for found, _ in list_objects(uri, deadline_s)]
    for first in range(0, len(keys), 1000):  # the most that one request may name
        _delete_batch(bucket, keys[first : first + 1000], deadline_s)


def _delete_batch(bucket: str, keys: list[str], deadline_s: float) -> None:
    named = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    answer = _call(f"s3://{bucket}", deadline_s, lambda client: client.delete_objects(Bucket=bucket, Delete=named))
    for refused in answer.get("Errors", []):
        raise StorageError(f"s3://{bucket}/{refused['Key']}: cannot be deleted ({refused.get('Code')})")


# ---- the connection


@dataclass
class _Connection:
    """The client of this process for one set of credentials and server."""

    client: Any
    server: str  # for error messages: no user name, no query
    reached: bool = False  # has the server ever answered?


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


def _connection() -> _Connection:
    process = os.getpid()
    with _connecting.setdefault(process, threading.Lock()):
        return _connect(process, tuple(map(os.environ.get, _SETTINGS)))


@functools.lru_cache(maxsize=8)
def _connect(process: int, settings: tuple[str | None, ...]) -> _Connection:
    """`process` and `settings` are what boto3 reads by itself; here they are the key of the cache."""
    import boto3
    from botocore.config import Config

    def client(addressing: Literal["auto", "path"]) -> Any:
        config = Config(
            # Not adaptive: its limiter makes forty 503s cost readers 55 s, `_call`'s own backoff 2 s.
            retries={"mode": "standard", "total_max_attempts": 2},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            tcp_keepalive=True,
            max_pool_connections=64,
            # Sums beyond the protocol's own cost time on each read, and many servers other than AWS refuse them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": addressing},
        )
        return session.client("s3", config=config)

    session: Any = boto3.Session()
    made = client("auto")
    address = urlsplit(made.meta.endpoint_url)
    if not (address.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        made = client("path")  # a server of one's own rarely has a host name for each bucket
    port = f":{address.port}" if address.port else ""
    return _Connection(made, f"{address.scheme}://{address.hostname}{port}")


def _call(uri: str, deadline_s: float, action: Callable[[Any], _T]) -> _T:
    """`action(client)`, retried while that can help and time is left. Raises StorageError."""
    from botocore.exceptions import BotoCoreError, ClientError

    began = time.monotonic()
    attempt = 0
    while True:
        try:
            connection = _connection()
        except (BotoCoreError, ValueError) as error:
            raise StorageError(f"{uri}: the AWS settings cannot be used: {error}") from error
        try:
            result = action(connection.client)
        except (BotoCoreError, ClientError) as error:
            connection.reached |= isinstance(error, ClientError)
            problem = diagnose(error, connection.server)
            if problem.is_expiry:
                _connect.cache_clear()  # a new client sees credentials that have been renewed
            may_last = connection.reached and not problem.is_expiry
            patience_s = deadline_s if may_last else min(deadline_s, FIRST_CONTACT_S)
            left_s = patience_s - (time.monotonic() - began)
            if not problem.may_pass:
                raise StorageError(f"{uri}: {problem.text}") from error
            if left_s <= 0:
                raise StorageError(f"{uri}: {problem.text} (tried for {patience_s:.0f} s)") from error
            if attempt >= 2:  # a single hiccup is nobody's business
                _log.warning("%s: %s; trying for %.0f s more", uri, problem.text, left_s)
            time.sleep(min(_pause_s(attempt), left_s))
            attempt += 1
        else:
            connection.reached = True
            return result


def _pause_s(attempt: int) -> float:
    """From 0.2 to 30 s, with jitter. The system's generator: training's own must not depend on the network."""
    return random.SystemRandom().uniform(0.5, 1.0) * min(30.0, 0.2 * 2.0 ** min(attempt, 10))
