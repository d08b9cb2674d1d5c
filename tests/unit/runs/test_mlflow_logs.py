"""A reporter that does not send itself: what it hands over arrives, and what its journal says when both have ended."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from distseg import tracking
from distseg.config import RunConfig
from distseg.data.shards import load_manifest
from distseg.runs import Left, Logs, Run, RunReporter, close_logs, logs_of
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
