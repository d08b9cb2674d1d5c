"""The end of a run: its report, and all that a tracking server is to have of it, now or later by `distseg.sync`."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distseg import storage, tracking
from distseg.config import RunConfig
from distseg.errors import CheckpointError, DataError, StorageError, TrackingError
from distseg.evaluation import overlay_pictures
from distseg.review import RunReview, run_markdown
from distseg.runs.model_logging import LoggedNetwork, log_network
from distseg.runs.provenance import ENVIRONMENT_FILE, environment_tags
from distseg.runs.report import CONDITIONS_PLOT, HISTORY_METRICS, MODEL_CARD, build_review, files_of
from distseg.runs.run import RUNNING, Run, now_ms, read_config
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training leaves behind."""

    run_name: str
    run_uri: str  # where its checkpoints are; what --resume takes
    checkpoint_uri: str  # the best by val/mIoU; empty if none was saved
    step: int  # of that checkpoint
    tables: dict[str, Any]  # its evaluation
    tracking_uri: str
    run_id: str  # MLflow's; empty if tracking is off or the server never answered
    is_sent: bool = True  # False: the server lacks some of it, which `python -m distseg.sync` sends
    logged_network: LoggedNetwork = field(default_factory=LoggedNetwork)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What `send_run` did."""

    run_id: str  # MLflow's
    is_new: bool  # the MLflow run was created
    num_values: int  # of metrics that were not there
    num_pictures: int  # likewise
    is_ended: bool  # what belongs to its end was sent
    files: tuple[str, ...]  # artifacts of that, by name
    logged_network: LoggedNetwork


class _Left(NamedTuple):
    """What a run leaves to be looked at."""

    saved: Checkpoint | None  # the best
    records: list[tracking.MetricRecord]
    review: RunReview | None
    files: dict[str, bytes]
    tags: dict[str, str]


def finalize(run: Run, status: str) -> Outcome:
    """Ends a run as FINISHED, FAILED or KILLED: writes its report, closes its MLflow run, gathers what is left behind.

    A server that does not take it is only warned of, after at most tracking's FINISH_WAIT_S.
    """
    run.status, run.ended_ms = status, now_ms()
    uri, saved = "", None
    logged_network, is_sent = LoggedNetwork(), True
    try:
        run.write_run_json()
        if found := checkpoint.best(run.uri):
            uri, saved = found
        logged_network = _finish(run, read_config(run.uri), saved)
        run.write_run_json()  # with the MLflow run's id, if only now it is known
    except (TrackingError, StorageError, CheckpointError) as error:
        log.warning("%s; send the rest later: python -m distseg.sync %s", error, run.uri)
        is_sent = False
    return Outcome(
        run_name=run.name,
        run_uri=run.uri,
        checkpoint_uri=uri,
        step=saved.step if saved else 0,
        tables=saved.tables if saved else {},
        tracking_uri=run.tracking_uri,
        run_id=run.run_id,
        is_sent=is_sent and logged_network.is_whole,
        logged_network=logged_network,
    )


def _finish(run: Run, config: RunConfig, saved: Checkpoint | None) -> LoggedNetwork:
    left = _left_by(run, saved)
    if not run.is_tracked:
        return LoggedNetwork()
    closed = tracking.read_journal_end(run.uri)
    known = [run.run_id] if run.run_id else []

    def send() -> None:
        run_id = known.pop() if known else run.find_or_create(config)  # tried again: whatever is there now
        if closed is None or closed[:4] != (run.tracking_uri, run_id, len(left.records), 0):
            tracking.send_records(run.tracking_uri, run_id, left.records)
        if closed is None or closed.has_pictures_left:
            _send_pictures(run, run_id, left.saved)
        _send_end(run, run_id, left)
        run.run_id = run_id

    tracking.call_with_timeout(tracking.FINISH_WAIT_S, run.tracking_uri, send, attempts=3)
    return tracking.call_with_timeout(
        tracking.MODEL_WAIT_S, run.tracking_uri, lambda: _log_network(run, config, run.run_id, left)
    )


def send_run(run: Run) -> Sent:
    """Sends what the server has not: metrics and pictures, and if the run has ended, what belongs to its end.

    Raises TrackingError if the server does not take it; what it has taken by then is not sent again.
    """
    config, place = read_config(run.uri), (run.tracking_uri, run.experiment)
    has_ended = run.status != RUNNING
    run_id = tracking.find_run(*place, run.mlflow_name)
    is_new = run_id is None
    is_sent = run_id is not None and has_ended and tracking.is_sent(run.tracking_uri, run_id, run.ended_ms)
    if run_id is None or (has_ended and not is_sent):
        run_id = run.find_or_create(config)
    found = checkpoint.best(run.uri)
    left = _Left(None, _records(run), None, {}, {})
    if has_ended and not is_sent:
        left = _left_by(run, found[1] if found else None)
    num_values = tracking.send_records(run.tracking_uri, run_id, left.records)
    num_pictures = 0 if is_sent else _send_pictures(run, run_id, found[1] if found else None)
    logged_network = LoggedNetwork()
    if has_ended and not is_sent:
        _send_end(run, run_id, left)
        logged_network = _log_network(run, config, run_id, left)
        if not logged_network.is_whole:
            raise TrackingError(f"MLflow at {run.tracking_uri}: all but the model is there")
    return Sent(
        run_id=run_id,
        is_new=is_new,
        num_values=num_values,
        num_pictures=num_pictures,
        is_ended=has_ended and not is_sent,
        files=tuple(sorted(left.files)),
        logged_network=logged_network,
    )


def _left_by(run: Run, saved: Checkpoint | None) -> _Left:
    """Made of the run's directory alone; the page is also kept there."""
    records = _records(run)
    files, tags = _environment(run)
    review = None
    if saved is not None and "conditions" in saved.tables:
        tags["worst_condition"] = str(saved.tables["worst_condition"] or "")
        files["tables/conditions.json"] = json.dumps(saved.tables, indent=1).encode()
        try:
            history = tracking.history_of(records, HISTORY_METRICS)
            review = build_review(run.name, saved, dataset=run.dataset, history=history)
            files |= files_of(review)
        except Exception as error:  # noqa: BLE001 — a picture that cannot be drawn must not cost a run its end
            log.warning("the report could not be made: %r", error)
    if "report/index.html" in files:
        storage.write_bytes(storage.join(run.uri, "report", "index.html"), files["report/index.html"])
    return _Left(saved, records, review, files, tags)


def _records(run: Run) -> list[tracking.MetricRecord]:
    """All metrics that the run measured, as far as they can be read from here."""
    records = tracking.read_journal(run.uri, run.mlflow_name)
    found = None if tracking.read_journal_end(run.uri) else checkpoint.newest(run.uri)
    return tracking.without_repeats([*records, *(found[1].records if found else [])])


def _environment(run: Run) -> tuple[dict[str, bytes], dict[str, str]]:
    """(file, tags) of what rank 0 computed with; empty if it never came to that."""
    uri = storage.join(run.uri, ENVIRONMENT_FILE)
    if not storage.exists(uri):
        return {}, {}
    data = storage.read_bytes(uri)
    try:
        return {f"config/{ENVIRONMENT_FILE}": data}, environment_tags(data)
    except DataError as error:
        log.warning("%s", error)
        return {}, {}


def _send_pictures(run: Run, run_id: str, best: Checkpoint | None) -> int:
    """Of the checkpoints that hold them: the best and the newest."""
    found = checkpoint.newest(run.uri)
    num = 0
    for step, evaluation in {saved.step: saved.evaluation for saved in (best, found and found[1]) if saved}.items():
        num += tracking.send_pictures(run.tracking_uri, run_id, step, overlay_pictures(evaluation))
    return num


def _send_end(run: Run, run_id: str, left: _Left) -> None:
    """Files, tags and status, to the MLflow run. Raises TrackingError."""
    tags = dict(left.tags)
    if left.review is not None:
        plot = f"get-artifact?path={CONDITIONS_PLOT}&run_uuid={run_id}"
        tags[tracking.DESCRIPTION_TAG] = run_markdown(left.review, figure_url=plot)
    tracking.finish_run(run.tracking_uri, run_id, run.status, left.files, tags, ended_ms=run.ended_ms)


def _log_network(run: Run, config: RunConfig, run_id: str, left: _Left) -> LoggedNetwork:
    """The model, of a training that was evaluated. Then all is there, and is marked so. Raises TrackingError."""
    logged_network = LoggedNetwork()
    is_training = run.tags.get("stage", "train") == "train"
    if is_training and left.saved is not None and "conditions" in left.saved.tables:
        logged_network = log_network(
            run.tracking_uri,
            run_id,
            config.tracking,
            left.saved,
            dataset=run.dataset,
            inputs=run.inputs,
            card=left.files.get(MODEL_CARD, b"").decode(),
            has_finished=run.status == "FINISHED",
        )
    if logged_network.is_whole:
        tracking.mark_sent(run.tracking_uri, run_id, run.ended_ms)
    return logged_network
