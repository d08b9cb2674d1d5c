"""A run's journal: every metric it measured, kept where no tracking server is needed.

    <run_uri>/journal/<number>-<token>.jsonl      segments of JSON lines, oldest first: {"step", "time_ms", "metrics"}
    <run_uri>/journal/closed.json                 once rank 0 has ended in order: what was sent, and where to

Where the run's directory is on a disk, records are appended to a segment there. S3 cannot append: they are appended to
a file of this machine, in the directory for temporary files, which becomes the next segment with each checkpoint. What
is no segment yet when a checkpoint is made travels in it. A process that resumes a run reads all three; a (metric,
step) that is there several times counts once, the first.

No call but `close` waits for S3, and that at most CLOSE_WAIT_S.
"""

import errno
import json
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distseg import storage
from distseg.errors import StorageError
from distseg.tracking.mlflow_runs import History, MetricPoint

log = logging.getLogger(__name__)

CLOSE_WAIT_S = 60.0

MetricRecord = dict[str, Any]  # {"step": int, "time_ms": int, "metrics": {name: float}}


class Journal:
    """Where one process, rank 0, writes down what a run measures. `append` and `upload` never wait and never raise."""

    def __init__(self, run_uri: str, run_name: str) -> None:
        self._run_uri = run_uri
        self._is_remote = storage.is_remote(run_uri)
        self._lock = threading.Lock()
        self._upload_thread: threading.Thread | None = None
        self._can_append = True
        self._path = local_path(run_name) if self._is_remote else Path(_new_segment(run_uri))
        # What a process that was killed on this machine had not uploaded.
        self._waiting = _read_lines(self._path) if self._is_remote else []
        if self._waiting:
            self._shorten_file()  # of the line that it was writing

    def append(self, step: int, metrics: Mapping[str, float]) -> MetricRecord:
        record = {"step": step, "time_ms": int(time.time() * 1000), "metrics": dict(metrics)}
        self.keep([record])
        return record

    def keep(self, records: Sequence[MetricRecord]) -> None:
        """Appends records as they are."""
        with self._lock:
            is_on_disk = self._append_to_file(records)
            if self._is_remote or not is_on_disk:
                self._waiting += records

    def waiting(self) -> list[MetricRecord]:
        """The records that are in no segment yet."""
        with self._lock:
            return list(self._waiting)

    def upload(self) -> None:
        """Begins to make a segment of what waits."""
        with self._lock:
            is_busy = self._upload_thread is not None and self._upload_thread.is_alive()
            if self._waiting and not is_busy:
                self._upload_thread = threading.Thread(target=self._upload, name="journal", daemon=True)
                self._upload_thread.start()

    def close(self) -> None:
        """Makes a segment of what waits; says where it is if that fails."""
        end_s = time.monotonic() + CLOSE_WAIT_S
        if self._upload_thread is not None:
            self._upload_thread.join(CLOSE_WAIT_S)
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
            if self._can_append:  # once is enough
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
        except OSError as error:  # its records are then there twice, which is harmless
            log.warning("%s: %s", self._path, error.strerror)


def local_path(run_name: str) -> Path:
    """Where rank 0 of a run in S3 appends its records, on the machine it runs on."""
    return Path(tempfile.gettempdir()) / f"distseg-journal-{os.getuid()}" / f"{run_name}.jsonl"


def read_journal(run_uri: str, run_name: str = "") -> list[MetricRecord]:
    """All records of a run, oldest first, each (metric, step) once; with its name, also those only this machine has."""
    try:
        records = _read_segments(run_uri)
    except StorageError:  # rank 0 was making one segment of them
        records = _read_segments(run_uri)
    if run_name and storage.is_remote(run_uri):
        records += _read_lines(local_path(run_name))
    return without_repeats(records)


def _read_segments(run_uri: str) -> list[MetricRecord]:
    return [record for uri in _segments(run_uri) for record in _from_lines(storage.read_bytes(uri))]


def without_repeats(records: Iterable[MetricRecord]) -> list[MetricRecord]:
    """Without the metrics that an earlier record has of the same step."""
    seen: set[tuple[str, int]] = set()
    kept = []
    for record in records:
        fresh = {name: value for name, value in record["metrics"].items() if (name, record["step"]) not in seen}
        if fresh:
            seen.update((name, record["step"]) for name in fresh)
            kept.append(record | {"metrics": fresh})
    return kept


def history_of(records: Iterable[MetricRecord], names: Sequence[str]) -> History:
    """The values of some metrics by step; a metric that was never measured is left out."""
    history: dict[str, list[MetricPoint]] = {}
    for record in records:
        for name in record["metrics"].keys() & set(names):
            point = MetricPoint(record["step"], record["metrics"][name], record["time_ms"] / 1000)
            history.setdefault(name, []).append(point)
    return {name: sorted(history[name]) for name in names if name in history}


def write_segment(run_uri: str, records: Sequence[MetricRecord], *, deadline_s: float = storage.DEADLINE_S) -> str:
    """Returns its URI."""
    uri = _new_segment(run_uri)
    storage.write_bytes(uri, _as_lines(records).encode(), deadline_s=deadline_s)
    return uri


def replace_journal(run_uri: str, records: Sequence[MetricRecord]) -> None:
    """Makes `records` the whole journal, in one segment. What was there is removed once they are written."""
    stale = _segments(run_uri)
    if records:
        write_segment(run_uri, records)
    for uri in stale:
        storage.delete(uri)


class JournalEnd(NamedTuple):
    """What rank 0 left behind."""

    tracking_uri: str
    run_id: str  # MLflow's
    num_records: int  # in the journal
    num_unsent: int  # of those, not confirmed by the server
    has_pictures_left: bool  # of evaluations, which the checkpoints have


def close_journal(
    run_uri: str, tracking_uri: str, run_id: str, num_unsent: int, has_pictures_left: bool = False
) -> None:
    """After the last record: makes one segment of all, which is quicker to read from S3, and notes what was sent."""
    records = read_journal(run_uri)
    if len(_segments(run_uri)) > 1:
        replace_journal(run_uri, records)
    closed = JournalEnd(tracking_uri, run_id, len(records), num_unsent, has_pictures_left)
    storage.write_bytes(_closed_uri(run_uri), json.dumps(closed._asdict()).encode())


def reopen_journal(run_uri: str) -> None:
    """Before a process appends to it."""
    storage.delete(_closed_uri(run_uri))


def read_journal_end(run_uri: str) -> JournalEnd | None:
    """None if the journal may lack what only the newest checkpoint has, as its process was killed."""
    if not storage.exists(_closed_uri(run_uri)):
        return None
    return JournalEnd(**json.loads(storage.read_bytes(_closed_uri(run_uri))))


def _closed_uri(run_uri: str) -> str:
    return storage.join(run_uri, "journal", "closed.json")


def _segments(run_uri: str) -> list[str]:
    entries = storage.list_files(storage.join(run_uri, "journal"))
    return [entry.uri for entry in entries if entry.uri.endswith(".jsonl")]


def _new_segment(run_uri: str) -> str:
    """A name never used before: a process that is believed dead but is not overwrites nothing."""
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
    """What is after the last end of line was being written when its process was killed."""
    records = []
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            records.append({name: json.loads(line)[name] for name in ("step", "time_ms", "metrics")})
        except (ValueError, KeyError, TypeError):
            log.warning("passed over: a line of the journal that is damaged: %r", line[:80])
    return records
