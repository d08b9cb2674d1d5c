"""Ctrl-C and SIGTERM at every phase of a training in one process: what is left can be resumed and sent."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distseg import stopping, sync, tracking
from distseg.config import CheckpointConfig, RunConfig, TrackingConfig
from distseg.errors import TrainingError
from distseg.evaluation import Overlays
from distseg.runs import Outcome, read_run_json, taken, train_without_ray
from distseg.stopping import StoppedError
from distseg.training import checkpoint
from tests.recorded import only_run

EXPERIMENT, NUM_STEPS = "stopped", 4
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])


@pytest.fixture
def config(light_config: RunConfig, data_uri: str, store: str, tmp_path: Path) -> RunConfig:
    return replace(
        light_config,
        optim=replace(light_config.optim, max_steps=NUM_STEPS),
        data=replace(light_config.data, uri=data_uri, batch_size=2, crop_px=(32, 32)),
        checkpoint=CheckpointConfig(uri=str(tmp_path / "runs")),
        tracking=TrackingConfig(uri=store, experiment=EXPERIMENT, log_every_steps=1, log_model=False),
    )


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture(autouse=True)
def a_slow_machine_saves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE_S", 300.0)


def at_step(step: int, signum: int, times: int = 1) -> Callable[[int, Mapping[str, float], str], None]:
    """A `show` that sends the signal when a step's loss is logged."""

    def show(logged_step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
        if logged_step == step and "train/loss" in metrics:
            for _ in range(times):
                signal.raise_signal(signum)

    return show


def before_first_call(of: Any, name: str, signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes just before a function is called for the first time."""
    called, function = threading.Event(), getattr(of, name)

    def signalled(*arguments: Any, **options: Any) -> Any:
        if not called.is_set():
            called.set()
            signal.raise_signal(signum)
        return function(*arguments, **options)

    monkeypatch.setattr(of, name, signalled)


def stopped(config: RunConfig, signum: int, show: Any = None) -> str:
    """The directory of the run that was stopped."""
    with pytest.raises(StoppedError) as caught:
        train_without_ray(config, show=show)
    assert caught.value.exit_code == 128 + signum
    (folder,) = Path(config.checkpoint.uri).iterdir()
    return str(folder)


def steps_saved(run_uri: str) -> list[int]:
    return [found.step for found in checkpoint.found_in(run_uri)]


def mlflow_status(config: RunConfig) -> str:
    return str(only_run(config.tracking.uri, EXPERIMENT).run.info.status)


def resumed(config: RunConfig, run_uri: str) -> Outcome:
    """Goes on to the end; then MLflow has one run with every step once, and its evaluation."""
    outcome = train_without_ray(config, resume=run_uri)
    assert outcome is not None
    recorded = only_run(config.tracking.uri, EXPERIMENT)
    assert recorded.run.info.status == "FINISHED"
    assert recorded.steps("train/loss") == list(range(1, NUM_STEPS + 1))
    assert recorded.steps("val/mIoU") == [NUM_STEPS]
    return outcome


@SIGNALS
def test_in_training_the_newest_step_is_saved_and_everything_closed(
    config: RunConfig, signum: int, caplog: pytest.LogCaptureFixture
) -> None:
    run_uri = stopped(config, signum, at_step(2, signum))
    assert steps_saved(run_uri) == [3], "the ranks agree on it with the next step"
    assert read_run_json(run_uri)["status"] == mlflow_status(config) == "KILLED"
    assert any(f"distseg.sync {run_uri}" in line for line in caplog.messages), "before it closes: it may be killed"
    resumed(config, run_uri)


def test_what_another_process_works_on_is_neither_trained_nor_sent(config: RunConfig) -> None:
    run_uri = stopped(config, signal.SIGINT, at_step(2, signal.SIGINT))
    before = {path: path.read_bytes() for path in Path(run_uri).rglob("*") if path.is_file()}
    with taken(run_uri, "is training it"):
        for work in (lambda: train_without_ray(config, resume=run_uri), lambda: sync.main([run_uri])):
            with pytest.raises(TrainingError, match=f"process {os.getpid()} on .* is training it"):
                work()
    assert {path: path.read_bytes() for path in Path(run_uri).rglob("*") if path.is_file()} == before


@SIGNALS
def test_while_the_run_is_opened_it_is_opened_and_closed(
    config: RunConfig, signum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_first_call(tracking, "open_run", signum, monkeypatch)
    run_uri = stopped(config, signum)
    assert read_run_json(run_uri)["status"] == mlflow_status(config) == "KILLED"
    assert len(steps_saved(run_uri)) == 1
    resumed(config, run_uri)


@SIGNALS
def test_an_evaluation_is_given_up_and_the_step_saved(
    config: RunConfig, signum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_first_call(Overlays, "update", signum, monkeypatch)
    run_uri = stopped(config, signum)
    assert steps_saved(run_uri) == [NUM_STEPS], "the evaluation is at the last step"
    assert only_run(config.tracking.uri, EXPERIMENT).steps("val/mIoU") == []
    assert read_run_json(run_uri)["status"] == mlflow_status(config) == "KILLED"
    monkeypatch.undo()
    assert resumed(config, run_uri).tables, "what was given up is made up for"


@pytest.mark.parametrize(
    ("phase", "signum"),
    [("finish_run", signal.SIGTERM), ("finish_run", signal.SIGINT), ("close_journal", signal.SIGTERM)],
)
def test_while_a_finished_run_closes_the_user_hears_how_to_send_the_rest(
    config: RunConfig, signum: int, phase: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before_first_call(tracking, phase, signum, monkeypatch)
    run_uri = stopped(config, signum)
    assert read_run_json(run_uri)["status"] == "FINISHED"
    assert caplog.messages[-1].endswith(f"python -m distseg.sync {run_uri}")
    monkeypatch.undo()
    assert sync.main([run_uri]) == 0
    assert mlflow_status(config) == "FINISHED"


@SIGNALS
def test_a_second_signal_ends_at_once_and_leaves_what_can_be_resumed(
    config: RunConfig, signum: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(config, checkpoint=replace(config.checkpoint, every_steps=1))
    run_uri = stopped(config, signum, at_step(3, signum, times=2))
    assert steps_saved(run_uri)[0] == 2
    assert read_run_json(run_uri)["status"] == mlflow_status(config) == "KILLED"
    assert caplog.messages[-1] == f"ended at once; send the rest: python -m distseg.sync {run_uri}"
    assert not (Path(run_uri) / "report").exists()
    resumed(config, run_uri)


def test_what_torchrun_passes_on_is_no_second_signal(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert steps_saved(stopped(config, signal.SIGINT, at_step(2, signal.SIGINT, times=2))) == [3]


def test_who_does_not_come_to_an_end_is_ended(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE_S", 0.1)
    never = threading.Event()

    def hang(step: int, metrics: Mapping[str, float], worst_condition: str) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
            never.wait(60)

    run_uri = stopped(config, signal.SIGTERM, hang)
    assert json.loads((Path(run_uri) / "run.json").read_text())["status"] == mlflow_status(config) == "KILLED"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopping.handled():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_garbage_is_collected_is_not_lost(signum: signal.Signals) -> None:
    """Python ignores whatever is raised there."""

    class Collected:
        def __del__(self) -> None:
            signal.raise_signal(signum)

    hook = sys.unraisablehook
    with pytest.raises(StoppedError) as stop, stopping.handled():
        Collected()
        time.sleep(10)
    assert stop.value.signum == signum
    assert sys.unraisablehook is hook
