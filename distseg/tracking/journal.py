"""A run's journal: every metric that the run measured, kept in its directory, so that no tracking server is needed.

    <run_uri>/journal/<number>-<token>.jsonl    segments of JSON lines, oldest first: {"step", "time_ms", "metrics"}
    <run_uri>/journal/closed.json               written when rank 0 ends in order: JournalEnd

If the run's directory is on a disk, records are appended to a segment there. S3 cannot append: then records are
appended to a file in this machine's directory for temporary files, and each checkpoint makes that file the next
segment. Records that are in no segment yet are also stored in the checkpoint. A process that resumes the run reads all
three places; if a (metric, step) is found several times, the first counts.

Only `close` waits for S3, for at most UPLOAD_WAIT_S.
"""

import errno
import json
import logging
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from distseg import storage, strict_json
from distseg.errors import ConfigError, StorageError, TrackingError
from distseg.strict_json import Check, Count, Line, RunId
from distseg.tracking.metric_records import MetricRecord, without_repeats

log = logging.getLogger(__name__)

UPLOAD_WAIT_S = 60.0
_MAX_LINE_BYTES = 16 << 20
_SEGMENT = re.compile(r"[0-9]{6,}-[\w-]+\.jsonl")


class Journal:
    """Rank 0 writes down here what the run measures. `append` and `upload` never wait and never raise."""

    def __init__(self, run_uri: str, run_name: str) -> None:
        self._run_uri = run_uri
        self._is_remote = storage.is_remote(run_uri)
        self._lock = threading.Lock()
        self._upload_thread: threading.Thread | None = None
        self._can_append = True
        self._path = local_path(run_name) if self._is_remote else Path(_new_segment(run_uri))
        # Left by a process that was killed on this machine before it uploaded them.
        self._waiting = _read_lines(self._path) if self._is_remote else []
        if self._waiting:
            self._shorten_file()  # removes the half line that it was writing

    def append(self, step: int, metrics: Mapping[str, float]) -> MetricRecord:
        record = {"step": step, "time_ms": int(time.time() * 1000), "metrics": dict(metrics)}
        self.keep([record])
        return record

    def keep(self, records: Sequence[MetricRecord]) -> None:
        """Appends records with the times they have."""
        with self._lock:
            is_on_disk = self._append_to_file(records)
            if self._is_remote or not is_on_disk:
                self._waiting += records

    def waiting(self) -> list[MetricRecord]:
        """The records that are in no segment yet."""
        with self._lock:
            return list(self._waiting)

    def upload(self) -> None:
        """Starts to upload the waiting records as a segment, in a thread. Does nothing while the last upload runs."""
        with self._lock:
            is_busy = self._upload_thread is not None and self._upload_thread.is_alive()
            if self._waiting and not is_busy:
                self._upload_thread = threading.Thread(target=self._upload, name="journal", daemon=True)
                self._upload_thread.start()

    def close(self) -> None:
        """Uploads the waiting records. If that fails, a warning says where they are."""
        end_s = time.monotonic() + UPLOAD_WAIT_S
        if self._upload_thread is not None:
            self._upload_thread.join(UPLOAD_WAIT_S)
        if self.waiting() and (left_s := end_s - time.monotonic()) > 0:
            self._upload(left_s)
        left = self.waiting()
        if not left and self._is_remote:
            self._path.unlink(missing_ok=True)
        if left:
            place = f"in {self._path} on {socket.gethostname()}" if self._can_append else "nowhere else"
            log.warning(
                "%d records of metrics could not be written to %s; they are %s", len(left), self._run_uri, place
            )

    def _upload(self, deadline_s: float = storage.DEADLINE_S) -> None:
        records = self.waiting()
        try:
            write_segment(self._run_uri, records, deadline_s=deadline_s)
        except StorageError as error:
            log.warning("the journal waits: %s", error)
            return
        with self._lock:
            del self._waiting[: len(records)]
            self._shorten_file()

    def _append_to_file(self, records: Sequence[MetricRecord]) -> bool:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_remote and self._path.parent.stat().st_uid != os.getuid():
                raise PermissionError(errno.EACCES, "its directory belongs to another user")
            with self._path.open("a") as file:
                file.write(_as_lines(records))
            return True
        except OSError as error:
            if self._can_append:  # warn once
                log.warning("%s: %s; metrics are kept in memory until the next checkpoint", self._path, error.strerror)
            self._can_append = False
            return False

    def _shorten_file(self) -> None:
        if not self._is_remote:
            return
        try:
            rest = self._path.with_suffix(".rest")
            rest.write_text(_as_lines(self._waiting))
            rest.replace(self._path)
        except OSError as error:  # then some records are read twice, which is harmless
            log.warning("%s: %s", self._path, error.strerror)


def local_path(run_name: str) -> Path:
    """The local file in which rank 0 keeps its records, if the run's directory is in S3."""
    return Path(tempfile.gettempdir()) / f"distseg-journal-{os.getuid()}" / f"{run_name}.jsonl"


def read_journal(run_uri: str, run_name: str = "") -> list[MetricRecord]:
    """All records of a run, oldest first, each (metric, step) once.

    With `run_name`, also those that only this machine has, because they are not in S3 yet.
    """
    try:
        records = _read_segments(run_uri)
    except StorageError:  # a segment vanished meanwhile: rank 0 was joining them into one
        records = _read_segments(run_uri)
    if run_name and storage.is_remote(run_uri):
        records += _read_lines(local_path(run_name))
    return without_repeats(records)


def _read_segments(run_uri: str) -> list[MetricRecord]:
    return [record for uri in _segments(run_uri) for record in _from_lines(storage.read_bytes(uri))]


def write_segment(run_uri: str, records: Sequence[MetricRecord], *, deadline_s: float = storage.DEADLINE_S) -> str:
    """Returns its URI."""
    uri = _new_segment(run_uri)
    storage.write_bytes(uri, _as_lines(records).encode(), deadline_s=deadline_s)
    return uri


def replace_journal(run_uri: str, records: Sequence[MetricRecord]) -> None:
    """Makes `records` the whole journal, as one segment. Older segments are removed after it is written."""
    stale = _segments(run_uri)
    if records:
        write_segment(run_uri, records)
    for uri in stale:
        storage.delete(uri)


class _Record(NamedTuple):
    """A line of a segment."""

    step: Count
    time_ms: Count
    metrics: dict[Line, Annotated[Any, Check(lambda value: type(value) in (int, float), "must be a number")]]  # or NaN


class JournalEnd(NamedTuple):
    """What rank 0 notes when it ends in order: how much the tracking server has confirmed."""

    tracking_uri: str
    run_id: RunId  # MLflow's
    num_records: Count  # in the journal
    num_unsent: Count  # of these, not confirmed by the server
    has_pictures_left: bool  # pictures of evaluations were not sent; the checkpoints have them


def close_journal(
    run_uri: str, tracking_uri: str, run_id: str, num_unsent: int, has_pictures_left: bool = False
) -> None:
    """After the last record: joins all segments, since one is read faster from S3, and notes what was sent."""
    records = read_journal(run_uri)
    if len(_segments(run_uri)) > 1:
        replace_journal(run_uri, records)
    closed = JournalEnd(tracking_uri, run_id, len(records), num_unsent, has_pictures_left)
    storage.write_bytes(_closed_uri(run_uri), json.dumps(closed._asdict()).encode())


def reopen_journal(run_uri: str) -> None:
    """Must be called before a process appends: the journal has no end any more."""
    storage.delete(_closed_uri(run_uri))


def read_journal_end(run_uri: str) -> JournalEnd | None:
    """How the journal was closed; None if it was not, as when the process was killed.

    Then the newest checkpoint may hold records that the journal lacks.
    """
    if not storage.exists(_closed_uri(run_uri)):
        return None
    uri = _closed_uri(run_uri)
    end: JournalEnd = storage.read_json(JournalEnd, uri, TrackingError, "remove it, and send the run again")
    return end


def _closed_uri(run_uri: str) -> str:
    return storage.join(run_uri, "journal", "closed.json")


def _segments(run_uri: str) -> list[str]:
    entries = storage.list_files(storage.join(run_uri, "journal"))
    return [entry.uri for entry in entries if _SEGMENT.fullmatch(entry.uri.rpartition("/")[2])]


def _new_segment(run_uri: str) -> str:
    """A name that was never used: a process that is wrongly believed dead must not overwrite a segment."""
    number = max((int(Path(uri).name[:6]) for uri in _segments(run_uri)), default=0) + 1
    return storage.join(run_uri, "journal", f"{number:06d}-{secrets.token_hex(3)}.jsonl")


def _as_lines(records: Iterable[MetricRecord]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _read_lines(path: Path) -> list[MetricRecord]:
    try:
        return _from_lines(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("%s: %s", path, error.strerror)
        return []


def _from_lines(data: bytes) -> list[MetricRecord]:
    """Text after the last end of line is left out: its process was killed while it wrote that line."""
    records = []
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            found: _Record = strict_json.build(
                _Record, strict_json.loads(line, max_bytes=_MAX_LINE_BYTES, allow_nan=True), ""
            )
            records.append({"step": found.step, "time_ms": found.time_ms, "metrics": found.metrics})
        except (ValueError, ConfigError):
            log.warning("passed over: a line of the journal that is damaged: %r", line[:80])
    return records
