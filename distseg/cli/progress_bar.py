"""Progress of long work on stderr: a bar on a terminal, elsewhere one plain line every few seconds."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

from distseg.data import Progress

_LINE_EVERY_S = 5.0


@contextlib.contextmanager
def progress(verb: str, unit: str) -> Iterator[Progress]:
    """On stderr: a bar on a terminal; elsewhere one plain line every few seconds."""
    if not sys.stderr.isatty():
        yield PlainProgress(verb, unit)
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as bar:
        task = bar.add_task(verb, total=None, rate="")

        def update(num_done: int, num_total: int) -> None:
            rate = num_done / max(1e-9, bar.tasks[0].elapsed or 0.0)
            bar.update(task, completed=num_done, total=num_total, rate=f"{rate:.1f} {unit}/s")

        yield update


class PlainProgress:
    def __init__(self, verb: str, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._verb, self._unit, self._clock = verb, unit, clock
        self._began = self._last = clock()

    def __call__(self, num_done: int, num_total: int) -> None:
        now = self._clock()
        if now - self._last < _LINE_EVERY_S and num_done < num_total:
            return
        self._last = now
        rate = num_done / max(1e-9, now - self._began)
        left_s = (num_total - num_done) / rate if rate else 0.0
        line = f"{self._verb}: {num_done}/{num_total} {self._unit}, {rate:.1f} {self._unit}/s, {left_s:.0f} s left"
        print(line, file=sys.stderr, flush=True)
