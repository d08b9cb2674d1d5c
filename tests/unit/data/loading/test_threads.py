import threading
import time
from collections.abc import Callable, Iterator

import pytest

from distseg.data.loading.threads import DaemonThreads


@pytest.fixture
def pool() -> Iterator[Callable[[int, int], DaemonThreads]]:
    pools: list[DaemonThreads] = []

    def make(num_threads: int, num_waiting: int) -> DaemonThreads:
        pools.append(DaemonThreads(num_threads, num_waiting=num_waiting, name="test-pool"))
        return pools[-1]

    yield make
    for threads in pools:
        threads.close()
    assert not any(thread.name.startswith("test-pool") for thread in threading.enumerate())


Pool = Callable[[int, int], DaemonThreads]


def test_results_and_errors_are_those_of_the_calls(pool: Pool) -> None:
    threads = pool(2, 3)
    futures = [threads.submit(divmod, 7, divisor) for divisor in (2, 0, 3)]
    assert [futures[0].result(), futures[2].result()] == [(3, 1), (2, 1)]
    with pytest.raises(ZeroDivisionError):
        futures[1].result()


def test_one_thread_works_in_the_order_of_the_calls(pool: Pool) -> None:
    threads, seen = pool(1, 4), list[int]()
    for future in [threads.submit(seen.append, i) for i in range(100)]:
        future.result()
    assert seen == list(range(100))


def test_as_many_work_as_may_and_those_that_wait_do_not_count(pool: Pool) -> None:
    threads, lock = pool(2, 6), threading.Lock()
    working, most, answered = 0, 0, threading.Event()
    num_waiting = threading.Semaphore(0)

    def work(*, waits: bool) -> None:
        nonlocal working, most

        def change(by: int) -> None:
            nonlocal working, most
            with lock:
                working += by
                most = max(most, working)

        change(1)
        time.sleep(0.001)
        if waits:
            change(-1)
            with threads.while_waiting():
                num_waiting.release()
                answered.wait(20)
            change(1)
        time.sleep(0.001)
        change(-1)

    waiting = [threads.submit(work, waits=True) for _ in range(5)]
    for _ in waiting:
        assert num_waiting.acquire(timeout=20)  # five wait side by side, though two may work
    for future in [threads.submit(work, waits=False) for _ in range(50)]:
        future.result(20)  # and leave their turns to others
    answered.set()
    for future in waiting:
        future.result(20)
    assert (working, most) == (0, 2)


def test_who_has_waited_goes_on_before_other_tasks_begin(pool: Pool) -> None:
    threads, order = pool(1, 1), list[str]()
    answered = threading.Event()

    def wait() -> None:
        with threads.while_waiting():
            answered.wait(20)
        order.append("waited")

    def answer() -> None:
        answered.set()
        while not threads._num_returning:
            time.sleep(0.001)

    futures = [threads.submit(wait), threads.submit(answer), threads.submit(order.append, "next")]
    for future in futures:
        future.result(20)
    assert order == ["waited", "next"]


def test_who_has_waited_takes_the_turn_of_one_that_begins_to_wait(pool: Pool) -> None:
    threads = pool(1, 1)
    first_answered, second_answered = threading.Event(), threading.Event()

    def wait(answered: threading.Event) -> None:
        with threads.while_waiting():
            answered.wait(20)

    def answer_and_wait() -> None:
        first_answered.set()
        while not threads._num_returning:
            time.sleep(0.001)
        wait(second_answered)

    first, second = threads.submit(wait, first_answered), threads.submit(answer_and_wait)
    first.result(5)
    assert not second.done()
    second_answered.set()
    second.result(5)


def test_closing_drops_what_has_not_begun_and_ends_what_waits_for_a_turn(pool: Pool) -> None:
    threads, begun, goes_on = pool(1, 0), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        goes_on.wait(20)

    first, second = threads.submit(work), threads.submit(int)
    assert begun.wait(20)
    threading.Timer(0.05, goes_on.set).start()
    threads.close()
    assert first.done() and second.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(int)
