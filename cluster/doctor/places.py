"""The places that a training will use, tried from one machine: data, checkpoints, MLflow.

Checkpoints go through three clients, which find server and credentials each in its own way: boto3 (all that distseg
reads and writes), the file system that Ray Train is given, and the pyarrow that Ray Tune makes for a search.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cluster import submit
from cluster.doctor.findings import Finding, failed, ok, skipped
from distseg import orchestration, storage, tracking
from distseg.data import shards
from distseg.errors import masked

DEADLINE_S = 5.0  # of one call; a server that has never answered is not tried for longer
CLIENT_S = 60.0  # all calls of one client
CONTENT = b"written by cluster.doctor"
DATA, MLFLOW, SHARED = "data", "MLflow", "checkpoints, shared"


@dataclass(frozen=True)
class Places:
    """Empty: not asked for."""

    data: str = ""
    checkpoint: str = ""
    tracking: str = ""
    experiment: str = ""


class _StepError(Exception):
    """What could not be done, as a line."""


@dataclass(frozen=True)
class Client:
    """`write` and the others take the URI of a file; `names` takes that of its folder and yields names in it."""

    write: Callable[[str], None]
    read: Callable[[str], bytes]
    names: Callable[[str], list[str]]
    delete: Callable[[str], None]


def check_places(places: Places, where: str, shared: str = "") -> list[Finding]:
    """`shared`: the URI of a file that the head of the cluster has written to the place for checkpoints."""
    found = [
        check_data(places.data, where) if places.data else skipped(DATA, "give --data URI"),
        *check_checkpoints(places.checkpoint, where),
        check_mlflow(places, where) if places.tracking else skipped(MLFLOW, "give --tracking, or MLFLOW_TRACKING_URI"),
    ]
    return [*found, check_shared(shared, where)] if shared else found


def check_data(uri: str, where: str) -> Finding:
    """Whether the manifest and the beginning of the first shard can be read."""
    try:
        manifest = shards.load_manifest(uri, deadline_s=DEADLINE_S)
        first = manifest.shards[0]
        storage.read_bytes(storage.join(uri, first.name), 0, 512, deadline_s=DEADLINE_S)
    except Exception as error:  # noqa: BLE001 — whatever it is, it is what was looked for
        return _failure(DATA, error, "", where)
    return ok(DATA, f"{uri}: manifest and first shard of {len(manifest.shards)} read", where)


def check_checkpoints(uri: str, where: str) -> list[Finding]:
    if not uri:
        return [skipped("checkpoints", "give --checkpoint URI")]
    clients: dict[str, Callable[[], Client]] = {"boto3" if storage.is_s3(uri) else "files": _storage_client}
    if storage.is_s3(uri):
        clients["Ray Train"] = lambda: _arrow_client(orchestration.file_system(uri), orchestration.path_in)
        clients["Ray Tune's pyarrow"] = lambda: _native_client(uri)
    return [check_client(f"checkpoints, {name}", make, uri, where) for name, make in clients.items()]


def check_client(name: str, make: Callable[[], Client], uri: str, where: str) -> Finding:
    """Writes a file below `uri`, reads it back by this client and by boto3, lists and deletes it."""
    probe = storage.join(uri, f".distseg-doctor-{uuid.uuid4().hex[:12]}")
    done: list[str] = []

    def attempt() -> None:
        client = make()
        with _step("write", done):
            client.write(probe)
        with _step("read back", done):
            if client.read(probe) != CONTENT or storage.read_bytes(probe, deadline_s=DEADLINE_S) != CONTENT:
                raise _StepError("what was written is not what is read; give a URI without special characters")
        with _step("list", done):
            if probe.rpartition("/")[2] not in client.names(uri):
                raise _StepError("a file that was written is not in the listing; use a consistent store")
        with _step("delete", done):
            client.delete(probe)
            if storage.exists(probe, deadline_s=DEADLINE_S):
                raise _StepError("a file that was deleted is still there; allow s3:DeleteObject")

    try:
        submit.within(CLIENT_S, attempt)
    except Exception as error:  # noqa: BLE001 — pyarrow's and S3's have no class in common
        if done[-1:] != ["delete"]:
            with contextlib.suppress(Exception):
                storage.delete(probe, deadline_s=DEADLINE_S)
        return _failure(name, error, f"cannot {done[-1] if done else 'begin'}: ", where)
    return ok(name, f"{uri}: written, read, listed, deleted", where)


@contextlib.contextmanager
def _step(name: str, done: list[str]) -> Iterator[None]:
    """Notes what is being done, for the error."""
    done.append(name)
    yield


def check_shared(uri: str, where: str) -> Finding:
    """Whether a file that another machine has written is there."""
    folder = uri.rpartition("/")[0]
    try:
        same = storage.exists(uri, deadline_s=DEADLINE_S)
    except Exception as error:  # noqa: BLE001 — as in check_data
        return _failure(SHARED, error, "", where)
    if same:
        return ok(SHARED, f"{folder}: what the head writes is seen", where)
    return failed(SHARED, f"{folder}: what the head writes is not there", "give s3://… or a shared directory", where)


def check_mlflow(places: Places, where: str) -> Finding:
    """Whether a run can be made in the experiment and an artifact written. The run is deleted again."""
    try:
        tracking.try_out(places.tracking, places.experiment)
    except Exception as error:  # noqa: BLE001 — as in check_data
        return _failure(MLFLOW, error, "", where)
    shown = tracking.without_password(places.tracking)
    return ok(MLFLOW, f"{shown}: a run and an artifact written in {places.experiment!r}", where)


def _failure(name: str, error: Exception, doing: str, where: str) -> Finding:
    """Errors of distseg say what is wrong, then after a semicolon what to do."""
    text = masked(" ".join(str(error).split())) or type(error).__name__
    seen, _, remedy = text.partition("; ")
    return failed(name, doing + seen[:300], remedy[:300] or "see docs/clusters.md, 'Rights in S3'", where)


# ---- clients


def _storage_client() -> Client:
    def names(uri: str) -> list[str]:
        return [entry.uri.rpartition("/")[2] for entry in storage.list_files(uri, deadline_s=DEADLINE_S)]

    return Client(
        write=lambda uri: storage.write_bytes(uri, CONTENT, deadline_s=DEADLINE_S),
        read=lambda uri: storage.read_bytes(uri, deadline_s=DEADLINE_S),
        names=names,
        delete=lambda uri: storage.delete(uri, deadline_s=DEADLINE_S),
    )


def _native_client(uri: str) -> Client:
    """As Ray Tune makes it, with the setting that distseg gives it: see distseg/orchestration/environment.py."""
    from pyarrow import fs

    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    system, _ = fs.FileSystem.from_uri(uri)
    return _arrow_client(system, lambda each: fs.FileSystem.from_uri(each)[1])


def _arrow_client(system: Any, path_in: Callable[[str], str]) -> Client:
    from pyarrow import fs

    def write(uri: str) -> None:
        with system.open_output_stream(path_in(uri)) as stream:
            stream.write(CONTENT)

    def read(uri: str) -> bytes:
        with system.open_input_stream(path_in(uri)) as stream:
            return bytes(stream.read())

    def names(uri: str) -> list[str]:
        found = system.get_file_info(fs.FileSelector(path_in(uri), allow_not_found=True))
        return [str(info.base_name) for info in found]

    return Client(write, read, names, lambda uri: system.delete_file(path_in(uri)))
