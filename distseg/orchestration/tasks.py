"""Packing and restyling as Ray tasks, over all hosts of a cluster."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from distseg.data import Runner
from distseg.errors import DistsegError, ResourceError, first_line
from distseg.orchestration import cluster

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_AHEAD = 2  # tasks submitted at a time for each CPU of the cluster
_MAX_RETRIES = 5  # of a task whose worker or host died


def in_ray_tasks(uri: str) -> Runner:
    """A runner of tasks, one CPU for each, on the cluster of RAY_ADDRESS, a running one, or one started here.

    A task must give the same result however often it runs: if its host dies, it runs again on another. `uri` is where
    the tasks write; if there are several hosts, all of them must see it.
    """
    cluster.join(uri)
    return _run


def _run(function: Callable[[_Task], _Result], tasks: Sequence[_Task]) -> Iterator[_Result]:
    remote: Any = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_call)
    shared = ray.put(function)
    pending: deque[Any] = deque()
    waiting = iter(tasks)
    try:
        while True:
            free = max(1, _AHEAD * int(ray.cluster_resources().get("CPU", 1)) - len(pending))
            pending.extend(remote.remote(shared, task) for task in itertools.islice(waiting, free))
            if not pending:
                return
            yield _result(pending.popleft())
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def _call(function: Callable[[_Task], _Result], task: _Task) -> _Result:
    return function(task)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DistsegError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise ResourceError(f"a task was lost {_MAX_RETRIES + 1} times: {first_line(error)}") from error
