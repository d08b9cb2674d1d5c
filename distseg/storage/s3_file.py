"""Reading an object of S3 forward, through broken connections."""

import io
from typing import Any

from distseg.errors import StorageError
from distseg.storage.s3_client import call, object_of
from distseg.storage.s3_errors import code

_CHUNK_BYTES = 1 << 20


def check_range(uri: str, answer: Any, start: int) -> None:
    """Raises StorageError if the answer to a request for bytes from `start` on is the whole object instead."""
    whole = answer["ContentLength"] > 0 and not answer.get("ContentRange", "").startswith(f"bytes {start}-")
    if whole:  # an empty object may come as a whole: it has no bytes that a range could name
        answer["Body"].close()
        raise StorageError(f"{uri}: the server does not do range reads; use another S3 server")


class S3File(io.RawIOBase):
    """Bytes [start, start + length) of an object, read forward.

    After a broken connection it goes on where it stopped, and raises StorageError if the object was replaced meanwhile.
    """

    def __init__(self, uri: str, start: int, length: int | None, deadline_s: float) -> None:
        super().__init__()
        self._uri = uri
        self._deadline_s = deadline_s
        self._position = start
        self._stop = start if length == 0 else None if length is None else start + length
        self._etag: str | None = None
        self._body: Any = None
        if length != 0:
            call(uri, deadline_s, self._open)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._num_left()]
        if not view:
            return 0
        num_read = call(self._uri, self._deadline_s, lambda client: self._read_some(client, view))
        self._position += num_read
        return num_read

    def readall(self) -> bytes:
        data = bytearray(self._num_left())
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, view: memoryview) -> int:
        """Reads until the view is full or the file ends."""
        done = 0
        while done < len(view) and (num_read := self.readinto(view[done : done + _CHUNK_BYTES])):
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
        from urllib3.exceptions import HTTPError

        if self._body is None:
            self._open(client)
        body, self._body = self._body, None
        try:
            num_read = int(body.readinto(view))
            if not num_read:
                raise IncompleteReadError(actual_bytes=0, expected_bytes=len(view))
        except (BotoCoreError, HTTPError):
            body.close()
            raise
        self._body = body
        return num_read

    def _open(self, client: Any) -> None:
        """Requests the bytes that are left. The first answer tells where the file ends and which version it is."""
        from botocore.exceptions import ClientError

        request = object_of(self._uri)
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
            self._stop = self._position  # the range starts at the end or behind it
            return
        if "Range" in request:
            check_range(self._uri, answer, self._position)
        if "ETag" not in answer:  # without it nobody could tell that the object was replaced
            raise StorageError(f"{self._uri}: the server sends no ETag; use another S3 server, or none between")
        self._etag = answer["ETag"]
        self._stop = self._position + answer["ContentLength"]
        self._body = answer["Body"]
