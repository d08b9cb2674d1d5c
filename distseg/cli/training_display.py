"""A training's progress as its user sees it: two live lines on a terminal, elsewhere one plain line per report.

    step 120/240 ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╺━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  50%  ETA 1:14
    loss 0.4123  12.9 images/s  1.62 steps/s  data wait 3%  val/mIoU 0.4512 at 80, worst night 0.3121

Evaluations are lines of their own that stay, on a terminal too.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from distseg.metric_names import DATA_WAIT_FRACTION, IMAGES_PER_S, MIOU, MIOU_WORST, RESUMED_AT, TRAIN_LOSS
from distseg.terminal import visible


class TrainingDisplay:
    """Shows one run. A context manager, since a live display has an end."""

    def __init__(
        self, max_steps: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_steps, self._clock = max_steps, clock
        self._console = console or Console(force_terminal=sys.stdout.isatty(), highlight=False)
        self._first: tuple[int, float] | None = None  # step and time of the first report
        self._numbers, self._score = "", ""
        columns = (
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f}%"),
            TextColumn("{task.fields[eta]}"),
        )
        self._bar = Progress(*columns, console=self._console, expand=True, auto_refresh=False)
        self._task = self._bar.add_task("training", total=max_steps, eta="")
        self._live: Live | None = None
        self._redirected: list[logging.StreamHandler[TextIO]] = []
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stderr=sys.stderr.isatty())

    def __enter__(self) -> "TrainingDisplay":
        if self._live is not None:
            stderr = sys.stderr
            self._live.start()
            self._live.update(Text("starting …"), refresh=True)
            self._redirected = list(_handlers_on(stderr))
            for handler in self._redirected:  # else warnings would be written into the bar
                handler.setStream(sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            for handler in self._redirected:
                handler.setStream(sys.stderr)

    def __call__(self, step: int, metrics: Mapping[str, float], worst_condition: str = "") -> None:
        self._first = self._first or (step, self._clock())
        place = f"step {step}/{self._max_steps}"
        if TRAIN_LOSS in metrics:
            self._numbers, eta = numbers(metrics), ""
            steps_per_s = self._steps_per_s(step)
            if steps_per_s is not None:
                left_s = int((self._max_steps - step) / steps_per_s)
                self._numbers += f"  {steps_per_s:.2f} steps/s"
                eta = f"ETA {clock_time(left_s)}"
            self._bar.update(self._task, completed=step, eta=eta)
            if self._live is None:
                print("  ".join(filter(None, (place, self._numbers, eta))), flush=True)
        elif MIOU in metrics:
            self._say(f"{place}  {score(metrics, worst_condition)}")
            self._score = score(metrics, worst_condition, step)
        elif RESUMED_AT in metrics:
            self._say(f"{place}  resumed")
        if self._live is not None:
            shown = visible("  ".join(filter(None, (self._numbers, self._score))))
            line = Text(shown, no_wrap=True, overflow="ellipsis")
            self._live.update(Group(self._bar, line), refresh=True)

    def _say(self, line: str) -> None:
        if self._live is None:
            print(visible(line), flush=True)
        else:
            self._live.console.print(Text(visible(line)), soft_wrap=True)

    def _steps_per_s(self, step: int) -> float | None:
        """Since the first report, evaluations included; None at that one."""
        first_step, first_s = self._first or (step, 0.0)
        elapsed_s = self._clock() - first_s
        return (step - first_step) / elapsed_s if step > first_step and elapsed_s > 0 else None


def numbers(metrics: Mapping[str, float]) -> str:
    """What was logged of training, in one line."""
    parts = [f"loss {metrics[TRAIN_LOSS]:.4f}"]
    if IMAGES_PER_S in metrics:
        parts.append(f"{metrics[IMAGES_PER_S]:.1f} images/s")
    if DATA_WAIT_FRACTION in metrics:
        parts.append(f"data wait {metrics[DATA_WAIT_FRACTION]:.0%}")
    return "  ".join(parts)


def score(metrics: Mapping[str, float], worst_condition: str, step: int | None = None) -> str:
    """What was logged of an evaluation, in one line, with its step if that is not said beside it."""
    at = "" if step is None else f" at {step}"
    worst = f", worst {worst_condition} {metrics[MIOU_WORST]:.4f}" if MIOU_WORST in metrics else ""
    return f"{MIOU} {metrics[MIOU]:.4f}{at}{worst}"


def clock_time(seconds: int) -> str:
    """1:05 is a minute and five seconds, 1:00:05 an hour and as many."""
    minutes, hours = seconds // 60 % 60, seconds // 3600
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


def _handlers_on(stream: object) -> Iterator["logging.StreamHandler[TextIO]"]:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
            yield handler
