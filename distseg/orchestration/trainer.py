"""Ray Train's TorchTrainer without the processes that distseg does not need; its store listens on one address.

torch's store of addresses, by which ranks find each other, listens on every interface of rank 0's machine, whatever
address it is given. `OneAddressConfig` has it listen on that address alone: the one that Ray knows rank 0's node by.

Ray Train's controller is a thread of this process. As an actor, which is how Ray starts it, it is one process more that
imports torch, and only then does the first worker begin. It ends with this process either way.

Each helper is a process of Ray's that takes two seconds of a core to start, with each training and some with each
restart:

    DatasetManager             serves Ray Data's data sets; distseg has a reader of its own
    AutoscalingCoordinator     asks an autoscaler for machines, as the placement group does already. A training whose
                               number of workers may change also asks it what it may have, and keeps it
    PlacementGroupCleaner      frees the workers' place if the controller dies. A driver's place is freed by Ray when it
                               dies, that of a trial by its search; who trains in an actor of his own keeps it
    PreemptionWatcher          hears of machines that are about to be taken away; here it is a thread of the controller

The methods overridden here are private to Ray. A version of Ray without them keeps its helpers, see compat.py.
"""

import asyncio
import contextlib
import errno
import functools
import gc
import importlib
import logging
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from distseg.orchestration import compat, environment, kept_workers

log = logging.getLogger(__name__)

ABORT_S = 5.0

_NEVER_NEEDED = ("DatasetsCallback",)
_NOT_NEEDED_WHERE_FREED = ("PlacementGroupCleanerCallback",)


class LeanTorchTrainer(TorchTrainer):
    """Leaves signals to its caller: Ray Train would answer Ctrl-C by killing the workers, and SIGTERM not at all."""

    search_frees_place = False  # in a trial, see `cluster.places_come_free`
    hands_workers_on = False  # to the next training of this process, see kept_workers.py
    _controller: Any = None  # the actor, if it is one
    _thread: "_ControllerThread | None" = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def abort(self) -> bool:
        """Kills the workers, from any thread; `fit` then raises a RayError. False: `fit` has not come that far yet.

        Waits for it for at most ABORT_S.
        """
        if self._thread is not None:
            return self._thread.abort()
        if self._controller is not None:
            with contextlib.suppress(RayError):  # the controller ends itself by it
                ray.get(self._controller.abort.remote(), timeout=ABORT_S)
        return self._controller is not None

    def _create_default_callbacks(self) -> list[Any]:
        left_out = _NEVER_NEEDED + (_NOT_NEEDED_WHERE_FREED if self._is_freed() else ())
        made = super()._create_default_callbacks()  # type: ignore[misc]  # types show Ray Train\'s first version
        return [callback for callback in made if type(callback).__name__ not in left_out]

    def _is_freed(self) -> bool:
        """Whether the workers' place comes free when this process dies, without a helper."""
        dies_with_its_job = compat.started_this_cluster() or (controls_here() and not _is_actor())
        return dies_with_its_job or (self.search_frees_place and controls_here() and compat.tells_places())

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        policy, fixed = options.get("scaling_policy"), compat.fixed_scaling_policy()
        if fixed is not None and type(policy) is fixed:
            options["scaling_policy"] = _asking_nobody(policy)
        controller = compat.train_controller()
        if controller is None:
            return super()._initialize_and_run_controller(**options)  # type: ignore[misc]

        def make() -> Any:
            made = controller(**options)
            if self.hands_workers_on and self._is_freed():
                kept_workers.hand_on(made)
            return made

        self._thread = _ControllerThread(make, str(self.run_config.name))
        return self._thread.run()


def controls_here() -> bool:
    """Whether the controller of a training works in the process that drives it; else it is an actor."""
    return compat.train_controller() is not None


def _is_actor() -> bool:
    """Whether this process is one of Ray's actors, as that of a trial is, and no driver."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


class _ControllerError(RayError):
    """The controller could not begin, or was aborted: what is the death of an actor where it is one."""


class _ControllerThread:
    """Ray Train's controller, an object with coroutines, in an event loop of a thread."""

    def __init__(self, make: Callable[[], Any], run_name: str) -> None:
        self._make, self._run_name = make, run_name
        self._has_begun, self._is_aborted = threading.Event(), threading.Event()
        self._ended: Future[Any] = Future()

    def run(self) -> Any:
        """What the training came to. Raises a TrainingFailedError or another error of Ray; also after `abort`."""
        threading.Thread(target=self._work, name="controller", daemon=True).start()
        return self._ended.result()

    def abort(self) -> bool:
        """Kills the workers; False if there is no controller yet, and then none begins.

        Waits for it for at most ABORT_S. A controller that is busy, as while it waits for a place, does so afterwards.
        """
        self._is_aborted.set()
        if not self._has_begun.is_set():
            return False
        with contextlib.suppress(Exception):  # raised where it is waited for
            self._ended.result(timeout=ABORT_S)
        self._end(_ControllerError("the training was aborted"))
        return True

    def _work(self) -> None:
        error, result = None, None
        try:
            with compat.as_a_controller(self._run_name):
                result = asyncio.run(self._control())
        except (TrainingFailedError, RayError) as raised:
            error = raised
        except BaseException as raised:  # noqa: BLE001 — it is raised where it is waited for
            error = _ControllerError(f"{type(raised).__name__}: {raised}")
            error.__cause__ = raised
        self._end(_ControllerError("the training was aborted") if self._is_aborted.is_set() else error, result)

    async def _control(self) -> Any:
        with _one_is_made, environment.temporary(environment.CONTROLLER_LOG, "0"):
            controller = self._make()
        hear_notices_here(controller)
        step = getattr(controller, compat.CONTROLLER_STEP)

        async def step_unless_aborted() -> None:
            if self._is_aborted.is_set():
                await controller.abort()  # which raises AsyncioActorExit
            await step()

        setattr(controller, compat.CONTROLLER_STEP, step_unless_aborted)
        self._has_begun.set()
        await controller.run()
        return controller.get_result()

    def _end(self, error: BaseException | None, result: Any = None) -> None:
        with contextlib.suppress(InvalidStateError):  # the first counts
            if error is None:
                self._ended.set_result(result)
            else:
                self._ended.set_exception(error)


_one_is_made = threading.Lock()  # two threads would change the environment under each other


def hear_notices_here(controller: Any) -> None:
    """Has a controller of this process hear by a thread of its own, and by no actor, of machines that will go away.

    What Ray Train says of it to programmers is left out: hearing in watcher.py says it to the user.
    """
    without = "each training starts one process more"
    watcher = compat.find(f"{compat.TRAIN}.execution.preemption", "PreemptionWatcher", without)
    if watcher is None:
        return
    callback_class = compat.find(f"{compat.TRAIN}.callbacks.preemption_callback", "PreemptionCallback", without)
    callbacks = getattr(controller, "_worker_group_callbacks_to_propagate", None)
    if callbacks is None:
        compat.warn_once(f"{type(controller).__name__}._worker_group_callbacks_to_propagate", without)
    if callback_class is None or callbacks is None:
        return

    class HearsHere(callback_class):  # type: ignore[misc, valid-type]  # it is looked up
        def after_worker_group_start(self, worker_group: Any) -> None:
            self._stop_watcher()
            ranks: dict[str, list[int]] = {}
            for worker in worker_group.get_workers():
                ranks.setdefault(worker.metadata.node_id, []).append(worker.distributed_context.world_rank)
            actors = {w.distributed_context.world_rank: w.actor for w in worker_group.get_workers()}
            self._watcher = watcher(ranks, self._poll_interval_s, actors)

        def _stop_watcher(self) -> None:
            if self._watcher is not None:
                self._watcher._stop_event.set()
            self._watcher = None

    logging.getLogger(watcher.__module__).setLevel(logging.ERROR)
    for callback in callbacks:
        if type(callback) is callback_class:
            callback.__class__ = HearsHere


def _asking_nobody(policy: Any) -> Any:
    """A policy with the same fixed number of workers that does not start the AutoscalingCoordinator."""

    class FixedSize(type(policy)):  # type: ignore[misc]  # its base is looked up, see compat.py
        def after_controller_start(self, train_run_context: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    return FixedSize(policy.scaling_config)


# ---- where ranks find each other

_STORE_MODULE, _STORE_NAME = "torch.distributed.rendezvous", "TCPStore"  # torch's own, where the store is opened
_RayTorchBackend: Any = TorchConfig().backend_cls


class _Backend(_RayTorchBackend):  # type: ignore[misc]  # Ray has no public name for it
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(prepare_process)
        super().on_start(worker_group, backend_config)


@dataclass
class OneAddressConfig(TorchConfig):
    """Ray Train's settings of torch.distributed, with a store that listens on one address."""

    @property
    def backend_cls(self) -> type:
        return _Backend


def prepare_process() -> None:
    """Has nothing be left of an earlier training of this process, and its store listen on one address."""
    if dist.is_initialized():  # Ray Train leaves the group of a single worker as it is
        dist.destroy_process_group()
    if "torch._dynamo" in sys.modules:  # else after some trainings no network would be compiled any more
        torch.compiler.reset()
    if _has_trained.is_set():  # its network and optimiser may be in a circle, and so still there
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    _has_trained.set()
    listen_on_one_address()


_has_trained = threading.Event()  # this process, as a worker


def listen_on_one_address() -> None:
    """Has the store that this process opens next listen on the address that it is given."""
    module = importlib.import_module(_STORE_MODULE)
    opened = getattr(module, _STORE_NAME, None)
    if opened is None:
        missing = f"{_STORE_MODULE}.{_STORE_NAME}"
        log.warning("torch %s has no %s: its store listens on all interfaces", torch.__version__, missing)
    elif not isinstance(opened, functools.partial):
        setattr(module, _STORE_NAME, functools.partial(_store, opened))


def _store(opened: Any, host_name: str, port: int, **options: Any) -> Any:
    """What `opened`, torch's own class, makes of it; rank 0's is given a socket that is bound already."""
    if options.get("is_master"):
        try:
            family = socket.AF_INET6 if ":" in host_name else socket.AF_INET
            bound = socket.create_server((host_name, port), family=family)
            options["master_listen_fd"] = bound.detach()
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # as behind a translation of addresses
                raise
            log.warning("%s is no address of this machine: torch's store listens on all interfaces", host_name)
    return opened(host_name, port, **options)
