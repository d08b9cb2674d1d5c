"""How the trials of a search go: one live table on a terminal, elsewhere one plain line for each thing that happens."""

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from distseg.search.results import format_value, format_values

if TYPE_CHECKING:
    from distseg.search.progress import TrialProgress


class SearchDisplay:
    """Shows a search's progress; a context manager, called with each TrialProgress."""

    def __init__(self, objective: str) -> None:
        self._objective = objective
        self._rows: dict[int, TrialProgress] = {}
        self._live = Live(console=Console(), auto_refresh=False) if sys.stdout.isatty() else None

    def __enter__(self) -> "SearchDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, progress: "TrialProgress") -> None:
        self._rows[progress.number] = progress
        if self._live:
            self._live.update(self._table(), refresh=True)
            return
        score = "" if progress.score is None else f"  {self._objective} {progress.score:.4f}"
        happened = f"failed: {progress.error}" if progress.status == "failed" else progress.status
        line = f"trial {progress.number}: step {progress.step}{score}  {happened}  ({format_values(progress.params)})"
        print(line, flush=True)

    def _table(self) -> Table:
        names = list(dict.fromkeys(name for row in self._rows.values() for name in row.params))
        table = Table("trial", *names, "step", self._objective, "")
        for number, row in sorted(self._rows.items()):
            score = "-" if row.score is None else f"{row.score:.4f}"
            values = (format_value(row.params.get(name)) for name in names)
            table.add_row(str(number), *values, str(row.step), score, row.error or row.status)
        return table
