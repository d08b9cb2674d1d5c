"""How a trial tells Ray Tune its scores."""

import threading
from typing import Any

import pytest

from distseg import orchestration
from distseg.search import trial


def test_a_controller_of_this_process_tells_by_a_thread_and_all_is_told_in_order_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[int, bool]] = []
    may_go_on = threading.Event()

    def report(result: dict[str, Any]) -> None:
        may_go_on.wait(60)  # as Ray Tune has other trials to hear
        told.append((result["step"], threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(orchestration, "controls_here", lambda: True)
    monkeypatch.setattr("ray.tune.report", report)
    with trial._telling_tune() as tell:
        for step in (1, 2):
            tell({"step": step})
        assert told == []
        may_go_on.set()
    assert told == [(1, False), (2, False)]


def test_what_was_told_before_an_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(orchestration, "controls_here", lambda: True)
    monkeypatch.setattr("ray.tune.report", told.append)
    with pytest.raises(ValueError, match="it fails"), trial._telling_tune() as tell:
        tell({"step": 1})
        raise ValueError("it fails")
    assert told == [{"step": 1}]


def test_what_ray_tune_does_not_take_fails_the_trial_and_not_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def report(result: dict[str, Any]) -> None:
        if result["step"] == 1:
            raise RuntimeError("no session")
        told.append(result)

    monkeypatch.setattr(orchestration, "controls_here", lambda: True)
    monkeypatch.setattr("ray.tune.report", report)
    with pytest.raises(RuntimeError, match="no session"), trial._telling_tune() as tell:
        tell({"step": 1})
        tell({"step": 2})
    with trial._telling_tune() as tell:
        tell({"step": 3})
    assert told == [{"step": 2}, {"step": 3}]


def test_a_controller_that_is_an_actor_tells_by_rays_own_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    class Callback:
        def after_report(self, *arguments: Any) -> None:
            told.append(arguments)

    monkeypatch.setattr(orchestration, "controls_here", lambda: False)
    monkeypatch.setattr(trial, "TuneReportCallback", Callback)
    with trial._telling_tune() as tell:
        tell({"step": 1})
    assert told == [(None, [{"step": 1}], None)]
