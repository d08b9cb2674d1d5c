"""Work in processes that is stopped ends soon and leaves no process behind."""

import multiprocessing
import time
from collections.abc import Generator
from typing import cast

import pytest

from distseg.data.processes import in_processes
from distseg.stopping import StoppedError


def slept(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.parametrize("by", [StoppedError, GeneratorExit])
def test_a_stop_does_not_wait_for_tasks_under_way(by: type[BaseException]) -> None:
    results = cast("Generator[float]", in_processes(2)(slept, [0.0, *[600.0] * 8]))
    assert next(results) == 0.0
    with pytest.raises(by):
        results.throw(by())
    assert multiprocessing.active_children() == []
