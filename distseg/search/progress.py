"""What happens to the trials of a search while it runs: shown to the user, recorded, and cleaned up after."""

import contextlib
import logging
import queue
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distseg import storage, tracking
from distseg.errors import first_line
from distseg.runs import RUNNING, Run, finalize_run, find_runs_in, send_run
from distseg.search import records, results
from distseg.search.algorithms import SCORE
from distseg.search.params import parameters
from distseg.search.results import format_value, format_values
from distseg.terminal import visible

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """How a trial goes."""

    number: int
    params: Mapping[str, Any]
    status: records.Status
    step: int = 0
    score: float | None = None
    error: str = ""


class SearchDisplay:
    """Shows a search's progress; a context manager, called with each TrialProgress."""

    def __init__(self, objective: str) -> None:
        self._objective = objective
        self._rows: dict[int, TrialProgress] = {}
        self._live = Live(console=Console(), auto_refresh=False) if sys.stdout.isatty() else None

    def __enter__(self) -> "SearchDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, progress: TrialProgress) -> None:
        self._rows[progress.number] = progress
        if self._live:
            self._live.update(self._table(), refresh=True)
            return
        score = "" if progress.score is None else f"  {self._objective} {progress.score:.4f}"
        happened = f"failed: {progress.error}" if progress.status == "failed" else progress.status
        line = f"trial {progress.number}: step {progress.step}{score}  {happened}  ({format_values(progress.params)})"
        print(visible(line), flush=True)

    def _table(self) -> Table:
        names = list(dict.fromkeys(name for row in self._rows.values() for name in row.params))
        table = Table("trial", *names, "step", self._objective, "")
        for number, row in sorted(self._rows.items()):
            score = "-" if row.score is None else f"{row.score:.4f}"
            values = (format_value(row.params.get(name)) for name in names)
            shown = (str(number), *values, str(row.step), score, row.error or row.status)
            table.add_row(*(Text(visible(cell)) for cell in shown))
        return table


# ---- how they end

_MLFLOW_STATUS: Mapping[records.Status, str] = {
    "running": "KILLED",
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
}
Close = Callable[[str, str], None]
"""Called with a trial's folder and its status for MLflow. Does not wait."""


@contextlib.contextmanager
def closing(search_uri: str, objective: str, keep: int, *, earlier: Collection[str] = ()) -> Iterator[Close]:
    """Closes trials' runs in a thread, one after the other, and deletes the losers' checkpoints; ends when all is done.

    A trial's driver leaves its run open when all steps are done, and one that is stopped is killed. To draw a run's
    page takes a second, in which the next trial's workers can start. Checkpoints stay of trials that run, and of the
    `keep` best of those that ended. `earlier`: what `close_earlier` returned. If it is stopped, what waits is left to
    `close_all`.
    """
    waiting: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
    is_given_up = threading.Event()
    closed = set(earlier)

    def work() -> None:
        for folder, status in iter(waiting.get, None):
            if not is_given_up.is_set() and close_runs(folder, status):
                closed.add(folder)
            if waiting.empty():
                _delete_losers(search_uri, objective, keep, closed)
        _delete_losers(search_uri, objective, keep, closed)

    thread = threading.Thread(target=work, name="closing", daemon=True)
    thread.start()
    try:
        yield lambda folder, status: waiting.put((folder, status))
    except KeyboardInterrupt:
        is_given_up.set()
        raise
    finally:
        waiting.put(None)
        thread.join()


def close_all(search_uri: str) -> None:
    """Closes whatever a search that has been stopped has left open: trials that still ran as KILLED."""
    for trial in records.read_trials(search_uri):
        close_runs(records.trial_folder(search_uri, trial.trial_id), _MLFLOW_STATUS[trial.status])


def close_earlier(search_uri: str) -> set[str]:
    """Before a search goes on: closes the runs of trials that had ended, and sends what MLflow lacks of them.

    Returns the folders of those whose runs are all closed.
    """
    closed, is_asked = set(), True
    for trial in records.read_trials(search_uri):
        if trial.status == "running":  # goes on
            continue
        folder = records.trial_folder(search_uri, trial.trial_id)
        if close_runs(folder, _MLFLOW_STATUS[trial.status]):
            closed.add(folder)
        for uri in find_runs_in(folder) if is_asked else ():
            with _never_stopping_the_search():
                is_asked = False  # a server that does not answer is asked once
                _send_rest(Run.read(uri))
                is_asked = True
    return closed


def close_runs(folder: str, status: str) -> bool:
    """Closes the runs of a trial that are open: one, or one for each seed. Those that have done all steps are FINISHED.

    False, after a warning, if one of them cannot be closed.
    """
    num_left = 0
    for uri in find_runs_in(folder):
        num_left += 1
        with _never_stopping_the_search(f"{uri} is not closed: "):
            run = Run.read(uri)
            if run.status == RUNNING:
                finalize_run(run, "FINISHED" if run.ended_ms else status)
            num_left -= 1
    return num_left == 0


def _send_rest(run: Run) -> None:
    """Of a run that was closed by a process that died before MLflow had all of it."""
    is_closed = run.status != RUNNING and run.is_tracked and run.run_id
    if is_closed and not tracking.is_sent(run.tracking_uri, run.run_id, run.ended_ms):
        send_run(run)


def _delete_losers(search_uri: str, objective: str, keep: int, closed: set[str]) -> None:
    """Of trials whose runs are closed only: a run's page shows its best checkpoint's scores."""
    with _never_stopping_the_search():
        trials = records.read_trials(search_uri)
        ended = results.ranked([trial for trial in trials if trial.status in ("finished", "stopped")], objective)
        for loser in ended[keep:]:
            folder = records.trial_folder(search_uri, loser.trial_id)
            if folder in closed:
                _delete_checkpoints(folder)


def _delete_checkpoints(folder: str) -> None:
    """All checkpoints below a trial's folder."""
    uris = {entry.uri.rpartition("/")[0] for entry in storage.list_files(folder)}
    for uri in uris:
        if uri.rpartition("/")[2].startswith("checkpoint_"):
            storage.delete_tree(uri)


class SearchCallback(tune.Callback):
    """Tells how trials go, records how they ended, and has their runs closed.

    Ray Tune pickles this object: searches that were made before keep the names of its attributes.
    """

    # Of the class, since Ray Tune pickles instances: a resumed search has another display and may have been moved.
    on_progress: ClassVar[Callable[[TrialProgress], None]]
    close: ClassVar[Close]
    search_uri: ClassVar[str]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with _never_stopping_the_search():
            records.forget_end(records.trial_folder(self.search_uri, trial.trial_id))
        self._tell(trial, "running", trial.last_result)  # it has a result if it was paused

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if SCORE in result:
            self._tell(trial, "running", result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with _never_stopping_the_search():
            folder = records.trial_folder(self.search_uri, trial.trial_id)
            status: records.Status = "finished" if records.has_ended(folder) else "stopped"
            if status == "stopped":
                records.write_end(folder, status)
            SearchCallback.close(folder, "FINISHED")
            self._tell(trial, status, trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with _never_stopping_the_search():
            folder = records.trial_folder(self.search_uri, trial.trial_id)
            if not records.has_ended(folder):
                records.write_end(folder, "failed", "the process that drove it was lost")
            SearchCallback.close(folder, "FAILED")
            self._tell(trial, "failed", trial.last_result, records.read_error(folder))

    @staticmethod
    def _tell(trial: Any, status: records.Status, result: Mapping[str, Any] | None = None, error: str = "") -> None:
        result = result or {}
        SearchCallback.on_progress(
            TrialProgress(
                number=trial_number(trial),
                params=parameters(trial.config),
                status=status,
                step=int(result.get("step", 0)),
                score=result.get(SCORE),
                error=error,
            )
        )


def trial_number(trial: Any) -> int:
    """The number of a trial of Ray Tune in its search, from 1."""
    counted = re.fullmatch(r".*_(\d{5,})", trial.trial_id)  # from 0, by Ray Tune's own search
    return int(counted[1]) + 1 if counted else int(trial.experiment_tag.partition("_")[0])  # as Optuna's trials have it


@contextlib.contextmanager
def _never_stopping_the_search(what: str = "") -> Iterator[None]:
    """Ray Tune ends a search when a callback raises, and the thread that closes runs has more to do."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 — `close_earlier` tries again
        log.warning("%s%s", what, first_line(error))
