"""Stopping from outside: Ctrl-C is SIGINT; Kubernetes, Slurm, systemd and `ray job stop` send SIGTERM.

    with stopping.handled():          these signals raise StoppedError wherever the main thread is
    with stopping.gently(notice):     meanwhile the first one only makes `is_requested()` true, and `notice` is logged.
                                      Who works looks at that, saves, and raises StoppedError. The second signal raises
                                      it at once, and so does the end of PATIENCE_S.

`announce` is the notice before the end, as clouds give it: the work saves once, and goes on while it may.

Signals belong to a whole process, and so does what this module remembers. Outside the main thread, where Python knows
no signals, both change nothing. A process that hears of the end by another way calls `request`.
"""

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""For saving: Kubernetes, Slurm and torchrun kill 30 s after their signal, and closing takes some of that, too."""
_ECHO_S = 2.0  # torchrun passes on a signal that its processes may have got already, as all of a terminal do
_ONCE_MORE_S = 0.05
_TORCHRUN = "TORCHELASTIC_RUN_ID"  # it sets this variable
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(KeyboardInterrupt):
    """Somebody stopped the program. A KeyboardInterrupt, so that no `except Exception` takes it for a failure."""

    def __init__(self, signum: int = signal.SIGINT, *, at_once: bool = False) -> None:
        super().__init__(signum)
        self.signum, self.at_once = signum, at_once  # at_once: nothing may take time any more

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM: as a shell says of a program that a signal has ended."""
        return 128 + self.signum


class _Block:
    """A block of `gently`, and what it has heard."""

    def __init__(self) -> None:
        self.signum = 0  # of the first signal; 0: none yet
        self.at_s = 0.0
        self.asked, self.ended = threading.Event(), threading.Event()


_raised: StoppedError | None = None  # the last one that a signal has raised
_handled = 0  # so many blocks of `handled` are open
_block: _Block | None = None  # the open block of `gently`
_asked_otherwise = threading.Event()  # see `request`
_announced = threading.Event()


def is_requested() -> bool:
    """Whether the work should save what it has and end."""
    return _asked_otherwise.is_set() or (_block is not None and _block.signum != 0)


def request() -> None:
    """Makes `is_requested` true for the rest of this process's life."""
    _asked_otherwise.set()


def announce() -> None:
    """A machine will be taken away soon, perhaps without a signal: the work should save what it has, and go on."""
    _announced.set()


def take_announcement() -> bool:
    """Whether `announce` was called since this was asked last."""
    if not _announced.is_set():
        return False
    _announced.clear()
    return True


def as_stopped(error: KeyboardInterrupt) -> StoppedError:
    """The StoppedError that `error` was before a library, as Ray does, made another KeyboardInterrupt of it."""
    return error if isinstance(error, StoppedError) else _raised or StoppedError()


def stopped() -> StoppedError:
    """What the work raises once it has saved."""
    return StoppedError(_block.signum if _block is not None and _block.signum else signal.SIGINT)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise StoppedError. A signal that is ignored, as SIGHUP by nohup, stays so."""
    global _handled
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    hook_before = sys.unraisablehook
    _handled += 1
    sys.unraisablehook = functools.partial(_once_more, hook_before)
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, _receive)
    try:
        yield
    finally:
        _handled -= 1
        sys.unraisablehook = hook_before
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _once_more(hook_before: Callable[[Any], object], ignored: Any) -> None:
    """Python ignores what is raised while it collects garbage: then the signal comes again, a moment later."""
    if isinstance(ignored.exc_value, StoppedError):
        threading.Timer(_ONCE_MORE_S, os.kill, (os.getpid(), ignored.exc_value.signum)).start()
    else:
        hook_before(ignored)


def take_back() -> None:
    """To be called after a library, as Ray does, has taken the signals for itself."""
    if _handled and threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _receive)


@contextlib.contextmanager
def gently(notice: str, *, on_request: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The first signal lets the block go on, and calls `on_request` in a thread. Raises StoppedError at its end.

    It is for work that looks at `is_requested` often.
    """
    global _block
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    block = _Block()
    with handled():
        _block = block
        threading.Thread(target=_watch, args=(block, notice, on_request), name="stopping", daemon=True).start()
        try:
            yield
            if block.signum:
                raise StoppedError(block.signum)
        except KeyboardInterrupt as error:
            raise as_stopped(error) from None
        finally:
            _block = None
            block.ended.set()
            block.asked.set()  # the thread waits for it


def leave_on_signal(code: int) -> None:
    """From now on, when the work is done, a signal ends the process at once with the exit code of the work."""
    if threading.current_thread() is threading.main_thread():
        for signum in _SIGNALS:
            signal.signal(signum, lambda *_: os._exit(code))


def _receive(signum: int, frame: FrameType | None) -> None:
    global _raised
    block = _block
    if block is None:
        _raised = StoppedError(signum)
        raise _raised
    if not block.signum:
        block.signum, block.at_s = signum, time.monotonic()
        block.asked.set()
    elif _TORCHRUN not in os.environ or time.monotonic() - block.at_s > _ECHO_S:
        _raised = StoppedError(block.signum, at_once=True)
        raise _raised


def _watch(block: _Block, notice: str, on_request: Callable[[], None]) -> None:
    """Does what a signal's handler must not, since the code that it interrupts may hold any lock."""
    block.asked.wait()
    if block.ended.is_set():
        return
    if notice:
        log.warning("%s", notice)
    try:
        on_request()
    except Exception as error:  # noqa: BLE001 — the work ends all the same
        log.warning("%r", error)
    if not block.ended.wait(PATIENCE_S):
        log.warning("not saved within %.0f s: ends without", PATIENCE_S)
        signal.pthread_kill(threading.main_thread().ident or 0, block.signum)
