"""Text from outside on a terminal: names of conditions, classes, runs and files may hold what a terminal obeys.

An escape sequence in a condition's name could clear the screen, rewrite a line above, or set the window's title; a
newline could forge a line of ours; a mark of the writing direction could turn a name round.
"""

import logging

from distseg.errors import masked


def visible(text: object) -> str:
    """The text in one line in which every character shows: others are written as \\x1b, \\n or \\u202e."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class VisibleFormatter(logging.Formatter):
    """Log records of one line each, but for a traceback; without the passwords of addresses that libraries quote."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = visible(masked(record.message))
        return super().formatMessage(record)
