"""Runs one function over many tasks, in the tasks' order: here, or in processes of this machine.

`distseg.orchestration.in_ray_tasks` is the same over the hosts of a cluster.
"""

import functools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from distseg.errors import ResourceError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


Progress = Callable[[int, int], None]
"""Called with (done, in all) as work goes on."""


class Runner(Protocol):
    """Yields function(task) for each task, in order; runs ahead by a bounded number of tasks."""

    def __call__(self, function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]: ...


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(num_processes: int) -> Runner:
    """Starts so many processes by spawning, for which `__main__` must be importable; 1 means this process."""
    if num_processes < 1:
        raise ValueError("num_processes must be at least 1")
    return functools.partial(_run, num_processes)


def _run(num_processes: int, function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]:
    num_processes = min(num_processes, len(tasks))
    if num_processes <= 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(
        num_processes, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_ctrl_c_to_the_parent
    )
    pending: deque[Future[_Result]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(function, task))
            if len(pending) > 2 * num_processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process was killed, perhaps for memory; use fewer with --num_processes, and start again: "
            "what is finished is kept"
        ) from error
    except (KeyboardInterrupt, GeneratorExit):  # a task may take minutes more; what it has not finished is made again
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_ctrl_c_to_the_parent() -> None:
    """A terminal sends it to all processes; each would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
