"""Trials' runs are closed in a thread, and the losers' checkpoints go only when that is done."""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distseg import storage
from distseg.errors import StorageError, TrackingError
from distseg.runs import RUNNING, Run, find_runs_in
from distseg.search import progress, records


@pytest.fixture
def search(tmp_path: Path) -> str:
    return str(tmp_path / "search")


def trial(search: str, number: int, *, score: float = 0.5, ended: records.Status = "finished", runs: int = 1) -> str:
    """The folder of a trial with open runs, each with a checkpoint."""
    record = records.TrialRecord(trial_id=f"t{number}", number=number, params={}, config={})
    records.write_trial(search, record)
    folder = records.trial_folder(search, record.trial_id)
    records.write_evaluation(folder, 4, {"val/mIoU": score})
    if ended != "running":
        records.write_end(folder, ended)
    for i in range(runs):
        run = Run(uri=storage.join(folder, f"run-{i}"), name=f"run-{i}", tracking_uri="off", experiment="x")
        run.write_run_json()
        storage.write_bytes(storage.join(run.uri, "checkpoint_00000004", "meta.json"), b"{}")
    return folder


def statuses(folder: str) -> list[str]:
    return sorted(Run.read(uri).status for uri in find_runs_in(folder))


def until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def has_checkpoints(folder: str) -> bool:
    return any("checkpoint_" in entry.uri for entry in storage.list_files(folder))


def finalize(run: Run, status: str) -> None:
    assert has_checkpoints(run.uri)
    run.status = status
    run.write_run_json()


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that were ended; each still had its checkpoint."""
    names: list[str] = []

    def finalize_run(run: Run, status: str) -> None:
        finalize(run, status)
        names.append(run.name)

    monkeypatch.setattr(progress, "finalize_run", finalize_run)
    return names


def test_all_runs_are_closed_when_the_block_ends_each_once(search: str, ended: list[str]) -> None:
    with progress.closing(search, "val/mIoU", keep=9) as close:
        folders = [trial(search, 1, runs=2), trial(search, 2)]
        for folder in folders:
            close(folder, "FINISHED")
        close(folders[1], "FAILED")  # closed already
    assert [statuses(folder) for folder in folders] == [["FINISHED", "FINISHED"], ["FINISHED"]]
    assert len(ended) == 3 and all(map(has_checkpoints, folders))


def test_a_search_that_goes_on_closes_first_what_it_had_left_open(search: str) -> None:
    finished, stopped = trial(search, 1), trial(search, 2, ended="stopped")
    running, failed = trial(search, 3, ended="running"), trial(search, 4, ended="failed")
    assert progress.close_earlier(search) == {finished, stopped, failed}
    assert statuses(finished) == statuses(stopped) == ["FINISHED"]
    assert (statuses(running), statuses(failed)) == ([RUNNING], ["FAILED"])
    with progress.closing(search, "val/mIoU", keep=1, earlier={finished, stopped, failed}):
        pass
    assert [has_checkpoints(folder) for folder in (finished, stopped, running)] == [True, False, True]


def test_what_mlflow_lacks_of_a_closed_run_is_sent_and_a_dead_server_asked_once(
    search: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [trial(search, number) for number in range(1, 5)]
    sent, asked, lacking = list[str](), list[str](), {"1": True, "2": False, "3": True, "4": True}
    for folder, run_id in zip(folders, lacking, strict=True):
        (uri,) = find_runs_in(folder)
        run = Run.read(uri)
        run.status, run.tracking_uri, run.run_id, run.ended_ms = "FINISHED", "http://127.0.0.1:1", run_id, 7
        run.write_run_json()

    def is_sent(uri: str, run_id: str, ended_ms: int) -> bool:
        assert ended_ms == 7
        asked.append(run_id)
        if run_id == "3":
            raise TrackingError("it does not answer")
        return not lacking[run_id]

    monkeypatch.setattr("distseg.tracking.is_sent", is_sent)
    monkeypatch.setattr(progress, "send_run", lambda run: sent.append(run.run_id))
    progress.close_earlier(search)
    assert (asked, sent) == (["1", "2", "3"], ["1"])
    assert caplog.messages == ["it does not answer"]


def test_of_a_stopped_search_all_is_closed_seeds_that_were_done_as_finished(search: str) -> None:
    running, finished = trial(search, 1, ended="running", runs=2), trial(search, 2)
    done = Run.read(sorted(find_runs_in(running))[0])
    done.ended_ms = 7
    done.write_run_json()
    with pytest.raises(KeyboardInterrupt), progress.closing(search, "val/mIoU", keep=9):
        raise KeyboardInterrupt
    progress.close_all(search)
    assert (statuses(running), statuses(finished)) == (["FINISHED", "KILLED"], ["FINISHED"])
    assert Run.read(done.uri).status == "FINISHED"


def test_when_a_search_is_stopped_what_waits_is_not_waited_for(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begins, goes_on = threading.Event(), threading.Event()

    def slowly(run: Run, status: str) -> None:
        begins.set()
        goes_on.wait(60)
        finalize(run, status)

    monkeypatch.setattr(progress, "finalize_run", slowly)
    folders = [trial(search, number) for number in (1, 2)]
    with pytest.raises(KeyboardInterrupt), progress.closing(search, "val/mIoU", keep=9) as close:
        for folder in folders:
            close(folder, "FINISHED")
        begins.wait(60)
        threading.Timer(0.2, goes_on.set).start()
        raise KeyboardInterrupt
    assert [statuses(folder) for folder in folders] == [["FINISHED"], [RUNNING]]


def test_a_losers_checkpoints_stay_until_its_run_is_closed(
    search: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = [threading.Event() for _ in range(3)]
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()

    def slowly(run: Run, status: str) -> None:
        number = int(run.uri.split("/trials/t")[1][0])
        begun.put(number)
        goes_on[number - 1].wait(60)
        finalize(run, status)

    monkeypatch.setattr(progress, "finalize_run", slowly)
    with progress.closing(search, "val/mIoU", keep=1) as close:
        folders = [trial(search, i, score=score) for i, score in enumerate((0.2, 0.6, 0.4), start=1)]
        still_trains = trial(search, 4, score=0.1, ended="running")
        close(folders[0], "FINISHED")
        assert begun.get(timeout=60) == 1
        goes_on[0].set()  # nothing waits behind it: then the losers go, of which the third is one that is not closed
        until(lambda: not has_checkpoints(folders[0]))
        assert has_checkpoints(folders[2])
        close(folders[1], "FINISHED")
        close(folders[2], "FINISHED")
        for event in goes_on:
            event.set()
    assert [has_checkpoints(folder) for folder in (*folders, still_trains)] == [False, True, False, True]
    assert [statuses(folder) for folder in folders] == [["FINISHED"]] * 3 and caplog.messages == []


def test_what_cannot_be_closed_is_said_and_keeps_its_checkpoints(
    search: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_once(run: Run, status: str) -> None:
        monkeypatch.setattr(progress, "finalize_run", finalize)
        raise StorageError("the disk is full")

    monkeypatch.setattr(progress, "finalize_run", fails_once)
    with progress.closing(search, "val/mIoU", keep=0) as close:
        first, second = trial(search, 1, runs=2), trial(search, 2)
        close(first, "FINISHED")
        close(second, "FINISHED")
    (message,) = caplog.messages
    assert message.startswith(first) and message.endswith(" is not closed: the disk is full")
    assert (statuses(first), statuses(second)) == (["FINISHED", RUNNING], ["FINISHED"])
    assert (has_checkpoints(first), has_checkpoints(second)) == (True, False)


def test_a_trial_that_begins_again_has_not_ended(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    again, other = trial(search, 1, score=0.1), trial(search, 2)
    told: list[progress.TrialProgress] = []
    monkeypatch.setattr(progress.SearchCallback, "search_uri", search, raising=False)
    monkeypatch.setattr(progress.SearchCallback, "on_progress", told.append, raising=False)
    with progress.closing(search, "val/mIoU", keep=0, earlier=progress.close_earlier(search)):
        for number in (1, 3):
            made: Any = SimpleNamespace(trial_id=f"t{number}", config={}, last_result={}, experiment_tag=f"{number}_x")
            progress.SearchCallback().on_trial_start(0, [], made)
    assert [it.status for it in told] == ["running", "running"]
    assert (has_checkpoints(again), has_checkpoints(other)) == (True, False)
