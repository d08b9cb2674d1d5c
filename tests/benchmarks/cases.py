"""What all benchmarks share: a line for each case, laps in turn, and one table of all lines.

A case prints `Line.json`, with the keys "case", "ours", "peer", "unit", "ratio", "limit", "of_limit", "bound" and
"spread". `bound` says what the limit is a limit of. `spread` is the lowest and the highest ratio of single laps, while
`ours` and `peer` are medians.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distseg.review import markdown_table

Bound = Literal["ratio at most", "ratio at least", "ours at most", "ours at least 0.9 of"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One case."""

    case: str
    ours: float
    unit: str
    peer: float | None = None
    limit: float | None = None
    bound: Bound = "ratio at most"
    spread: tuple[float, float] | None = None

    @classmethod
    def of_laps(
        cls,
        case: str,
        ours: Sequence[float],
        peer: Sequence[float],
        unit: str,
        *,
        limit: float | None = None,
        bound: Bound = "ratio at most",
    ) -> "Line":
        """Of laps in turn, the first of ours beside the first of the peer."""
        ratios = [a / b for a, b in zip(ours, peer, strict=False)]
        spread = min(ratios), max(ratios)
        medians = statistics.median(ours), statistics.median(peer)
        return cls(case=case, ours=medians[0], peer=medians[1], unit=unit, limit=limit, bound=bound, spread=spread)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def of_limit(self) -> float | None:
        measured = self.ratio if self.bound.startswith("ratio") else self.ours
        return None if measured is None or not self.limit else measured / self.limit

    def json(self) -> str:
        fields = {
            "case": self.case,
            "ours": _short(self.ours),
            "peer": _short(self.peer),
            "unit": self.unit,
            "ratio": _short(self.ratio),
            "limit": _short(self.limit),
            "of_limit": _short(self.of_limit),
            "bound": self.bound if self.limit else "",
            "spread": self.spread and [_short(ratio) for ratio in self.spread],
        }
        return json.dumps(fields)

    def print(self) -> None:
        print(self.json(), flush=True)


def _short(value: float | None) -> float | None:
    """Four digits, and all digits before the point."""
    return None if value is None else float(f"{value:.4g}") if abs(value) < 1000 else float(round(value))


def laps_in_turn(
    contestants: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each lap, without a first round, which allocates and chooses kernels. Every other round goes back."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name in sorted(contestants, reverse=bool(turn % 2)):
            began_s = clock()
            contestants[name]()
            if turn:
                seconds[name].append(clock() - began_s)
    return seconds


def run_cases(description: str | None, cases: Mapping[str, Callable[[bool], Iterable[Line]]]) -> None:
    """A program of cases that have no further options: each is told whether it shall be quick."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--quick", action="store_true", help="fewer and smaller laps")
    arguments = parser.parse_args()
    for name in arguments.cases:
        for line in cases[name](arguments.quick):
            line.print()


# ---- the table of all


def is_line(found: Any) -> bool:
    return isinstance(found, dict) and {"case", "ours", "ratio", "limit"} <= found.keys()


def table(found: Iterable[Mapping[str, Any]]) -> str:
    header = ("case", "ours", "peer", "ratio", "limit", "spread")
    return markdown_table(header, [_row(line) for line in found], escape=False)


def _row(line: Mapping[str, Any]) -> list[str]:
    unit = f" {line['unit']}" if line.get("unit") else ""
    spread = line.get("spread")
    return [
        line["case"],
        f"{line['ours']:,g}{unit}",
        "" if line.get("peer") is None else f"{line['peer']:,g}{unit}",
        "" if line["ratio"] is None else f"{line['ratio']:.3g}",
        "" if line["limit"] is None else _limit(line),
        "" if not spread else f"{spread[0]:.3g} to {spread[1]:.3g}",
    ]


def _limit(line: Mapping[str, Any]) -> str:
    of_limit, bound = line["of_limit"], line["bound"]
    least = 0.9 if bound.endswith("0.9 of") else 1.0
    is_kept = of_limit is not None and (of_limit >= least if "at least" in bound else of_limit <= 1)
    return f"{bound} {line['limit']:,g}" + ("" if is_kept else ": missed")


def say(text: str) -> None:
    """To the terminal, beside the lines."""
    print(text, file=sys.stderr, flush=True)
