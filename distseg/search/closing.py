"""The end of trials: their runs are closed and the losers' checkpoints deleted, while the next trials train.

    with closing(search_uri, objective, keep) as close:
        close(folder, "FINISHED")        in a thread, one trial after the other; the block ends when all are done

A trial's driver leaves its run open when all steps are done, and one that is stopped is killed. To draw a run's page
takes a second, in which the next trial's workers can start.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator

from distseg import storage
from distseg.errors import first_line
from distseg.runs import RUNNING, Run, finalize_run, find_runs_in
from distseg.search import records, results

log = logging.getLogger(__name__)

Close = Callable[[str, str], None]
"""Called with a trial's folder and its status for MLflow. Does not wait."""


@contextlib.contextmanager
def closing(search_uri: str, objective: str, keep: int) -> Iterator[Close]:
    """Checkpoints stay of trials that run, and of the `keep` best of those that ended.

    First it closes what a search that was killed has left open.
    """
    waiting: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
    closed: set[str] = set()

    def work() -> None:
        for folder, status in iter(waiting.get, None):
            with _never_stopping_the_search():
                close_runs(folder, status)
            closed.add(folder)
            if waiting.empty():
                _delete_losers(search_uri, objective, keep, closed)
        _delete_losers(search_uri, objective, keep, closed)

    def close(folder: str, status: str) -> None:
        waiting.put((folder, status))

    for trial in records.read_trials(search_uri):
        if trial.status in ("finished", "stopped"):
            close(records.trial_folder(search_uri, trial.trial_id), "FINISHED")
    thread = threading.Thread(target=work, name="closing", daemon=True)
    thread.start()
    try:
        yield close
    finally:
        waiting.put(None)
        thread.join()


def close_runs(folder: str, status: str) -> None:
    """Closes the MLflow runs of a trial that are open: one, or one for each seed."""
    for uri in find_runs_in(folder):
        run = Run.read(uri)
        if run.status == RUNNING:
            finalize_run(run, status)


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


@contextlib.contextmanager
def _never_stopping_the_search() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 — the thread has more to do, and the run can be sent by `distseg.sync`
        log.warning("%s", first_line(error))
