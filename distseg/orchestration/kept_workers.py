"""Workers that go on to the next training of their driver: each saves a process that imports Ray and torch.

A search whose trials end by themselves has its drivers train one trial after the other, and so do trials of several
seeds. The workers of a training that has done all its steps stay where they are, in their place of the cluster, for
KEPT_FOR_S. The next training of this process has them if it asks for the same: as many, with the same resources and
environment. They end and their place is free if it does not, if one of them does not answer or is on a machine that is
to be taken away, if somebody else waits for a place, or if no next one comes.

A group of workers that failed or was stopped is never handed on: it ends with its training.
"""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import placement_group_table

from distseg import stopping
from distseg.errors import first_line
from distseg.orchestration import compat

log = logging.getLogger(__name__)

KEPT_FOR_S = 10.0
ANSWERS_WITHIN_S = 5.0


@dataclasses.dataclass(frozen=True)
class Kept:
    """The workers of a training that has ended, and their place."""

    asked: dict[str, Any]  # what they were asked for with
    place: Any  # Ray Train's handle of their placement group
    workers: Sequence[Any]

    def answer(self) -> bool:
        """Whether all of them do."""
        try:
            ray.get([worker.actor.get_metadata.remote() for worker in self.workers], timeout=ANSWERS_WITHIN_S)
        except RayError:
            return False
        return True

    def end(self) -> None:
        if not ray.is_initialized():  # they have ended, and Ray would start anew to be told
            return
        for worker in self.workers:
            with contextlib.suppress(RayError):
                ray.kill(worker.actor)
        with contextlib.suppress(RayError):
            self.place.shutdown()


def may_stay(workers: Sequence[Any]) -> bool:
    """Whether their machines do, and nobody else waits for a place: on a full cluster it is his turn."""
    if any(group["state"] == "PENDING" for group in placement_group_table().values()):
        return False
    return compat.draining_nodes().isdisjoint(worker.metadata.node_id for worker in workers)


class Shelf:
    """Holds the workers of one training for a while. A process has one, `shelf`."""

    def __init__(self) -> None:
        self._kept: Kept | None = None
        self._lock = threading.Lock()

    def keep(self, kept: Kept) -> None:
        with self._lock:
            before, self._kept = self._kept, kept
        if before is not None:
            before.end()
        timer = threading.Timer(KEPT_FOR_S, self._end_if_there, args=[kept])
        timer.daemon = True
        timer.start()

    def take(self, asked: dict[str, Any]) -> Kept | None:
        """Those that are there, if they are what is asked for and answer; else they end."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None and not (kept.asked == asked and may_stay(kept.workers) and kept.answer()):
            kept.end()
            return None
        return kept

    def _end_if_there(self, kept: Kept) -> None:
        with self._lock:
            is_there = self._kept is kept
            self._kept = None if is_there else self._kept
        if is_there:
            kept.end()


shelf = Shelf()


def hand_on(controller: Any) -> None:
    """Has a controller of this process begin with the workers that are on the shelf, and put its own there."""
    group_class = compat.worker_group(controller)
    if group_class is not None:
        controller.worker_group_cls = _handing_on(group_class)


def _handing_on(group_class: Any) -> Any:
    class HandsOn(group_class):  # type: ignore[misc]  # its base is looked up, see compat.py
        _taken: Kept | None = None
        _worker_group_state: Any

        def _create_placement_group(self, scaling_config: Any, context: Any) -> Any:
            try:
                self._taken = shelf.take(self._asked())
            except Exception as error:  # noqa: BLE001 — whatever another version of Ray has it be
                log.warning("workers are made anew: %s", first_line(error))
            if self._taken is not None:
                return self._taken.place
            return super()._create_placement_group(scaling_config, context)

        def _create_workers(self, *arguments: Any, **options: Any) -> Any:
            if self._taken is not None:
                return list(self._taken.workers)
            return super()._create_workers(*arguments, **options)

        def shutdown(self) -> None:
            try:
                if self._can_hand_on():
                    self._worker_group_state = _kept_at_the_end(self._worker_group_state, self._asked())
            except Exception as error:  # noqa: BLE001 — likewise; the training has ended well
                log.warning("workers end with their trial: %s", first_line(error))
            super().shutdown()

        def _can_hand_on(self) -> bool:
            status = self._latest_poll_status
            has_finished = status is not None and status.finished and not status.errors
            return has_finished and not stopping.is_requested() and may_stay(self._worker_group_state.workers)

        def _asked(self) -> dict[str, Any]:
            run_config = self._train_run_context.run_config
            context = dataclasses.replace(self._worker_group_context, run_attempt_id="", train_fn_ref=None)
            return {**vars(context), "runtime_env": self._get_worker_runtime_env(run_config.worker_runtime_env)}

    return HandsOn


def _kept_at_the_end(state: Any, asked: dict[str, Any]) -> Any:
    """`state`, whose shutdown leaves its workers and their place alone."""

    class Keeps(type(state)):  # type: ignore[misc]  # Ray has no public name for it
        def shutdown(self) -> None:
            for worker in self.workers:
                worker.actor.shutdown.remote()  # to Ray Train's callbacks it is the end; the process goes on
            shelf.keep(Kept(asked, self.placement_group_handle, self.workers))
            dataclasses.replace(state, workers=[], placement_group_handle=_NoPlace()).shutdown()

    return Keeps(**vars(state))


class _NoPlace:
    """What is shut down in place of the one that is kept."""

    def shutdown(self) -> None:
        pass
