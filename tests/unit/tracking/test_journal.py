"""A run's journal: what was measured is there whoever was killed, in the run's directory on a disk and in S3."""

import json
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import pytest

from distseg import storage, tracking
from distseg.tracking import Journal, journal


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


@pytest.fixture(params=["disk", "s3"])
def run_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('moto_s3')}/run"


def record(step: int, **metrics: float) -> tracking.MetricRecord:
    return {"step": step, "time_ms": 1000 + step, "metrics": metrics}


def steps(records: list[tracking.MetricRecord]) -> list[int]:
    return [record["step"] for record in records]


def segments(run_uri: str) -> list[str]:
    names = (entry.uri.rpartition("/")[2] for entry in storage.list_files(f"{run_uri}/journal"))
    return [name for name in names if name.endswith(".jsonl")]


def test_every_record_is_read_back_in_order_with_its_time(run_uri: str) -> None:
    written = Journal(run_uri, "run")
    first = written.append(1, {"train/loss": 0.1 + 0.2, "nan": float("nan")})
    written.keep([record(2, a=2.0)])
    written.close()
    again = Journal(run_uri, "run")
    again.append(3, {"a": 3.0})
    again.close()
    found = tracking.read_journal(run_uri)
    assert repr(found[0]) == repr(first)
    assert found[1] == record(2, a=2.0)
    assert steps(found) == [1, 2, 3]
    assert [name[:6] for name in segments(run_uri)] == ["000001", "000002"]
    assert not list(Path(tempfile.gettempdir()).rglob("*.jsonl")), "what S3 has is not left on the machine"


def test_a_metric_of_a_step_counts_once_the_first() -> None:
    records = [record(1, a=1.0, b=1.0), record(2, a=2.0), record(1, a=9.0, c=3.0), record(2, a=9.0)]
    assert tracking.without_repeats(records) == [record(1, a=1.0, b=1.0), record(2, a=2.0), record(1, c=3.0)]


def test_the_history_of_a_metric_is_by_step() -> None:
    history = tracking.history_of([record(3, a=3.0), record(1, a=1.0, b=5.0)], ["a", "c"])
    assert history == {"a": [(1, 1.0, 1.001), (3, 3.0, 1.003)]}


def test_on_a_disk_a_record_is_in_the_run_as_soon_as_it_is_made(tmp_path: Path) -> None:
    written = Journal(str(tmp_path), "run")
    for step in (1, 2):
        written.append(step, {"a": 1.0})
        assert steps(tracking.read_journal(str(tmp_path)))[-1] == step
    assert written.waiting() == []


def test_in_s3_what_is_no_segment_waits_and_an_upload_makes_one(moto_s3: str) -> None:
    written = Journal(f"{moto_s3}/run", "run")
    written.append(1, {"a": 1.0})
    assert (steps(written.waiting()), segments(f"{moto_s3}/run")) == ([1], [])
    upload(written)
    assert (written.waiting(), len(segments(f"{moto_s3}/run"))) == ([], 1)
    upload(written)  # of nothing
    written.append(2, {"a": 1.0})
    assert steps(written.waiting()) == [2]
    upload(written)
    assert steps(tracking.read_journal(f"{moto_s3}/run")) == [1, 2]


def upload(written: Journal) -> None:
    written.upload()
    if written._upload_thread is not None:
        written._upload_thread.join()


def test_records_wait_while_s3_refuses_and_are_all_there_later(
    moto_s3: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Journal(f"{moto_s3}/run", "run")
    written.append(1, {"a": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(written, "_run_uri", "s3://no-such-bucket-here/run")
        upload(written)
        written.append(2, {"a": 2.0})
    assert "the journal waits: s3://no-such-bucket-here" in caplog.text
    assert steps(written.waiting()) == [1, 2]
    written.close()
    assert steps(tracking.read_journal(f"{moto_s3}/run")) == [1, 2]


def append_until_killed(run_uri: str, temporary: str, num_uploaded: int, num: int) -> None:
    tempfile.tempdir = temporary
    written = Journal(run_uri, "run")
    for step in range(1, num + 1):
        written.append(step, {"a": float(step)})
        if step == num_uploaded:
            upload(written)
    with written._path.open("a") as file:
        file.write('{"step": 99, "time_ms": 1, "met')  # killed while it writes
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_loses_nothing_on_its_own_machine(run_uri: str) -> None:
    arguments = (run_uri, tempfile.gettempdir(), 4, 6)
    process = multiprocessing.get_context("fork").Process(target=append_until_killed, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert steps(tracking.read_journal(run_uri, "run")) == [1, 2, 3, 4, 5, 6]
    again = Journal(run_uri, "run")
    again.append(7, {"a": 7.0})
    again.close()
    assert steps(tracking.read_journal(run_uri)) == [1, 2, 3, 4, 5, 6, 7]


def test_a_full_disk_stops_nothing_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "journal").write_text("not a directory")
    written = Journal.__new__(Journal)
    written.__init__(str(tmp_path / "run"), "run")  # type: ignore[misc]
    written._path = tmp_path / "journal" / "000001-aaaaaa.jsonl"
    for step in (1, 2):
        written.append(step, {"a": 1.0})
    assert steps(written.waiting()) == [1, 2], "they travel in the checkpoint"
    assert caplog.text.count("metrics are kept in memory") == 1
    written.close()
    assert steps(tracking.read_journal(str(tmp_path / "run"))) == [1, 2]


def test_a_damaged_line_is_told_of_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.dumps(record(1, a=1.0)), '{"step": 2, "ti', json.dumps(record(3, a=3.0))]
    storage.write_bytes(str(tmp_path / "journal" / "000001-aaaaaa.jsonl"), "\n".join([*lines, ""]).encode())
    assert steps(tracking.read_journal(str(tmp_path))) == [1, 3]
    assert "a line of the journal that is damaged" in caplog.text


def test_a_journal_that_is_closed_is_one_segment_and_says_what_was_sent(run_uri: str) -> None:
    for step in (1, 2, 3):
        written = Journal(run_uri, "run")
        written.append(step, {"a": 1.0})
        written.append(1, {"a": 9.0})  # done again
        written.close()
    assert tracking.read_journal_end(run_uri) is None
    before = tracking.read_journal(run_uri)
    tracking.close_journal(run_uri, "http://server", "id", 1)
    assert tracking.read_journal_end(run_uri) == ("http://server", "id", 3, 1, False)
    assert len(segments(run_uri)) == 1 and tracking.read_journal(run_uri) == before
    tracking.reopen_journal(run_uri)
    assert tracking.read_journal_end(run_uri) is None


def test_a_directory_of_another_user_is_not_written_to(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = journal.local_path("run").parent
    folder.mkdir()
    with monkeypatch.context() as patch:
        mine = os.getuid()
        patch.setattr(os, "getuid", lambda: mine + 1)
        theirs = journal.local_path("run").parent
        theirs.mkdir()  # ours, where that user's is expected
        written = Journal(f"{moto_s3}/run", "run")
        written.append(1, {"a": 1.0})
    assert list(theirs.iterdir()) == [] and steps(written.waiting()) == [1]
