"""Ray Train's controller in a thread: what it comes to, how it is aborted, and what it takes itself for."""

import asyncio
import functools
import importlib
import logging
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray.actor
import ray.runtime_context
from ray.exceptions import AsyncioActorExit, RayError
from ray.train import WorkerGroupError

from distseg.orchestration import compat, environment, trainer
from distseg.orchestration.trainer import _ControllerThread


class Controller:
    """As much of Ray Train's as is used: it works until it `has_ended` or is aborted."""

    def __init__(self, *, has_ended: bool = False, error: Exception | None = None, busy_s: float = 0.0) -> None:
        self.has_ended, self.error, self.busy_s = has_ended, error, busy_s
        self.is_running, self.num_killed = threading.Event(), 0

    async def run(self) -> None:
        while not self.has_ended:
            await self._run_control_loop_iteration()

    async def _run_control_loop_iteration(self) -> None:
        self.is_running.set()
        if self.busy_s:
            time.sleep(self.busy_s)  # as it does where it waits for a place, and it never yields
            return
        if self.error:
            raise self.error
        await asyncio.sleep(0.01)

    async def abort(self) -> None:
        self.num_killed += 1
        self.has_ended = True
        ray.actor.exit_actor()

    def get_result(self) -> str:
        return "the result"


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def thread_of(controller: Controller) -> _ControllerThread:
    return _ControllerThread(lambda: controller, "a-run")


def test_its_result_and_its_error_are_those_of_fit() -> None:
    assert thread_of(Controller(has_ended=True)).run() == "the result"
    with pytest.raises(WorkerGroupError, match="of a worker"):
        thread_of(Controller(error=cast(Any, WorkerGroupError)("of a worker", {}))).run()


def test_an_error_of_its_own_is_one_of_ray_as_the_death_of_an_actor_is() -> None:
    with pytest.raises(RayError, match=r"^OSError: no such bucket$") as raised:
        thread_of(Controller(error=OSError("no such bucket"))).run()
    assert isinstance(raised.value.__cause__, OSError)


def test_it_does_not_set_up_the_logging_of_this_process() -> None:
    """Ray Train's own way would close the handlers of all loggers."""
    set_to: list[str | None] = []

    def make() -> Controller:
        set_to.append(os.environ.get(environment.CONTROLLER_LOG))
        return Controller(has_ended=True)

    _ControllerThread(make, "a-run").run()
    assert set_to == ["0"] and environment.CONTROLLER_LOG not in os.environ
    known = importlib.import_module("ray.train.v2._internal.constants")
    assert known.ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR == environment.CONTROLLER_LOG


def test_what_cannot_be_made_is_told() -> None:
    with pytest.raises(RayError, match=r"TypeError: .*unexpected keyword"):
        _ControllerThread(functools.partial(cast(Any, Controller), nothing=1), "a-run").run()


def test_what_is_aborted_while_it_is_made_never_begins() -> None:
    made = Controller()

    def make() -> Controller:
        assert not thread.abort()
        return made

    thread = _ControllerThread(make, "a-run")
    with pytest.raises(RayError, match="was aborted"):
        thread.run()
    assert not made.is_running.is_set()
    assert made.num_killed


def run_and_abort(controller: Controller) -> bool:
    """What `abort` says in the run."""
    thread, said = thread_of(controller), Future[bool]()

    def abort() -> None:
        controller.is_running.wait(10)
        said.set_result(thread.abort())

    threading.Thread(target=abort).start()
    with pytest.raises(RayError, match="was aborted"):
        thread.run()
    return said.result(10)


def test_an_aborted_training_has_no_result_though_its_controller_ends_in_peace() -> None:
    controller = Controller()
    assert run_and_abort(controller)
    assert controller.num_killed == 1


def test_nobody_waits_for_a_controller_that_is_busy_and_it_ends_once_it_no_longer_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer, "ABORT_S", 0.1)
    controller = Controller(busy_s=2.0)
    before = threading.active_count()
    assert run_and_abort(controller)
    killed_at_once = controller.num_killed
    end_s = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < end_s:
        time.sleep(0.01)
    assert (killed_at_once, controller.num_killed) == (0, 1)


def test_a_version_whose_controller_works_otherwise_has_it_as_an_actor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert compat.train_controller() is not None
    monkeypatch.delattr(compat.train_controller(), compat.CONTROLLER_STEP)
    assert compat.train_controller() is None
    assert "each training starts one process more" in caplog.text
    compat.warn_once.cache_clear()


def test_it_takes_itself_for_an_actor_and_other_threads_do_not() -> None:
    found: dict[str, object] = {}
    context = SimpleNamespace(get_actor_id=lambda: None, worker=SimpleNamespace(check_connected=lambda: None))
    context.worker.actor_id = SimpleNamespace(is_nil=lambda: True)

    class Asking(Controller):
        async def run(self) -> None:
            found["handle"] = ray.runtime_context.RuntimeContext.current_actor.__get__(context)
            with pytest.raises(AsyncioActorExit):
                ray.actor.exit_actor()

    thread_of(Asking()).run()
    assert found == {"handle": None}
    with pytest.raises(RuntimeError, match="only available in an actor"):
        ray.runtime_context.RuntimeContext.current_actor.__get__(context)
    with pytest.raises(TypeError, match="non-actor"):
        ray.actor.exit_actor()


def test_what_ray_train_says_goes_to_a_file_and_not_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path), head=True)
    monkeypatch.setattr("ray._private.worker._global_node", node)
    logger, shown = logging.getLogger("ray.train"), Kept()
    monkeypatch.setattr(logging.getLogger("ray"), "handlers", [shown])
    monkeypatch.setattr(logging.getLogger("ray"), "level", logging.WARNING)

    class Talking(Controller):
        async def run(self) -> None:
            logger.getChild("controller").debug("started")
            for tell, text in ((logger.info, "too low"), (logger.error, "of another thread")):
                other = threading.Thread(target=tell, args=(text,))
                other.start()
                other.join()

    thread_of(Talking()).run()
    (log,) = (tmp_path / "train").iterdir()
    assert log.name == "ray-train-sys-controller-a-run.log"
    assert log.read_text().endswith("DEBUG ray.train.controller: started\n")
    logger.getChild("controller").warning("of this thread")
    assert shown.messages == ["of another thread", "of this thread"]


def test_where_rays_logs_may_not_be_written_it_works_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster that another user has started."""
    (tmp_path / "file").touch()
    node = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path / "file"), head=True)
    monkeypatch.setattr("ray._private.worker._global_node", node)

    class Talking(Controller):
        async def run(self) -> None:
            logging.getLogger("ray.train.controller").error("not kept")

    assert thread_of(Talking()).run() == "the result"
