"""A reporter that does not send itself: what it hands over arrives, and what its journal says when both have ended."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from distseg import tracking
from distseg.config import RunConfig
from distseg.data.shards import load_manifest
from distseg.errors import StorageError, TrackingError
from distseg.runs import Left, Logs, NoLogs, Run, RunReporter, close_logs, finalize_run, logs_of
from distseg.tracking import MetricRecord
from distseg.tracking.mlflow_formats import pictures_in
from tests.recorded import only_run
from tests.scripted import config_of, step_metrics


def picture() -> bytes:
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 48), "navy").save(jpeg, "JPEG")
    return jpeg.getvalue()


class HandedOver:
    """As in a worker of Ray, but `logs` are of this process. `arrives`: whether it knows that all has."""

    def __init__(self, logs: Logs, *, arrives: bool = True) -> None:
        self._logs, self._arrives, self._num_records = logs, arrives, 0

    def metrics(self, records: Sequence[MetricRecord]) -> None:
        self._num_records += len(records)
        self._logs.metrics(records)

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        self._logs.pictures(step, pictures)

    def close(self) -> Left | None:
        return Left(self._num_records, True) if self._arrives else None


@pytest.fixture
def config(store: str, data_uri: str, tmp_path: Path) -> RunConfig:
    return config_of(str(tmp_path / "runs"), store, data_uri, experiment="handed over")


def opened(config: RunConfig) -> tuple[Run, Logs]:
    run = Run.new(config)
    run.open(config, load_manifest(config.data.uri), None)
    return run, logs_of(config, run)


def report_two_steps(config: RunConfig, run: Run, logs: Logs) -> RunReporter:
    report = RunReporter(config, run, None, logs=logs)
    for step in (1, 2):
        report.log(step, step_metrics(step))
    report.pictures(2, {"overlay/day": picture()})
    return report


@pytest.mark.parametrize(("got_all", "noted"), [(True, Left(0, False)), (False, Left(2, True))])
def test_what_is_handed_over_is_sent_and_noted_if_it_is_known_to_be_all(
    got_all: bool, noted: Left, config: RunConfig
) -> None:
    run, logs = opened(config)
    report_two_steps(config, run, HandedOver(logs)).close()
    end = tracking.read_journal_end(run.uri)
    assert end is not None and end[2:] == (2, *Left(2, True))
    close_logs(run, logs, got_all=got_all)
    end = tracking.read_journal_end(run.uri)
    assert end is not None and end[:2] == (config.tracking.uri, run.run_id) and end[2:] == (2, *noted)
    recorded = only_run(config.tracking.uri, "handed over")
    assert recorded.values("train/loss") == [1.0, 0.5]
    assert pictures_in(recorded.artifacts("images")) == {("overlay/day", 0), ("overlay/day", 2)}


def test_of_a_worker_that_was_killed_nothing_is_said_to_be_complete(config: RunConfig) -> None:
    run, logs = opened(config)
    report_two_steps(config, run, HandedOver(logs))
    close_logs(run, logs, got_all=True)
    assert tracking.read_journal_end(run.uri) is None
    assert only_run(config.tracking.uri, "handed over").values("train/loss") == [1.0, 0.5]


@pytest.mark.parametrize("earlier", [("off", "", 2, 0, False), ("http://127.0.0.1:1", "", 2, 2, True)])
def test_of_a_resumed_run_whose_workers_never_begin_neither(
    earlier: tuple[str, str, int, int, bool], config: RunConfig
) -> None:
    """Of an earlier process that did not send, or could not."""
    run, _ = opened(replace(config, tracking=replace(config.tracking, uri="off")))
    report_two_steps(config, run, HandedOver(NoLogs())).close()
    tracking.close_journal(run.uri, earlier[0], earlier[1], *earlier[3:])
    run = Run.resume(run.uri, config)
    run.open(config, load_manifest(config.data.uri), None)
    close_logs(run, logs_of(config, run), got_all=True)
    assert tracking.read_journal_end(run.uri) is None
    finalize_run(run, "KILLED")
    assert only_run(config.tracking.uri, "handed over").values("train/loss") == [1.0, 0.5]


def test_a_run_that_is_deleted_meanwhile_is_not_complete(config: RunConfig) -> None:
    run, logs = opened(config)
    report = report_two_steps(config, run, HandedOver(logs))
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    while len(client.get_metric_history(run.run_id, "train/loss")) < 2:
        time.sleep(0.05)
    client.delete_run(run.run_id)
    report.log(3, step_metrics(3))
    report.close()
    close_logs(run, logs, got_all=True)
    end = tracking.read_journal_end(run.uri)
    assert end is not None and end.num_unsent and end.has_pictures_left
    finalize_run(run, "FINISHED")
    assert only_run(config.tracking.uri, "handed over").steps("train/loss") == [1, 2, 3]


@pytest.mark.parametrize("error", [StorageError("the place is gone"), TrackingError("closed.json is damaged")])
def test_an_end_that_cannot_be_noted_is_no_end_of_the_run(
    error: Exception, config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, logs = opened(config)

    def read(_: str) -> None:
        raise error

    monkeypatch.setattr(tracking, "read_journal_end", read)
    close_logs(run, logs, got_all=True)
    assert caplog.messages == [str(error)]


def test_of_a_worker_that_does_not_know_what_arrived_neither(config: RunConfig) -> None:
    run, logs = opened(config)
    report_two_steps(config, run, HandedOver(logs, arrives=False)).close()
    close_logs(run, logs, got_all=True)
    assert tracking.read_journal_end(run.uri) is None
    assert len(tracking.read_journal(run.uri)) == 2


def test_a_worker_that_begins_again_hands_over_what_went_before_and_nothing_is_there_twice(config: RunConfig) -> None:
    run, logs = opened(config)
    report_two_steps(config, run, HandedOver(logs)).close()
    report = RunReporter(config, run, None, logs=HandedOver(logs))
    report.log(3, step_metrics(3))
    report.close()
    close_logs(run, logs, got_all=True)
    assert only_run(config.tracking.uri, "handed over").steps("train/loss") == [1, 2, 3]
