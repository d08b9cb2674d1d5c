"""Tables on the terminal."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from distseg.metric_names import MIOU


def print_conditions(tables: dict[str, Any], title: str) -> None:
    """The metrics of each condition, worst first, then those of all images together."""
    from distseg import evaluation  # here, since it imports torch

    metrics = evaluation.metrics_in("terminal", tables)
    table = Table(title=title, title_justify="left")
    for column in ("condition", "images", *metrics, "weakest class"):
        table.add_column(column, justify="left" if column in ("condition", "weakest class") else "right")

    def add_row(name: str, entry: dict[str, Any]) -> None:
        weakest = evaluation.weakest_class(entry)
        shown = f"{weakest[0]} {weakest[1]:.3f}" if weakest else "-"
        table.add_row(name, str(entry["num_images"]), *(_number(entry.get(metric)) for metric in metrics), shown)

    for name in evaluation.rank_conditions(tables).order:
        add_row(name, tables["conditions"][name])
    table.add_section()
    add_row("all images", tables)
    Console(width=max(100, Console().width) if not sys.stdout.isatty() else None).print(table)
    print(
        f"{MIOU} {_number(tables['mIoU'])}   mean over conditions {_number(tables['mIoU_mean_conditions'])}   "
        f"worst {tables['worst_condition']} {_number(tables['mIoU_worst'])}   gap {_number(tables['mIoU_gap'])}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
