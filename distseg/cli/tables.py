"""Tables and lines on the terminal. Names from outside are shown, never obeyed (`distseg.terminal`)."""

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distseg.metric_names import MIOU
from distseg.terminal import visible

if TYPE_CHECKING:
    from distseg.evaluation import ConditionRanking


def print_conditions(tables: dict[str, Any], title: str) -> None:
    """The metrics of each condition, worst first, then those of all images together, and what decides the order."""
    from distseg import evaluation  # here, since it imports torch

    metrics, ranking = evaluation.metrics_in("terminal", tables), evaluation.rank_conditions(tables)
    has_own = bool(ranking.classes) and not ranking.is_all  # beside the mIoU by which conditions are compared
    compared = (f"mIoU, {len(ranking.classes)} shared",) if has_own else ()
    table = Table(title=Text(visible(title)), title_justify="left")
    for column in ("condition", "images", *compared, *metrics, "weakest class"):
        table.add_column(Text(column), justify="left" if column in ("condition", "weakest class") else "right")

    def add_row(name: str, entry: dict[str, Any], miou: float | None) -> None:
        weakest = evaluation.weakest_class(entry)
        shown = f"{weakest[0]} {weakest[1]:.3f}" if weakest else "-"
        scores = [*([_number(miou)] if has_own else []), *(_number(entry.get(metric)) for metric in metrics)]
        table.add_row(*cells(name, str(entry["num_images"]), *scores, shown))

    for name in ranking.order:
        add_row(name, tables["conditions"][name], ranking.miou.get(name))
    table.add_section()
    add_row("all images", tables, None)
    Console(width=max(100, Console().width) if not sys.stdout.isatty() else None).print(table)
    worst = f"{tables['worst_condition']} {_number(tables['mIoU_worst'])}" if ranking.worst else "none"
    say(
        f"{MIOU} {_number(tables['mIoU'])}   mean over conditions {_number(tables['mIoU_mean_conditions'])}   "
        f"worst {worst}   gap {_number(tables['mIoU_gap'])}"
    )
    for line in _order(ranking):
        say(line)


def _order(ranking: "ConditionRanking") -> list[str]:
    """By what conditions are ordered, and who takes no part."""
    lines = []
    if len(ranking.miou) > 1:
        lines.append(f"worst first, by mIoU {ranking.note}".rstrip())
    if ranking.void:
        lines.append(f"without truth, all void, so left out of worst and gap: {', '.join(ranking.void)}")
    return lines


def cells(*texts: str) -> list[Text]:
    """A row of a table as it is to be read: neither the terminal nor rich finds anything in it to obey."""
    return [Text(visible(text)) for text in texts]


def say(*lines: str) -> None:
    """Prints lines that may name what comes from outside: each stays one line, in which every character shows."""
    for line in lines:
        print(visible(line), flush=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
