"""How every program ends: exit 0 done, 1 failed, 2 bad arguments, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.

An error is one line. Output that nobody reads any more changes nothing of it (output.py).

`--debug` anywhere on the command line shows the traceback of an error and distseg's own debug log.
"""

import atexit
import codecs
import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NoReturn

from distseg import stopping
from distseg.cli.output import survive_closing
from distseg.errors import DistsegError, first_line, masked
from distseg.terminal import VisibleFormatter, visible

_NO_MEMORY = ("failed to map segment", "can't allocate memory", "annot allocate memory", "out of memory")

Main = Callable[[Sequence[str]], int | None]
"""A program's `main`: the arguments without its name -> the exit code, None for 0."""


def run(main: Main) -> NoReturn:
    """Calls `main` with the command line and exits. `--debug` anywhere shows the traceback of an error."""
    _begin_again_in_utf8()
    sys.excepthook = _show
    _leave(exit_code_of(main))


def exit_code_of(main: Main) -> int:
    """The same without the exit: an error is one line on stderr."""
    arguments = [_with_home(argument) for argument in sys.argv[1:]]
    debug = "--debug" in arguments
    survive_closing()
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(VisibleFormatter("%(levelname).1s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[shown])
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer", "alembic", "matplotlib", "mlflow", "ray"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if debug:
        logging.getLogger("distseg").setLevel(logging.DEBUG)
    try:
        with stopping.handled():
            code = main([a for a in arguments if a != "--debug"]) or 0
    except DistsegError as error:
        if debug:
            _show(type(error), error, error.__traceback__)
        print(f"error: {visible(masked(str(error)))}", file=sys.stderr)
        code = error.exit_code
    except Exception as error:
        lacking = _lacking(error)
        if not lacking or debug:
            raise
        print(visible(f"error: {lacking} ({masked(first_line(error))})"), file=sys.stderr)
        code = 1
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        code = stopping.as_stopped(stop).exit_code
    return code


def _with_home(argument: str) -> str:
    """`--out=~/runs` as a shell passes on `--out ~/runs`: it leaves a `~` after `=` as it is."""
    flag, is_given, value = argument.partition("=")
    is_of_home = flag.startswith("--") and (value == "~" or value.startswith("~/"))
    return f"{flag}{is_given}{os.path.expanduser(value)}" if is_of_home else argument  # noqa: PTH111 — of any text


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback as Python prints it, without the passwords of addresses."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


def _begin_again_in_utf8() -> None:
    """With LC_ALL=C and PYTHONUTF8=0 Python knows ASCII only: it would change the names of files and of classes.

    With LC_ALL=C alone it uses UTF-8 of itself.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii" and sys.orig_argv[1:]:
        os.environ["PYTHONUTF8"] = "1"  # also for the processes of Ray that the program starts
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 — itself


def _lacking(error: Exception) -> str:
    """What the machine lacks, or a limit of its user's forbids, and what to do; empty if it is something else."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY):
        return "out of memory: raise the limit (ulimit -v, the container's), or lower data.batch_size or data.crop_px"
    if isinstance(error, BlockingIOError) or "can't start new thread" in text:
        return "no more processes or threads: raise the limit (ulimit -u, the container's number of processes)"
    return ""


def _leave(code: int) -> NoReturn:
    """Exits at once, without Python's own clean-up of modules, which takes over a second with torch and Ray.

    Exits normally if something needs that clean-up: a thread that Python joins, a profiler, a debugger.
    """
    stopping.leave_on_signal(code)
    is_awaited = any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if is_awaited or sys.gettrace() is not None or sys.getprofile() is not None:
        sys.exit(code)
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # a pipe that closed
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
