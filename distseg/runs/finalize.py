"""Ends a run: writes its report and sends its end to MLflow. What was not sent then, `distseg.sync` sends later."""

import contextlib
import functools
import importlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from distseg import storage, tracking
from distseg.config import RunConfig
from distseg.errors import CheckpointError, StorageError, TrackingError
from distseg.review import MODEL_CARD, RUN_PAGE
from distseg.runs import contents
from distseg.runs.contents import RunContents
from distseg.runs.lease import taken
from distseg.runs.model_logging import LoggedNetwork, log_network
from distseg.runs.run import RUNNING, Run, now_ms, read_config
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training leaves behind."""

    run_name: str
    run_uri: str  # its directory; what --resume takes
    checkpoint_uri: str  # the best by checkpoint.best_by; empty if none was saved
    step: int  # of that checkpoint
    tables: dict[str, Any]  # its evaluation
    tracking_uri: str
    run_id: str  # MLflow's; empty if tracking is off or the server never answered
    is_sent: bool = True  # False: the server lacks something, which `python -m distseg.sync` sends
    logged_network: LoggedNetwork = field(default_factory=LoggedNetwork)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What `send_run` did."""

    run_id: str  # MLflow's
    is_new: bool  # the MLflow run was created
    num_values: int  # of metrics that the server lacked
    num_pictures: int  # that the server lacked
    is_ended: bool  # tags, artifacts, status and model were sent
    files: tuple[str, ...]  # paths of the artifacts that were sent
    logged_network: LoggedNetwork


def begin_to_end(run: Run, config: RunConfig) -> threading.Thread:
    """Imports, in a thread, what the end of a run needs: to be called while its last checkpoint is still written.

    What goes wrong is said when the end comes.
    """

    def load() -> None:
        with contextlib.suppress(Exception):
            importlib.import_module("distseg.review.figures")
            if run.is_tracked and run.is_training and config.tracking.log_model:
                tracking.prepare_to_log_model()

    thread = threading.Thread(target=load, name="begins to end", daemon=True)
    thread.start()
    return thread


def stop_notice(run: Run) -> str:
    """What the user reads when he has stopped a run. What follows may be cut short, so it says what to do then."""
    return (
        f"stopping: saves the newest step of {run.name} and closes it; once more: at once. If it is cut short, send "
        f"the rest with python -m distseg.sync {run.uri}"
    )


def end_run(run: Run, status: str, close_report: Callable[[], None], *, at_once: bool = False) -> Outcome | None:
    """Closes the reporter and ends the run, see `finalize_run`. None with `at_once`, and where its directory cannot be
    written: then the rest is for `sync`.

    A signal while it does so raises StoppedError, after a line that says how to send the rest.
    """
    try:
        if not at_once:
            close_report()
            return finalize_run(run, status)
        run.status, run.ended_ms = status, now_ms()
        run.write_run_json()
        close_early(run)
        log.warning("ended at once; send the rest: python -m distseg.sync %s", run.uri)
    except KeyboardInterrupt:
        if run.status == RUNNING:
            run.status, run.ended_ms = status, now_ms()
            run.write_run_json()
        log.warning("stopped while it was being closed; send the rest: python -m distseg.sync %s", run.uri)
        raise
    except StorageError as error:
        log.warning("%s", error)
    return None


def leave_run(run: Run, close_report: Callable[[], None]) -> None:
    """Closes the reporter of a training that is done, and leaves its run open: another process calls `finalize_run`."""
    try:
        close_report()
        if Run.read(run.uri).status == RUNNING:  # else it was closed meanwhile: its search was stopped
            run.ended_ms = now_ms()
            run.write_run_json()  # the id of the MLflow run may be known only now
    except (StorageError, CheckpointError) as error:
        log.warning("%s", error)


def close_early(run: Run) -> None:
    """Closes the MLflow run of a run that is stopped, before the rest is sent, for which there may be no time.

    Without its id, because the server was slow when the run was opened, it is looked for by its name.
    """
    if not run.is_tracked:
        return
    place = (run.tracking_uri, run.experiment, run.mlflow_name)
    try:
        tracking.close_early(*place, "KILLED" if run.status == RUNNING else run.status, run_id=run.run_id)
    except TrackingError as error:
        if run.run_id:  # else the user was told of the server when the run was opened
            log.warning("%s", error)


def finalize_run(run: Run, status: str) -> Outcome:
    """Ends a run as FINISHED, FAILED or KILLED: writes its report, closes its MLflow run, returns what is left behind.

    A server that fails costs a warning, at most tracking.FINISH_WAIT_S after it took the last part (MODEL_WAIT_S for
    the model).
    """
    run.status, run.ended_ms = status, run.ended_ms or now_ms()
    uri, best = "", None
    logged, is_sent = LoggedNetwork(), True
    try:
        run.write_run_json()
        if status != "FINISHED":
            close_early(run)
        if found := checkpoint.best(run.uri):
            uri, best = found
        logged = _finish(run, read_config(run.uri), best)
        run.write_run_json()  # again: the id of the MLflow run may be known only now
    except (TrackingError, StorageError, CheckpointError) as error:
        log.warning("%s; send the rest later: python -m distseg.sync %s", error, run.uri)
        if not isinstance(error, TrackingError):
            close_early(run)
        is_sent = False
    return Outcome(
        run_name=run.name,
        run_uri=run.uri,
        checkpoint_uri=uri,
        step=best.step if best else 0,
        tables=best.tables if best else {},
        tracking_uri=run.tracking_uri,
        run_id=run.run_id,
        is_sent=is_sent and logged.is_complete,
        logged_network=logged,
    )


def _finish(run: Run, config: RunConfig, best: Checkpoint | None) -> LoggedNetwork:
    ended = _read_and_save_page(run, best)
    if not run.is_tracked:
        return LoggedNetwork()
    end = tracking.read_journal_end(run.uri)
    known = [run.run_id] if run.run_id else []

    def send_records(run_id: str) -> None:
        records = ended.result.records
        if end is None or end[:4] != (run.tracking_uri, run_id, len(records), 0):
            tracking.send_records(run.tracking_uri, run_id, records)

    def send_pictures(run_id: str) -> None:
        if end is None or end.has_pictures_left:
            _send_pictures(run, run_id, best)

    parts = (send_records, send_pictures, lambda run_id: _send_end(run, run_id, ended))
    sent_to: dict[int, str] = {}

    def send(count: int) -> None:
        run_id = known.pop() if known else run.find_or_create(config)  # a second try asks the server for its id
        for i, part in enumerate(parts[:count]):
            if sent_to.get(i) != run_id:
                part(run_id)
                sent_to[i] = run_id
        known.append(run_id)

    # Each part has its own time: a server that is slow, but takes them, gets them all.
    for count, _ in enumerate(parts, start=1):
        tracking.call_with_timeout(tracking.FINISH_WAIT_S, run.tracking_uri, functools.partial(send, count), attempts=3)
    run.run_id = known[0]
    return tracking.call_with_timeout(
        tracking.MODEL_WAIT_S, run.tracking_uri, lambda: _log_network(run, config, run.run_id, ended)
    )


def send_run(run: Run) -> Sent:
    """Sends what the server lacks: metrics and pictures, and if the run has ended, what belongs to its end.

    Raises TrackingError if the server does not take it. What the server has taken by then is not sent again. Raises
    TrainingError if another process is just sending the end; beside a training only metrics and pictures are sent.
    """
    if run.status == RUNNING:
        return _send_run(run)
    with taken(run.uri, "is closing or sending it"):
        return _send_run(run)


def _send_run(run: Run) -> Sent:
    config = read_config(run.uri)
    has_ended = run.status != RUNNING
    found_id = tracking.find_run(run.tracking_uri, run.experiment, run.mlflow_name)
    is_sent = found_id is not None and has_ended and tracking.is_sent(run.tracking_uri, found_id, run.ended_ms)
    sends_end = has_ended and not is_sent
    run_id = run.find_or_create(config) if found_id is None or sends_end else found_id
    found = checkpoint.best(run.uri)
    best = found[1] if found else None
    ended = _read_and_save_page(run, best) if sends_end else None
    records = ended.result.records if ended else contents.read_records(run)
    num_values = tracking.send_records(run.tracking_uri, run_id, records)
    num_pictures = 0 if is_sent else _send_pictures(run, run_id, best)
    logged = LoggedNetwork()
    if ended is not None:
        _send_end(run, run_id, ended)
        logged = _log_network(run, config, run_id, ended)
        if not logged.is_complete:
            raise TrackingError(f"MLflow at {tracking.without_password(run.tracking_uri)}: all but the model is there")
    return Sent(
        run_id=run_id,
        is_new=found_id is None,
        num_values=num_values,
        num_pictures=num_pictures,
        is_ended=sends_end,
        files=tuple(sorted(ended.files)) if ended else (),
        logged_network=logged,
    )


def _read_and_save_page(run: Run, best: Checkpoint | None) -> RunContents:
    """What MLflow gets. The page is also kept in the run's directory, where it is read without MLflow."""
    ended = contents.read_contents(run, best)
    if RUN_PAGE in ended.files:
        storage.write_bytes(storage.join(run.uri, RUN_PAGE), ended.files[RUN_PAGE])
    return ended


def _send_pictures(run: Run, run_id: str, best: Checkpoint | None) -> int:
    by_step = contents.pictures(run.uri, best)
    return sum(tracking.send_pictures(run.tracking_uri, run_id, step, found) for step, found in by_step.items())


def _send_end(run: Run, run_id: str, ended: RunContents) -> None:
    """Sends files, tags, description and status. Raises TrackingError."""
    tags = dict(ended.tags)
    page_link = functools.partial(tracking.artifact_link, run.tracking_uri, run_id, RUN_PAGE)
    if text := contents.description(ended.result, run_id, page_link):
        tags[tracking.DESCRIPTION_TAG] = text
    tracking.finish_run(run.tracking_uri, run_id, run.status, ended.files, tags, ended_ms=run.ended_ms)


def _log_network(run: Run, config: RunConfig, run_id: str, ended: RunContents) -> LoggedNetwork:
    """Logs the model of an evaluated training, and notes that the server now has everything. Raises TrackingError."""
    logged, best = LoggedNetwork(), ended.result.best
    if run.is_training and best is not None and ended.result.is_evaluated:
        logged = log_network(
            run.tracking_uri,
            run_id,
            replace(config.tracking, experiment=run.experiment),
            best,
            dataset=run.dataset,
            inputs=run.inputs,
            card=ended.files.get(MODEL_CARD, b"").decode(),
            has_finished=run.status == "FINISHED",
        )
    if logged.is_complete:
        tracking.mark_sent(run.tracking_uri, run_id, run.ended_ms)
    return logged
