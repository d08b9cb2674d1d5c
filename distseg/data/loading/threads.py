"""A thread pool of which only so many threads work at a time, while others wait for a server.

`ThreadPoolExecutor` with a semaphore would not do: Python waits for its threads at exit, so one that hangs in the
network would keep the process alive. And a thread that has waited would queue for its turn behind tasks that have not
begun.
"""

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, ParamSpec, TypeVar

from distseg import storage

_P = ParamSpec("_P")
_T = TypeVar("_T")
_JOIN_S = 5.0
_WAITING_THREADS = 8  # beside the decoding ones, so that several wait for S3 at the same time


class _Task(NamedTuple):
    run: Callable[[], Any]
    future: Future[Any]


class DaemonThreads:
    """At most `num_threads` work at a time. `num_waiting` extra threads run while others block (`while_waiting`).

    The right to work is a *turn*. A thread keeps its turn from task to task, because handing it to another thread costs
    a wake-up, about as long as decoding a sample takes.
    """

    def __init__(self, num_threads: int, *, num_waiting: int = 0, name: str) -> None:
        self._lock = threading.Lock()
        self._has_task = threading.Condition(self._lock)
        self._has_turn = threading.Condition(self._lock)
        self._tasks: deque[_Task] = deque()
        self._num_free = num_threads  # turns
        self._num_returning = 0  # threads that have waited for a server and want to go on; they come before new tasks
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(num_threads + num_waiting)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Runs function(*args, **kwargs) in a thread, in the order of the calls."""
        task = _Task(functools.partial(function, *args, **kwargs), Future())
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the threads of this reader have been closed")
            self._tasks.append(task)
            if self._num_free:
                self._has_task.notify()
        return task.future

    @contextlib.contextmanager
    def while_waiting(self) -> Iterator[None]:
        """Called by a thread of the pool around a blocking call: another thread works meanwhile."""
        with self._lock:
            self._num_free += 1
            (self._has_task if self._num_free > self._num_returning else self._has_turn).notify()
        try:
            yield
        finally:
            with self._lock:
                self._num_returning += 1
                while not self._num_free and not self._is_closed:
                    self._has_turn.wait()
                self._num_returning -= 1
                self._num_free -= 1

    def close(self) -> None:
        """Cancels tasks that have not begun and waits a few seconds for the others. May be called again."""
        with self._lock:
            self._is_closed = True
            dropped, self._tasks = self._tasks, deque()
            self._has_task.notify_all()
            self._has_turn.notify_all()
        for task in dropped:
            task.future.cancel()
        until = time.monotonic() + _JOIN_S
        for thread in set(self._threads) - {threading.current_thread()}:  # which may be one of the pool
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while task := self._next():
            try:
                task.future.set_result(task.run())
            except BaseException as error:  # noqa: BLE001 — raised again where the result is asked for
                task.future.set_exception(error)
            del task  # an idle thread must not keep the reader of its last task alive
            with self._lock:
                self._num_free += 1
                if self._num_returning:
                    self._has_turn.notify()

    def _next(self) -> _Task | None:
        """Waits for a task and a turn. None: the pool was closed."""
        with self._lock:
            while not self._is_closed:
                if self._tasks and self._num_free > self._num_returning:
                    self._num_free -= 1
                    return self._tasks.popleft()
                self._has_task.wait()
        return None


def reading_threads(uri: str, num_threads: int) -> DaemonThreads:
    """Threads that read and decode samples of a packed data set."""
    num_waiting = _WAITING_THREADS if storage.is_remote(uri) else 0
    return DaemonThreads(num_threads, num_waiting=num_waiting, name="distseg-reader")
