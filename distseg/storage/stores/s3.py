"""`s3://bucket/key`: Amazon's S3, and the servers that speak its protocol.

Credentials and the server come from the usual AWS environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, a profile, a role).
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from distseg.errors import StorageError
from distseg.storage import s3_multipart
from distseg.storage.local_files import CHUNK_BYTES, local_errors
from distseg.storage.s3_client import call, object_of
from distseg.storage.s3_errors import code
from distseg.storage.s3_file import S3File, check_range
from distseg.storage.store import Entry, Store, bucket_and_key, refuse_whole_bucket

_MAX_DELETED_AT_ONCE = 1000  # by one request; S3's own limit
# Of servers that cannot delete many at once, or want the sum of the request by MD5, which boto3 sends no more.
_NO_BATCHES = (
    "NotImplemented",
    "501",
    "MethodNotAllowed",
    "405",
    "MissingContentMD5",
    "InvalidRequest",
    "InvalidDigest",
)


class S3Store(Store):
    def read_bytes(self, uri: str, start: int, length: int | None, deadline_s: float) -> bytes:
        with S3File(uri, start, length, deadline_s) as source:
            return source.readall()

    def read_into(self, view: memoryview, uri: str, start: int, deadline_s: float) -> int:
        with S3File(uri, start, len(view), deadline_s) as source:
            return source.fill(view)

    def open_read(self, uri: str, deadline_s: float) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(S3File(uri, 0, None, deadline_s), CHUNK_BYTES))

    def exists(self, uri: str, deadline_s: float) -> bool:
        return call(uri, deadline_s, lambda client: _size_of(client, uri)) is not None

    def num_bytes(self, uri: str, deadline_s: float) -> int:
        size = call(uri, deadline_s, lambda client: _size_of(client, uri))
        if size is None:
            raise StorageError(f"{uri}: no such key in the bucket")
        return size

    def list_files(self, uri: str, deadline_s: float) -> Iterator[Entry]:
        bucket, _ = bucket_and_key(uri)
        for page in _pages(uri, deadline_s):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):  # some tools store an empty object for a directory
                    yield Entry(f"s3://{bucket}/{item['Key']}", item["Size"])

    def list_folders(self, uri: str, deadline_s: float) -> list[str]:
        pages = _pages(uri, deadline_s, Delimiter="/")
        prefixes = (item["Prefix"] for page in pages for item in page.get("CommonPrefixes", []))
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes)

    def write_bytes(self, uri: str, data: bytes, deadline_s: float) -> None:
        call(uri, deadline_s, lambda client: client.put_object(**object_of(uri), Body=data))

    def create(self, uri: str, data: bytes, deadline_s: float) -> bool:
        """By a conditional write. A second one tells whether the server knows conditions, or ignores them."""
        if self.exists(uri, deadline_s):
            return False
        first, second = (call(uri, deadline_s, lambda client: _put_if_absent(client, uri, data)) for _ in range(2))
        if first is not False and second is not False:
            return super().create(uri, data, deadline_s)
        return self.read_bytes(uri, 0, None, deadline_s) == data  # not `first`: its answer may have been lost

    def upload(self, path: Path, uri: str, deadline_s: float) -> None:
        with local_errors(str(path)), path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            if size <= s3_multipart.PART_BYTES:
                self.write_bytes(uri, source.read(), deadline_s)
            else:
                s3_multipart.put_in_parts(uri, source.fileno(), size, deadline_s)

    def delete(self, uri: str, deadline_s: float) -> None:
        call(uri, deadline_s, lambda client: _delete(client, uri))

    def delete_tree(self, uri: str, deadline_s: float) -> None:
        refuse_whole_bucket(uri)
        bucket, _ = bucket_and_key(uri)
        keys = [bucket_and_key(entry.uri)[1] for entry in self.list_files(uri, deadline_s)]
        for first in range(0, len(keys), _MAX_DELETED_AT_ONCE):
            for key in _delete_batch(bucket, keys[first : first + _MAX_DELETED_AT_ONCE], deadline_s):
                self.delete(f"s3://{bucket}/{key}", deadline_s)  # tries again, or says what is wrong


STORE = S3Store


def _put_if_absent(client: Any, uri: str, data: bytes) -> bool | None:
    """False: there is one already. None: the server does not know the condition, and has written nothing."""
    from botocore.exceptions import ClientError

    try:
        client.put_object(**object_of(uri), Body=data, IfNoneMatch="*")
    except ClientError as error:
        if code(error) in ("PreconditionFailed", "ConditionalRequestConflict"):
            return False
        if code(error) in ("NotImplemented", "501", "InvalidArgument"):
            return None
        raise
    return True


def _size_of(client: Any, uri: str) -> int | None:
    """None if there is no such object. Requests its first byte: only the answer to a GET says why it failed."""
    from botocore.exceptions import ClientError

    try:
        answer = client.get_object(**object_of(uri), Range="bytes=0-0")
    except ClientError as error:
        if code(error) == "InvalidRange":
            return 0  # an empty object has no first byte
        if code(error) == "NoSuchKey":
            return None
        raise
    check_range(uri, answer, 0)
    answer["Body"].read()
    return int(answer.get("ContentRange", "/0").rpartition("/")[2])


def _pages(uri: str, deadline_s: float, **options: str) -> Iterator[dict[str, Any]]:
    """The server's answers with all that is below a prefix, in the order of their names."""
    bucket, key = bucket_and_key(uri)
    request = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key.strip("/") else "", **options}
    while True:
        page = call(uri, deadline_s, lambda client: client.list_objects_v2(**request))
        if "IsTruncated" not in page:  # a page of the web, which has no names: not an empty listing
            raise StorageError(f"{uri}: what answers a listing is no S3 server; is AWS_ENDPOINT_URL right?")
        yield page
        if not page["IsTruncated"]:
            return
        if not page.get("NextContinuationToken"):
            raise StorageError(
                f"{uri}: the server lists only the first names (no ListObjectsV2); use another S3 server"
            )
        request["ContinuationToken"] = page["NextContinuationToken"]


def _delete(client: Any, uri: str) -> None:
    from botocore.exceptions import ClientError

    try:
        client.delete_object(**object_of(uri))
    except ClientError as error:
        if code(error) != "NoSuchKey":  # which some servers answer, Google's among them
            raise


def _delete_batch(bucket: str, keys: list[str], deadline_s: float) -> list[str]:
    """Deletes many by one request; returns those that it did not delete."""
    from botocore.exceptions import ClientError

    def delete(client: Any) -> dict[str, Any] | None:
        try:
            return cast("dict[str, Any]", client.delete_objects(Bucket=bucket, Delete=named))
        except ClientError as error:
            if code(error) in _NO_BATCHES:
                return None
            raise

    named = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    answer = call(f"s3://{bucket}", deadline_s, delete)
    return keys if answer is None else [refused["Key"] for refused in answer.get("Errors", [])]
