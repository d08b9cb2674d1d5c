"""What programs print must never stop their work: the reader of a pipe may go away, a terminal may be closed.

After `survive_closing`, text that nobody reads any more is dropped, and the program ends with the exit code of its
work. Text that cannot be written for another reason, as to a file on a full disk, is dropped too, but the other stream
says so.
"""

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO

_NOBODY_READS = (errno.EPIPE, errno.EIO)  # a pipe without a reader; a terminal that was closed


def survive_closing() -> None:
    """Replaces sys.stdout and sys.stderr by streams on the same files that never raise, as their owner: a program."""
    if sys.stdout is sys.__stdout__:  # else somebody else has replaced it, as tests do
        sys.stdout = _on(1, sys.stdout, "stdout")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _on(2, sys.stderr, "stderr")


def _on(number: int, stream: TextIO | None, name: str) -> TextIO:
    if stream is None:  # the program was started with it closed; a file must not get its number by chance
        _discard(number)
    else:
        with contextlib.suppress(OSError):
            stream.flush()
    line_buffering = getattr(stream, "line_buffering", True) or getattr(stream, "write_through", False)
    return io.TextIOWrapper(
        io.BufferedWriter(_File(number, name)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",  # a name that the terminal's encoding lacks is no reason to stop either
        line_buffering=line_buffering,
    )


class _File(io.FileIO):
    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, "w", closefd=False)
        self._stream_name, self._has_complained = name, False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _NOBODY_READS:
                _discard(self.fileno())
            elif not self._has_complained:
                self._has_complained = True
                self._complain(error)
            return len(memoryview(data).cast("B"))

    def _complain(self, error: OSError) -> None:
        other = 2 if self.fileno() == 1 else 1
        line = f"{self._stream_name}: {error.strerror}; what is printed there is lost, the work goes on\n"
        with contextlib.suppress(OSError):
            os.write(other, line.encode())


def _discard(number: int) -> None:
    """What this process, and those that it starts, write to the file descriptor goes nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
