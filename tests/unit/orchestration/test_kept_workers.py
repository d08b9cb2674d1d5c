"""Workers that are kept for the next training: who gets them, and when they end."""

import queue
from dataclasses import dataclass
from types import SimpleNamespace as Made
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from distseg import stopping
from distseg.orchestration import kept_workers
from distseg.orchestration.kept_workers import Kept, Shelf

ASKED = {"num_workers": 2}


class Place:
    def __init__(self, ended: "queue.SimpleQueue[str]") -> None:
        self._ended = ended

    def shutdown(self) -> None:
        self._ended.put("place")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> "queue.SimpleQueue[str]":
    """The names of the workers that were killed, and "place"; an actor is its name, and "dead" does not answer."""
    killed: queue.SimpleQueue[str] = queue.SimpleQueue()

    def get(names: list[str], timeout: float) -> None:
        if "dead" in names:
            raise ActorDiedError

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("distseg.orchestration.compat.draining_nodes", set)
    monkeypatch.setattr(kept_workers, "placement_group_table", lambda: {"its own": {"state": "CREATED"}})
    monkeypatch.setattr("ray.kill", lambda actor: killed.put(actor.name))
    monkeypatch.setattr("ray.get", get)
    return killed


def workers(*names: str) -> list[Any]:
    def actor(name: str) -> Any:
        return Made(name=name, get_metadata=Made(remote=lambda: name), shutdown=Made(remote=lambda: None))

    return [Made(actor=actor(name), metadata=Made(node_id=f"node of {name}")) for name in names]


def all_of(ended: "queue.SimpleQueue[str]") -> list[str]:
    return [ended.get_nowait() for _ in range(ended.qsize())]


def test_they_are_given_to_who_asks_for_the_same_and_once(ended: "queue.SimpleQueue[str]") -> None:
    shelf, kept = Shelf(), Kept(ASKED, Place(ended), workers("a", "b"))
    assert shelf.take(ASKED) is None
    shelf.keep(kept)
    assert shelf.take(dict(ASKED)) is kept
    assert shelf.take(ASKED) is None and ended.empty()


@pytest.mark.parametrize(("names", "asked"), [(("a", "b"), {"num_workers": 1}), (("a", "dead"), ASKED)])
def test_who_asks_for_others_or_finds_one_dead_gets_none_and_the_place_is_free(
    names: tuple[str, ...], asked: dict[str, Any], ended: "queue.SimpleQueue[str]"
) -> None:
    shelf = Shelf()
    shelf.keep(Kept(ASKED, Place(ended), workers(*names)))
    assert shelf.take(asked) is None
    assert all_of(ended) == [*names, "place"]


@pytest.mark.parametrize("why", ["another waits", "a machine will go away"])
def test_they_end_where_they_may_not_stay(
    why: str, ended: "queue.SimpleQueue[str]", group_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def comes(_: object = None) -> None:
        if why == "another waits":
            monkeypatch.setattr(kept_workers, "placement_group_table", lambda: {"another's": {"state": "PENDING"}})
        else:
            monkeypatch.setattr("distseg.orchestration.compat.draining_nodes", lambda: {"node of b"})

    shelf = Shelf()
    shelf.keep(Kept(ASKED, Place(ended), workers("a", "b")))
    group = group_class(ended, "a", "b")
    group._latest_poll_status = FINISHED
    comes()
    assert shelf.take(ASKED) is None
    assert all_of(ended) == ["a", "b", "place"]
    group.shutdown()
    assert all_of(ended) == ["a", "b", "sync actor", "place"]


def test_after_ray_nothing_is_ended(ended: "queue.SimpleQueue[str]", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # Ray's own functions would start it again
    Kept(ASKED, Place(ended), workers("a")).end()
    assert ended.empty()


def test_nobody_comes_for_them(ended: "queue.SimpleQueue[str]", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_workers, "KEPT_FOR_S", 0.01)
    shelf = Shelf()
    shelf.keep(Kept(ASKED, Place(ended), workers("a", "b")))
    assert [ended.get(timeout=60) for _ in range(3)] == ["a", "b", "place"]
    assert shelf.take(ASKED) is None


def test_their_time_is_over_while_others_are_there(
    ended: "queue.SimpleQueue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, first = Shelf(), Kept(ASKED, Place(ended), workers("a"))
    second = Kept(ASKED, Place(ended), workers("b"))
    shelf.keep(first)
    shelf.keep(second)
    assert all_of(ended) == ["a", "place"]
    shelf._end_if_there(first)
    assert ended.empty() and shelf.take(ASKED) is second


# ---- groups of workers


@dataclass(frozen=True)
class State:
    workers: list[Any]
    placement_group_handle: Place
    sync_actor: "queue.SimpleQueue[str]"

    def shutdown(self) -> None:
        for worker in self.workers:
            self.sync_actor.put(worker.actor.name)
        self.sync_actor.put("sync actor")
        self.placement_group_handle.shutdown()


@dataclass(frozen=True)
class Context:
    run_attempt_id: str
    train_fn_ref: object
    num_workers: int = 2


class Group:
    """What is used of Ray Train's."""

    _train_run_context = Made(run_config=Made(worker_runtime_env={}))

    def __init__(self, ended: "queue.SimpleQueue[str]", *names: str) -> None:
        self._names, self._ended = names, ended
        self._worker_group_context = Context(run_attempt_id=names[0], train_fn_ref=object())
        self._latest_poll_status: Any = None
        place = self._create_placement_group(None, self._worker_group_context)
        self._worker_group_state = State(self._create_workers(2, place), place, ended)

    def _get_worker_runtime_env(self, custom: dict[str, Any]) -> dict[str, Any]:
        return {"env_vars": {}}

    def _create_placement_group(self, scaling_config: Any, context: Any) -> Any:
        return Place(self._ended)

    def _create_workers(self, num_workers: int, place: Any) -> list[Any]:
        return workers(*self._names)

    def shutdown(self) -> None:
        self._worker_group_state.shutdown()

    @property
    def names(self) -> list[str]:
        return [worker.actor.name for worker in self._worker_group_state.workers]


@pytest.fixture
def group_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(kept_workers, "shelf", Shelf())
    monkeypatch.setattr("distseg.orchestration.compat.worker_group", lambda controller: Group)
    controller = Made(worker_group_cls=Group)
    kept_workers.hand_on(controller)
    return controller.worker_group_cls


FINISHED = Made(finished=True, errors={})


def test_a_group_that_finished_leaves_its_workers_to_the_next_group(
    group_class: Any, ended: "queue.SimpleQueue[str]"
) -> None:
    first = group_class(ended, "a", "b")
    first._latest_poll_status = FINISHED
    first.shutdown()
    assert all_of(ended) == ["sync actor"]
    second = group_class(ended, "c", "d")
    assert second.names == ["a", "b"]
    assert second._worker_group_state.placement_group_handle is first._worker_group_state.placement_group_handle
    second.shutdown()  # it has not finished
    assert all_of(ended) == ["a", "b", "sync actor", "place"]
    assert group_class(ended, "c", "d").names == ["c", "d"]


@pytest.mark.parametrize(
    ("status", "is_stopped"),
    [
        (None, False),
        (Made(finished=False, errors={}), False),
        (Made(finished=True, errors={1: ValueError()}), False),
        (FINISHED, True),
    ],
)
def test_workers_of_a_training_that_failed_or_was_stopped_end_with_it(
    status: Any, is_stopped: bool, group_class: Any, ended: "queue.SimpleQueue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "is_requested", lambda: is_stopped)
    group = group_class(ended, "a", "b")
    group._latest_poll_status = status
    group.shutdown()
    assert all_of(ended) == ["a", "b", "sync actor", "place"]
    assert group_class(ended, "c", "d").names == ["c", "d"]


@pytest.mark.parametrize("name", ["_latest_poll_status", "_worker_group_context", "_train_run_context"])
def test_a_group_whose_inside_has_other_names_ends_as_ever_and_is_made_anew(
    name: str, group_class: Any, ended: "queue.SimpleQueue[str]", caplog: pytest.LogCaptureFixture
) -> None:
    class Other(group_class):  # type: ignore[misc]  # made by the fixture
        def __getattribute__(self, asked: str) -> Any:
            if asked == name:
                raise AttributeError(f"no attribute {name!r}")
            return super().__getattribute__(asked)

    first = group_class(ended, "a", "b")
    first._latest_poll_status = FINISHED
    first.__class__ = Other
    first.shutdown()
    assert all_of(ended) == ["a", "b", "sync actor", "place"]
    assert caplog.messages == [f"workers end with their trial: no attribute {name!r}"]
