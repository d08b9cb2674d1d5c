"""What a worker hands over to the driver for MLflow."""

from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from distseg.orchestration import watcher
from distseg.runs import Left


class Channel:
    """Messages go to the watcher; the answers to them are numbers. Those of `late` come when they are waited for."""

    def __init__(self, to: watcher.Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
        self._to, self._late, self.num_put = to, {}, 0  # type: ignore[var-annotated]
        self.late: set[int] = set()
        self.put = self
        monkeypatch.setattr("ray.wait", self.wait)
        monkeypatch.setattr("ray.get", self.get)

    def remote(self, message: watcher.Message) -> int:
        self.num_put += 1
        if self.num_put in self.late:  # as a large one, which goes by the object store
            self._late[self.num_put] = message
        else:
            self._to._handle(*message)
        return self.num_put

    def wait(self, answers: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        assert num_returns == len(answers) and timeout == 0
        return [n for n in answers if n not in self._late], [n for n in answers if n in self._late]

    def get(self, answers: list[int], timeout: float) -> None:
        assert timeout == watcher.HANDED_OVER_S
        for answer in answers:
            if answer in self._late:
                self._to._handle(*self._late.pop(answer))


class Logs:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def metrics(self, records: Any) -> None:
        self.got.append(records)

    def pictures(self, step: int, pictures: Any) -> None:
        self.got.append((step, pictures))

    def close(self) -> Left:
        return Left(0, False)


def record(step: int) -> dict[str, Any]:
    return {"step": step, "time_ms": 1000 * step, "metrics": {"train/loss": 1.0}}


@pytest.fixture
def driver() -> watcher.Watcher:
    driver = watcher.Watcher(None, lambda: "", None)
    driver.logs = Logs()
    return driver


def test_all_arrives_before_the_worker_says_so_even_what_is_overtaken(
    driver: watcher.Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel(driver, monkeypatch)
    channel.late = {2}
    logs = watcher.LogsToDriver(channel)
    logs.metrics([])  # a run that begins has none from before
    logs.metrics([record(1), record(2)])
    logs.pictures(2, {"overlay/day": b"jpeg"})
    logs.metrics([record(3)])
    assert isinstance(driver.logs, Logs)
    assert driver.logs.got == [[record(1), record(2)], [record(3)]]
    assert logs.close() == Left(3, True)
    assert driver.logs.got[2:] == [(2, {"overlay/day": b"jpeg"})]


@pytest.mark.parametrize("failing", ["put", "get"])
def test_what_does_not_arrive_is_not_said_to_be_there(
    failing: str, driver: watcher.Watcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    channel = Channel(driver, monkeypatch)
    logs = watcher.LogsToDriver(channel)
    assert logs.close() == Left(0, True) and caplog.messages == []  # nothing was handed over, nothing can be missing

    def dead(*_: object, **__: object) -> None:
        raise ActorDiedError

    if failing == "put":
        monkeypatch.setattr(channel, "remote", dead)
    else:
        monkeypatch.setattr("ray.get", dead)
    for step in (1, 2):
        logs.metrics([record(step)])
    assert logs.close() is None
    (message,) = caplog.messages
    assert message.startswith("metrics wait: The actor died")


def test_a_display_that_fails_costs_the_display_alone(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[int] = []

    def show(step: int, metrics: object, worst_condition: str) -> None:
        shown.append(step)
        raise ValueError("a bug of the user's")

    driver = watcher.Watcher(None, lambda: "", show)
    driver.logs = Logs()
    for step in (1, 2):
        driver._handle("progress", step, {}, "fog")
        driver._handle("metrics", [record(step)])
    assert shown == [1] and driver.logs.got == [[record(1)], [record(2)]]
    assert caplog.messages == ["progress is no longer shown: a bug of the user's"]
