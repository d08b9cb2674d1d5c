"""Large files to S3: uploaded in parts, four at a time."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distseg.errors import StorageError
from distseg.storage import retries
from distseg.storage.s3_client import call, object_of
from distseg.storage.s3_errors import code

PART_BYTES = 16 << 20  # S3 wants at least 5 MiB, and at most MAX_PARTS of them
MAX_PARTS = 10_000


def put_in_parts(uri: str, handle: int, size: int, deadline_s: float) -> None:
    """Uploads an open file. Each part is retried for itself; if one cannot be sent, those already sent are removed."""
    part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
    num_parts = -(-size // part_bytes)
    started = call(uri, deadline_s, lambda client: client.create_multipart_upload(**object_of(uri)))
    upload = {**object_of(uri), "UploadId": started["UploadId"]}

    def send(number: int) -> dict[str, Any]:
        data = os.pread(handle, part_bytes, (number - 1) * part_bytes)
        answer = call(uri, deadline_s, lambda client: client.upload_part(**upload, PartNumber=number, Body=data))
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(send, range(1, num_parts + 1)))
        call(uri, deadline_s, lambda client: _complete(client, upload, parts, size))
    except BaseException:
        with contextlib.suppress(StorageError):  # the first failure is the one to report
            call(uri, retries.FIRST_CONTACT_S, lambda client: client.abort_multipart_upload(**upload))
        raise


def _complete(client: Any, upload: dict[str, Any], parts: list[dict[str, Any]], size: int) -> None:
    from botocore.exceptions import ClientError

    try:
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    except ClientError as error:
        if code(error) != "NoSuchUpload":
            raise
        # An earlier attempt may have completed it, and only its answer was lost.
        found = client.head_object(Bucket=upload["Bucket"], Key=upload["Key"])
        if found["ContentLength"] != size or not found["ETag"].strip('"').endswith(f"-{len(parts)}"):
            raise
