"""Trials' runs are closed in a thread, and the losers' checkpoints go only when that is done."""

import threading
from pathlib import Path

import pytest

from distseg import storage
from distseg.errors import StorageError
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


def test_a_search_that_was_killed_closes_first_what_it_had_left_open(search: str) -> None:
    finished, stopped = trial(search, 1), trial(search, 2, ended="stopped")
    running, failed = trial(search, 3, ended="running"), trial(search, 4, ended="failed")
    with progress.closing(search, "val/mIoU", keep=9):
        pass
    assert statuses(finished) == statuses(stopped) == ["FINISHED"]
    assert statuses(running) == statuses(failed) == [RUNNING]


def test_a_losers_checkpoints_stay_until_its_run_is_closed(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def slowly(run: Run, status: str) -> None:
        goes_on.wait(60)
        finalize(run, status)

    monkeypatch.setattr(progress, "finalize_run", slowly)
    with progress.closing(search, "val/mIoU", keep=1) as close:
        folders = [trial(search, i, score=score) for i, score in enumerate((0.2, 0.6, 0.4), start=1)]
        still_trains = trial(search, 4, score=0.1, ended="running")
        for folder in folders:
            close(folder, "FINISHED")
        assert all(map(has_checkpoints, folders))
        goes_on.set()
    assert [has_checkpoints(folder) for folder in (*folders, still_trains)] == [False, True, False, True]


def test_what_cannot_be_closed_is_said_and_does_not_stop_the_rest(
    search: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_once(run: Run, status: str) -> None:
        monkeypatch.setattr(progress, "finalize_run", finalize)
        raise StorageError("the disk is full")

    monkeypatch.setattr(progress, "finalize_run", fails_once)
    with progress.closing(search, "val/mIoU", keep=9) as close:
        first, second = trial(search, 1), trial(search, 2)
        close(first, "FINISHED")
        close(second, "FINISHED")
    assert caplog.messages == ["the disk is full"]
    assert (statuses(first), statuses(second)) == ([RUNNING], ["FINISHED"])
