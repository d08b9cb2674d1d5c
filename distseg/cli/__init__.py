"""What every program shares: arguments by tyro, one-line errors, exit codes.

0 done, 1 failed, 2 bad arguments, 130 stopped by Ctrl-C.
"""

import atexit
import contextlib
import io
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import rich.console
import rich.progress
import tyro

from distseg.data import Runner, in_processes, num_cores
from distseg.errors import ConfigError, DistsegError


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Calls `main` with the command line and exits. `--debug` anywhere shows the traceback of an error."""
    _leave(exit_code_of(main))


def exit_code_of(main: Callable[[Sequence[str]], int | None]) -> int:
    """The same without the exit: an error is one line on stderr."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    logging.basicConfig(level=logging.INFO, format="%(levelname).1s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer", "alembic", "matplotlib", "mlflow", "ray"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if debug:
        logging.getLogger("distseg").setLevel(logging.DEBUG)
    signal.signal(signal.SIGTERM, _interrupt)  # `ray job stop`: as Ctrl-C, so that a run is closed properly
    try:
        code = main([a for a in arguments if a != "--debug"]) or 0
        sys.stdout.flush()
    except DistsegError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `… | head` closed our output: no error of ours, but nothing more can be printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    return code


def _leave(code: int) -> NoReturn:
    """Exits without taking every module apart, as Python does last: with torch and Ray that takes more than a second.

    Not where somebody waits for that end: a thread that Python would join, a profiler, a debugger, a coverage tool.
    """
    is_awaited = any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if is_awaited or sys.gettrace() is not None or sys.getprofile() is not None:
        sys.exit(code)
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # a pipe that closed
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def parse(what: Any, arguments: Sequence[str], *, prog: str, description: str = "", **options: Any) -> Any:
    """`tyro.cli` with underscored flags that take values (`--scaling.gpu True`); bad arguments raise a ConfigError."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                what,
                prog=prog,
                description=description or None,
                args=list(arguments),
                use_underscores=True,
                config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
                if options.pop("flat", False)
                else (tyro.conf.FlagCreatePairsOff,),
                **options,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(f"{_one_line(complaint.getvalue())} ({prog} --help lists all)") from None


def _one_line(box: str) -> str:
    """tyro draws a titled box over several lines; people and logs want its sentence."""
    lines = [re.sub(r"[│╭╮╰╯─┃━]", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line and not re.fullmatch(r"-+", line)]
    sentence: list[str] = []
    for line in lines[1:] or lines:
        if line.startswith(("For full helptext", "Argument helptext")):
            break
        sentence.append(line)
    return re.sub(r"\s+", " ", " ".join(sentence)) or "bad arguments"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Arguments of programs that do many tasks: where."""

    num_processes: int = field(default_factory=num_cores)
    """Processes on this machine; what comes out does not depend on it."""
    ray: bool = False
    """Instead, Ray tasks on the cluster of RAY_ADDRESS, whose machines must all see the data."""

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise ConfigError(f"--num_processes = {self.num_processes}: must be at least 1")

    def runner(self, out_uri: str) -> Runner:
        if not self.ray:
            return in_processes(self.num_processes)
        from distseg.orchestration import in_ray_tasks  # a second that others need not wait

        return in_ray_tasks(out_uri)


# ---- progress

Progress = Callable[[int, int], None]
"""Called with (done, in all) as work goes on."""

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
