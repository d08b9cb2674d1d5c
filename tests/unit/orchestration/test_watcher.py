"""What a worker hands over to the driver for MLflow."""

from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from distseg.orchestration import watcher
from distseg.runs import Left


class Channel:
    """Messages go to the watcher in the order in which they are put, as those of one worker do."""

    def __init__(self, to: watcher.Watcher) -> None:
        self._to = to
        self.put = self

    def remote(self, message: watcher.Message) -> str:
        self._to._handle(*message)
        return f"arrived: {message[0]}"


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


def test_all_arrives_in_order_and_the_last_answer_is_waited_for(
    driver: watcher.Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[str, float]] = []
    monkeypatch.setattr("ray.get", lambda answer, timeout: answers.append((answer, timeout)))
    logs = watcher.LogsToDriver(Channel(driver))
    logs.metrics([])  # a run that begins has none from before
    logs.metrics([record(1), record(2)])
    logs.pictures(2, {"overlay/day": b"jpeg"})
    assert isinstance(driver.logs, Logs)
    assert driver.logs.got == [[record(1), record(2)], (2, {"overlay/day": b"jpeg"})]
    assert answers == [] and logs.close() == Left(2, True)
    assert answers == [("arrived: pictures", watcher.HANDED_OVER_S)]


def test_what_does_not_arrive_is_not_said_to_be_there(
    driver: watcher.Watcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def dead(*_: object, **__: object) -> None:
        raise ActorDiedError

    monkeypatch.setattr("ray.get", dead)
    logs = watcher.LogsToDriver(Channel(driver))
    assert logs.close() == Left(0, True) and caplog.messages == []  # nothing was handed over, nothing can be missing
    logs.metrics([record(1)])
    assert logs.close() is None
    (message,) = caplog.messages
    assert message.startswith("metrics wait: The actor died")
