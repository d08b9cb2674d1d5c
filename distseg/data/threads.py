"""A pool of daemon threads: unlike `ThreadPoolExecutor`'s, one that hangs in the network keeps no process alive."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_JOIN_S = 5.0


class DaemonThreads:
    def __init__(self, num_threads: int, *, name: str) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=_work, args=(self._tasks,), name=f"{name}-{i}", daemon=True)
            for i in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Runs function(*args, **kwargs) in a thread, in the order of the calls."""
        if self._closed.is_set():
            raise RuntimeError("the threads of this reader have been closed")
        future: Future[_T] = Future()

        def task() -> None:
            if self._closed.is_set():
                future.cancel()
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 — raised again where the result is asked for
                future.set_exception(error)

        self._tasks.put(task)
        return future

    def close(self) -> None:
        """Drops what has not begun and waits a few seconds for what has. May be called again."""
        self._closed.set()
        for _ in self._threads:
            self._tasks.put(None)
        until = time.monotonic() + _JOIN_S
        for thread in set(self._threads) - {threading.current_thread()}:  # the last user may have been one of them
            thread.join(max(0.0, until - time.monotonic()))


def _work(tasks: "queue.SimpleQueue[Any]") -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # an idle thread must not keep its last user alive
