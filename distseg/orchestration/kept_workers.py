"""Workers that go on to the next training of their driver: each saves a process that imports Ray and torch.

A search whose trials end by themselves has its drivers train one trial after the other, and so do trials of several
seeds. The workers of a training that has done all its steps stay where they are, in their place of the cluster, for
KEPT_FOR_S. The next training of this process has them if it asks for the same: as many, with the same resources and
environment. If it does not, if one of them does not answer, or if none comes, they end and their place is free.

A training that failed, was stopped or lost a machine never hands its workers on: they die with it.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from distseg import stopping
from distseg.orchestration import compat

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
        for worker in self.workers:
            with contextlib.suppress(RayError):
                ray.kill(worker.actor)
        with contextlib.suppress(RayError):
            self.place.shutdown()


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
        if kept is not None and not (kept.asked == asked and kept.answer()):
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
    group_class = compat.worker_group()
    if group_class is None or getattr(controller, "worker_group_cls", None) is not group_class:
        return
    controller.worker_group_cls = _handing_on(group_class)


def _handing_on(group_class: Any) -> Any:
    class HandsOn(group_class):  # type: ignore[misc]  # its base is looked up, see compat.py
        _taken: Kept | None = None
        _worker_group_state: Any

        def _create_placement_group(self, scaling_config: Any, context: Any) -> Any:
            self._taken = shelf.take(self._asked())
            if self._taken is not None:
                return self._taken.place
            return super()._create_placement_group(scaling_config, context)

        def _create_workers(self, *arguments: Any, **options: Any) -> Any:
            if self._taken is not None:
                return list(self._taken.workers)
            return super()._create_workers(*arguments, **options)

        def shutdown(self) -> None:
            status = self._latest_poll_status
            if status is not None and status.finished and not status.errors and not stopping.is_requested():
                self._worker_group_state = _kept_at_the_end(self._worker_group_state, self._asked())
            super().shutdown()

        def _asked(self) -> dict[str, Any]:
            run_config = self._train_run_context.run_config
            context = dataclasses.replace(self._worker_group_context, run_attempt_id="", train_fn_ref=None)
            return {**vars(context), "runtime_env": self._get_worker_runtime_env(run_config.worker_runtime_env)}

    return HandsOn


def _kept_at_the_end(state: Any, asked: dict[str, Any]) -> Any:
    """`state`, whose shutdown leaves its workers and their place alone."""

    class Keeps(type(state)):  # type: ignore[misc]  # Ray has no public name for it
        def shutdown(self) -> None:
            kept = Kept(asked, self.placement_group_handle, self.workers)
            dataclasses.replace(state, workers=[], placement_group_handle=_NoPlace()).shutdown()
            shelf.keep(kept)

    return Keeps(**vars(state))


class _NoPlace:
    """What is shut down in place of the one that is kept."""

    def shutdown(self) -> None:
        pass
