"""The end of a run: what is told to MLflow first, and what is made ready while the last checkpoint is written."""

from dataclasses import replace
from pathlib import Path

import pytest

from distseg import tracking
from distseg.config import CheckpointConfig, RunConfig, TrackingConfig
from distseg.errors import TrackingError
from distseg.runs import RUNNING, Run, finalize, finalize_run, leave_run
from tests.recorded import only_run


@pytest.fixture
def config(store: str, tmp_path: Path) -> RunConfig:
    return RunConfig(
        name="ends",
        checkpoint=CheckpointConfig(uri=str(tmp_path / "runs")),
        tracking=TrackingConfig(uri=store, experiment="ends"),
    )


def test_a_run_that_fails_is_closed_before_the_rest_is_sent_even_if_its_id_is_not_known(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.new(config)
    assert run.find_or_create(config) and run.run_id == ""

    def slow(*_: object) -> None:
        raise TrackingError("MLflow did not take it within 20 s")

    monkeypatch.setattr(finalize, "_finish", slow)
    outcome = finalize_run(run, "FAILED")
    assert not outcome.is_sent and len(caplog.messages) == 1
    assert only_run(config.tracking.uri, "ends").run.info.status == "FAILED"


def test_a_run_is_left_open_with_the_time_of_its_end_for_another_process_to_close(config: RunConfig) -> None:
    run, closed = Run.new(config), list[str]()
    run.write_run_json()
    run.run_id = "a" * 32  # known late
    leave_run(run, lambda: closed.append("report"))
    left = Run.read(run.uri)
    assert (left.status, left.run_id, closed) == (RUNNING, run.run_id, ["report"]) and left.ended_ms > 0

    left.tracking_uri = tracking.OFF
    ended_ms = left.ended_ms
    finalize_run(left, "FINISHED")
    assert Run.read(run.uri).ended_ms == ended_ms  # not when it was closed


def test_a_run_that_was_closed_meanwhile_stays_so(config: RunConfig) -> None:
    run = Run.new(config)
    replace(run, status="KILLED").write_run_json()
    leave_run(run, lambda: None)
    assert Run.read(run.uri).status == "KILLED"


def test_only_trainings_that_log_a_model_make_ready_for_it(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(tracking, "prepare_to_log_model", lambda: calls.append("model"))
    run = Run.new(config)
    finalize.begin_to_end(run, replace(config, tracking=replace(config.tracking, log_model=False))).join()
    finalize.begin_to_end(replace(run, tags={"stage": "trial"}), config).join()
    assert calls == []
    finalize.begin_to_end(run, config).join()
    assert calls == ["model"]


def test_what_cannot_be_made_ready_is_said_at_the_end_and_not_before(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("distseg.runs.finalize.importlib.import_module", broken)
    finalize.begin_to_end(Run.new(config), config).join()
    assert capsys.readouterr() == ("", "")
