"""What workers and driver tell each other, and by what."""

import asyncio
import logging
import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from distseg import stopping
from distseg.orchestration import compat, watcher
from distseg.runs import Left


class Made:
    """Messages go to the watcher; the answers to them are numbers. Those of `late` come when they are waited for."""

    def __init__(self, to: watcher.Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
        self._to, self._late, self.num_put = to, {}, 0  # type: ignore[var-annotated]
        self.late: set[int] = set()
        monkeypatch.setattr("ray.wait", self.wait)
        monkeypatch.setattr("ray.get", self.get)

    def put(self, message: watcher.Message) -> int:
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
    driver = watcher.Watcher(watcher.Channel(None, ""), lambda: "", None)
    driver.logs = Logs()
    return driver


def test_all_arrives_before_the_worker_says_so_even_what_is_overtaken(
    driver: watcher.Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel: Any = Made(driver, monkeypatch)
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
    channel: Any = Made(driver, monkeypatch)
    logs = watcher.LogsToDriver(channel)
    assert logs.close() == Left(0, True) and caplog.messages == []  # nothing was handed over, nothing can be missing

    def dead(*_: object, **__: object) -> None:
        raise ActorDiedError

    if failing == "put":
        monkeypatch.setattr(channel, "put", dead)
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

    driver = watcher.Watcher(watcher.Channel(None, ""), lambda: "", show)
    driver.logs = Logs()
    for step in (1, 2):
        driver._handle("progress", step, {}, "fog")
        driver._handle("metrics", [record(step)])
    assert shown == [1] and driver.logs.got == [[record(1)], [record(2)]]
    assert caplog.messages == ["progress is no longer shown: a bug of the user's"]


def test_of_an_earlier_training_nothing_is_heard_any_more() -> None:
    async def two_trainings() -> None:
        post = watcher._Post("one")
        waits = asyncio.create_task(post.stopped("one"))
        await post.put("one", ("starting",))
        await post.put("one", ("started",))
        assert await post.take("one", 0) == [("starting",), ("started",)]
        await post.put("one", ("stopped",))
        await asyncio.sleep(0)
        assert not waits.done()

        await post.serve("two")
        await asyncio.wait_for(waits, 60)
        await post.put("two", ("starting",))
        await post.put("one", ("warning", "late"))
        await post.stop("one")
        assert await post.take("one", 60) == []
        assert await post.take("two", 0) == [("starting",)]
        waits = asyncio.create_task(post.stopped("two"))
        await asyncio.sleep(0)
        assert not waits.done()
        await post.stop("two")
        await asyncio.wait_for(waits, 60)
        await asyncio.wait_for(post.stopped("one"), 60)

    asyncio.run(two_trainings())


def test_a_worker_that_has_ended_its_training_is_not_stopped_by_what_is_said_to_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stops, heard, told = queue.SimpleQueue[None](), queue.SimpleQueue[str](), list[watcher.Message]()
    channel: Any = SimpleNamespace(wait_for_stop=stops.get, put=told.append)
    notices: list[int | None] = [None]
    monkeypatch.setattr(watcher, "NOTICED_EVERY_S", 0.01)
    monkeypatch.setattr(compat, "preemption_deadline_ms", lambda: notices[0])
    monkeypatch.setattr(stopping, "request", lambda: heard.put("stop"))
    monkeypatch.setattr(stopping, "announce", lambda: heard.put("notice"))
    logger, before = logging.getLogger("distseg.tests"), set(threading.enumerate())
    with watcher.hearing(channel, 1):
        logger.warning("one")
        notices[0] = 7000
        assert heard.get(timeout=60) == "notice"
        stops.put(None)
        assert heard.get(timeout=60) == "stop"
    with watcher.hearing(channel, 0):
        pass
    logger.warning("two")
    notices[0] = 8000
    stops.put(None)  # as the channel does when it serves another training
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert heard.empty() and told == [("warning", "worker 1: one")]


def test_the_next_training_of_a_process_has_the_actor_of_the_last_if_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Actor:
        def __init__(self, training: str) -> None:
            self.serves, self.take, self.serve, self.is_dead = training, self, self, False

        def remote(self, training: str, timeout_s: float | None = None) -> list[object]:
            if self.is_dead:
                raise ActorDiedError
            self.serves = training
            return []

    class Makes:
        def __init__(self, made: type) -> None:
            assert made is watcher._Post

        remote = staticmethod(Actor)

    monkeypatch.setattr(watcher, "_idle", [])
    monkeypatch.setattr("ray.remote", lambda **_: Makes)
    monkeypatch.setattr("ray.get", lambda answer, timeout=None: answer)
    monkeypatch.setattr("ray.util.get_current_placement_group", lambda: None)
    used: list[watcher.Channel] = []
    for _ in range(3):
        with watcher.watching(lambda: "", None) as watch:
            used.append(watch.channel)
            assert watch.channel.actor.serves == watch.channel.training
        if len(used) == 2:
            used[1].actor.is_dead = True
    assert used[0].actor is used[1].actor is not used[2].actor
    assert len({channel.training for channel in used}) == 3
