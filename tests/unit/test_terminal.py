"""Names that come from outside are shown on a terminal, never obeyed: in tables, progress, lines, logs and errors."""

import io
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console

from distseg import cli
from distseg.cli.training_display import TrainingDisplay
from distseg.errors import DataError
from distseg.search.progress import SearchDisplay, TrialProgress
from distseg.search.records import TrialRecord
from distseg.search.results import markdown
from distseg.terminal import VisibleFormatter, visible
from tests.unit.reviews import example

HOSTILE = "\x1b[2J\x1b]0;title\x07night\r\n\x9b31m\u202egof\u2066\u200b\udcff[red]x[/]"
SHOWN = r"\x1b[2J\x1b]0;title\x07night\r\n\x9b31m\u202egof\u2066\u200b\udcff[red]x[/]"


def obeyed(text: str) -> list[str]:
    """What a terminal would obey or hide, but for line breaks and spaces."""
    return [c for c in text if not c.isprintable() and c != "\n"]


def renamed(table: dict[str, Any]) -> dict[str, Any]:
    """The example's table where a condition and a class have hostile names."""
    for entry in (table, *table["conditions"].values()):
        for of_class in (entry["classes"], entry["support"]):
            of_class[HOSTILE] = of_class.pop("sign")
    table["conditions"][HOSTILE] = table["conditions"].pop("night")
    return table | {"worst_condition": HOSTILE}


def on_a_screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "dumb")
    return written


def test_every_character_shows_and_ordinary_names_stay() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("winter-night, Zürich, 夜, ночь 🌧") == "winter-night, Zürich, 夜, ночь 🌧"
    assert visible(OSError("a\nb")) == r"a\nb"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_tables_of_conditions(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = on_a_screen(monkeypatch) if is_terminal else None
    cli.print_conditions(renamed(example().table), f"a run {HOSTILE}")
    text = screen.getvalue() if screen else capsys.readouterr().out
    assert obeyed(text) == []
    assert "[red]x[/]" in text and f"worst {SHOWN} 0." in text


def test_progress_of_a_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated = {"val/mIoU": 0.5, "val/mIoU_worst": 0.3}
    with TrainingDisplay(10) as display:
        display(1, evaluated, HOSTILE)
    assert capsys.readouterr().out == f"step 1/10  val/mIoU 0.5000, worst {SHOWN} 0.3000\n"
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=400, color_system=None, _environ={"TERM": "xterm"})
    with TrainingDisplay(10, terminal) as display:
        display(1, evaluated, HOSTILE)
    assert f"worst {SHOWN} 0.3000" in written.getvalue()
    assert "\x1b[2J" not in written.getvalue() and "\u202e" not in written.getvalue()


def test_progress_of_a_search(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failed = TrialProgress(number=1, params={"optim.lr": 0.1}, status="failed", error=HOSTILE)
    with SearchDisplay("val/mIoU") as display:
        display(failed)
    assert capsys.readouterr().out == f"trial 1: step 0  failed: {SHOWN}  (optim.lr 0.1)\n"
    screen = on_a_screen(monkeypatch)
    display = SearchDisplay("val/mIoU")
    display._rows[1] = failed
    Console(width=400).print(display._table())
    assert obeyed(screen.getvalue()) == [] and SHOWN[:20] in screen.getvalue()


def test_a_failed_trial_cannot_forge_lines_of_a_report() -> None:
    trial = TrialRecord(trial_id="a", number=1, params={}, config={}, status="failed", error="lost\n- trial 2: best")
    assert r"- trial 1: lost\n- trial 2: best" in markdown([trial], "val/mIoU").splitlines()


def exits(main: Callable[[Sequence[str]], int | None], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["program"])
    return cli.exit_code_of(main)


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: Sequence[str]) -> int:
        cli.say(f"run         {HOSTILE}")
        raise DataError(f"{HOSTILE}: missing")

    assert exits(main, monkeypatch) == 1
    out, err = capsys.readouterr()
    assert out == f"run         {SHOWN}\n"
    assert err == f"error: {SHOWN}: missing\n"


def test_log_records_are_one_line_and_tracebacks_several() -> None:
    formatter = VisibleFormatter("%(levelname).1s %(name)s: %(message)s")
    record = logging.LogRecord("distseg", logging.WARNING, "", 0, "%s is bad", (HOSTILE,), None)
    assert formatter.format(record) == f"W distseg: {SHOWN} is bad"
    try:
        raise ValueError
    except ValueError:
        record.exc_info, record.exc_text = sys.exc_info(), None
    assert len(formatter.format(record).splitlines()) > 2
