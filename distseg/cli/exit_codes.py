"""How every program ends: exit 0 done, 1 failed, 2 bad arguments, 130 stopped by Ctrl-C; an error is one line.

`--debug` anywhere on the command line shows the traceback of an error and distseg's own debug log.
"""

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from distseg.errors import DistsegError

Main = Callable[[Sequence[str]], int | None]
"""A program's `main`: the arguments without its name -> the exit code, None for 0."""


def run(main: Main) -> NoReturn:
    """Calls `main` with the command line and exits. `--debug` anywhere shows the traceback of an error."""
    _leave(exit_code_of(main))


def exit_code_of(main: Main) -> int:
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
    """Exits at once, without Python's own clean-up of modules, which takes over a second with torch and Ray.

    Exits normally if something needs that clean-up: a thread that Python joins, a profiler, a debugger.
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
