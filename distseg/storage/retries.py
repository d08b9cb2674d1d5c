"""Trying again what may pass, with growing pauses, until a deadline without success. Knows no particular store."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from distseg.errors import StorageError

# A server that this process has never reached is tried this long only: a mistyped address must not look like a hang.
FIRST_CONTACT_S = 20.0

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class AttemptError(Exception):
    """One attempt failed: `text` says why and what to do; trying again may help for `patience_s` since the start."""

    def __init__(self, text: str, patience_s: float | None) -> None:
        super().__init__(text)
        self.text = text
        self.patience_s = patience_s  # None: trying again cannot help


def retried(uri: str, attempt: Callable[[], _T]) -> _T:
    """What `attempt` returns, called again while it raises AttemptError and time is left. Raises StorageError.

    Takes at most the patience and the time of the attempt under way when it ends.
    """
    began = time.monotonic()
    num_failed = 0
    while True:
        try:
            return attempt()
        except AttemptError as failed:
            if failed.patience_s is None:
                raise StorageError(f"{uri}: {failed.text}") from failed.__cause__
            left_s = failed.patience_s - (time.monotonic() - began)
            if left_s <= 0:
                message = f"{uri}: {failed.text} (tried for {failed.patience_s:.0f} s)"
                raise StorageError(message) from failed.__cause__
            if num_failed >= 2:  # one or two failures are usual and not worth a line
                _log.warning("%s: %s; trying for %.0f s more", uri, failed.text, left_s)
        time.sleep(min(_pause_s(num_failed), left_s))
        num_failed += 1


def _pause_s(num_failed: int) -> float:
    """From 0.2 to 30 s, with jitter. The system's generator: training's own must not depend on the network."""
    return random.SystemRandom().uniform(0.5, 1.0) * min(30.0, 0.2 * 2.0 ** min(num_failed, 10))
