"""What every program shares: arguments by tyro, one-line errors, exit codes.

0 done, 1 failed, 2 bad arguments, 130 stopped by Ctrl-C.
"""

import contextlib
import io
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

import tyro

from distseg.errors import ConfigError, DistsegError


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Calls `main` with the command line and exits. `--debug` anywhere shows the traceback of an error."""
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
    sys.exit(code)


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


class Progress:
    """A line every few seconds on stderr: done, rate, time left."""

    def __init__(self, total: int, what: str, every_s: float = 5.0) -> None:
        self.total, self.what, self.every_s, self.num_done = total, what, every_s, 0
        self.start_s = self.last_s = time.monotonic()

    def __call__(self, num: int) -> None:
        """`num` more are done."""
        self.num_done += num
        now_s = time.monotonic()
        if now_s - self.last_s >= self.every_s:
            self.last_s = now_s
            rate = self.num_done / (now_s - self.start_s)
            left_s = (self.total - self.num_done) / rate
            print(f"{self.num_done}/{self.total} {self.what}  {rate:.1f}/s  ETA {left_s:.0f} s", file=sys.stderr)
