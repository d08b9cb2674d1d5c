"""Numbers, lists and tables as text: how a reader of tables, pages and descriptions sees them. It loads nothing.

Numbers are rounded before they are subtracted, so that the numbers of a line add up.
"""

import html
import statistics
from collections.abc import Iterable, Sequence
from typing import Protocol

ABSENT = "–"


class Span(Protocol):
    """An interval."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def number(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def loss(best: float, value: float, digits: int = 2) -> float:
    """As a reader subtracts it from what is shown."""
    return round(round(best, digits) - round(value, digits), digits)


def signed(value: float, digits: int = 2) -> str:
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def span(interval: Span, digits: int = 2) -> str:
    low, high = (f"{'−' if round(x, digits) < 0 else ''}{abs(x):.{digits}f}" for x in (interval.low, interval.high))
    return f"{low} to {high}"


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """'0.512 ± 0.011', the spread being the standard deviation of the sample; of one value, the value."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def listed(names: Sequence[str]) -> str:
    """['a', 'b', 'c'] -> 'a, b and c'"""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def md(text: str) -> str:
    """Escaped: what Markdown or HTML would take for markup is shown as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in html.escape(text, quote=False).replace("\n", " "))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, escape: bool = True) -> str:
    """The lines of a table, without a newline at the end. `escape`: cells may hold text from outside."""
    body = [[md(cell) if escape else cell for cell in row] for row in rows]
    return "\n".join([_line(header), "|---" * len(header) + "|", *map(_line, body)])


def _line(cells: Sequence[str]) -> str:
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"
