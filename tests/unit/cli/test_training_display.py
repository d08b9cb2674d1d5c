"""Progress of a training: two live lines on a terminal, plain lines elsewhere."""

import io
import logging
import re
import sys

import pytest
from rich.console import Console

from distseg.cli.training_display import TrainingDisplay, clock_time

RATES = {"train/images_per_s": 16.0, "train/data_wait_fraction": 0.034}
EVALUATED = {"val/mIoU": 0.45118, "val/mIoU_worst": 0.3121, "val/mIoU/night": 0.32}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def report_all(screen: TrainingDisplay, clock: Clock) -> None:
    """40 steps at 2 a second, of 200, and an evaluation after them."""
    screen(0, {"train/resumed_at": 0.0}, "")
    screen(1, {"train/loss": 2.5, **RATES})
    clock.now_s += 20.5
    screen(41, {"train/loss": 0.41234, **RATES})
    screen(41, EVALUATED, "night")


def terminal(width: int = 120, kind: str = "xterm") -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=True, width=width, _environ={"TERM": kind}), written


def lines_of(written: io.StringIO) -> list[str]:
    """What was written to a terminal, without colours and cursor movements."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_elsewhere_it_is_one_plain_line_per_report(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with TrainingDisplay(200, clock=clock) as screen:
        report_all(screen, clock)
    assert capsys.readouterr().out.splitlines() == [
        "step 0/200  resumed",
        "step 1/200  loss 2.5000  16.0 images/s  data wait 3%",
        "step 41/200  loss 0.4123  16.0 images/s  data wait 3%  2.00 steps/s  ETA 1:19",
        "step 41/200  val/mIoU 0.4512, worst night 0.3121",
    ]


def test_a_terminal_has_a_bar_and_the_newest_numbers() -> None:
    clock, (console, written) = Clock(), terminal()
    with TrainingDisplay(200, console, clock) as screen:
        report_all(screen, clock)
    lines = lines_of(written)
    assert re.fullmatch(r"step 41/200 [━╸╺]+ 20% ETA 1:19", lines[-2]), lines[-2]
    numbers = "loss 0.4123  16.0 images/s  data wait 3%  2.00 steps/s"
    assert lines[-1] == f"{numbers}  val/mIoU 0.4512 at 41, worst night 0.3121"
    assert "step 41/200  val/mIoU 0.4512, worst night 0.3121" in lines


def test_a_narrow_terminal_keeps_two_lines() -> None:
    clock, (console, written) = Clock(), terminal(width=60)
    with TrainingDisplay(200, console, clock) as screen:
        report_all(screen, clock)
    assert max(map(len, lines_of(written)[-2:])) == 60


def test_a_dumb_terminal_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    clock, (console, written) = Clock(), terminal(kind="dumb")
    with TrainingDisplay(200, console, clock) as screen:
        report_all(screen, clock)
    assert not written.getvalue()
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_warnings_are_written_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console, written = terminal()
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    handler = logging.StreamHandler(stderr)
    logging.getLogger().addHandler(handler)
    try:
        with TrainingDisplay(200, console, Clock()) as screen:
            screen(1, {"train/loss": 2.5, **RATES})
            logging.getLogger("distseg").warning("worker 1: a bad sample")
        assert handler.stream is stderr
    finally:
        logging.getLogger().removeHandler(handler)
    assert not stderr.getvalue()
    lines = lines_of(written)
    assert "worker 1: a bad sample" in lines and lines[-1].startswith("loss 2.5000")


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (65, "1:05"), (3605, "1:00:05"), (90061, "25:01:01")])
def test_clock_time(seconds: int, text: str) -> None:
    assert clock_time(seconds) == text
