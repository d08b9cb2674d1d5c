"""The frame of the benchmarks: one line a case, one table, whatever a benchmark does."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.cases import Line, laps_in_turn, table
from tests.conftest import REPOSITORY

FAKE = """
import sys
from tests.benchmarks.cases import Line, run_cases


def tiny(quick):
    print("not a case")
    yield Line.of_laps("fake/tiny", [1.0, 3.0, 2.0] if quick else [9.0], [4.0, 4.0, 4.0], "s", limit=0.6)
    yield Line(case="fake/alone", ours=1200.0, unit="MB", limit=1000.0, bound="ours at most")


run_cases("A fake.", {"tiny": tiny})
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", "--folder", str(folder), *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={})  # no PYTHONPATH: as a user


def test_quick_prints_the_lines_and_then_one_table(tmp_path: Path) -> None:
    (tmp_path / "bench_fake.py").write_text(FAKE)
    done = run(tmp_path, "--quick")
    assert (done.returncode, done.stderr) == (0, "fake: 0 s\n") or done.stderr.startswith("fake: ")
    lines, _, shown = done.stdout.partition("\n\n")
    first, tiny, alone = lines.splitlines()
    assert first == "not a case"
    assert json.loads(tiny) == {
        **{"case": "fake/tiny", "ours": 2.0, "peer": 4.0, "unit": "s", "ratio": 0.5, "limit": 0.6, "of_limit": 0.8333},
        **{"bound": "ratio at most", "spread": [0.25, 0.75]},
    }
    assert json.loads(alone)["of_limit"] == 1.2
    assert shown.splitlines() == [
        "| case | ours | peer | ratio | limit | spread |",
        "|---|---|---|---|---|---|",
        "| fake/tiny | 2 s | 4 s | 0.5 | ratio at most 0.6 | 0.25 to 0.75 |",
        "| fake/alone | 1,200 MB | | | ours at most 1,000: missed | |",
    ]


def test_a_benchmark_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "bench_a.py").write_text("raise SystemExit(3)")
    (tmp_path / "bench_b.py").write_text("")
    (tmp_path / "bench_fake.py").write_text(FAKE)
    done = run(tmp_path)
    assert done.returncode == 1
    assert "a: failed with exit code 3" in done.stderr and "b: printed no case" in done.stderr
    assert "| fake/tiny | 9 s |" in done.stdout


def test_an_unknown_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench_fake.py").write_text(FAKE)
    done = run(tmp_path, "--only", "reader")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--only reader: no such benchmark; there are fake")


@pytest.mark.parametrize(
    ("ours", "peer", "limit", "bound", "is_kept"),
    [
        (1.2, 1.0, 1.2, "ratio at most", True),
        (1.3, 1.0, 1.2, "ratio at most", False),
        (0.95, 1.0, 0.95, "ratio at least", True),
        (0.94, 1.0, 0.95, "ratio at least", False),
        (0.01, None, 0.01, "ours at most", True),
        (0.02, 5.0, 0.01, "ours at most", False),
        (90.0, 5.0, 100.0, "ours at least 0.9 of", True),
        (89.0, 5.0, 100.0, "ours at least 0.9 of", False),
    ],
)
def test_the_table_tells_which_limits_are_missed(
    ours: float, peer: float | None, limit: float, bound: object, is_kept: bool
) -> None:
    line = Line(case="a", ours=ours, peer=peer, unit="s", limit=limit, bound=bound)  # type: ignore[arg-type]
    assert ("missed" not in table([json.loads(line.json())])) == is_kept


def test_laps_take_turns_and_the_first_round_does_not_count() -> None:
    ran: list[str] = []
    times = iter(range(100))
    seconds = laps_in_turn({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 2, lambda: next(times))
    assert "".join(ran) == "abbaab"
    assert seconds == {"a": [1, 1], "b": [1, 1]}


def test_every_benchmark_can_be_quick() -> None:
    programs = sorted((REPOSITORY / "tests" / "benchmarks").glob("bench_*.py"))
    assert len(programs) >= 5
    for program in programs:
        text = program.read_text()
        assert '"--quick"' in text or "run_cases(__doc__" in text, program.name
        runpy.run_path(str(program), run_name="not main")  # by its path, as `make bench` starts it


def test_what_the_docs_say_to_run_is_there() -> None:
    pages = [*(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md"))]
    said = {name for page in pages for name in re.findall(r"-m tests\.benchmarks\.(\w+)", page.read_text())}
    assert len(said) >= 5
    assert [name for name in said if not (REPOSITORY / "tests/benchmarks" / f"{name}.py").is_file()] == []
    by_path = [page.name for page in pages if re.search(r"python tests/benchmarks/\w+\.py", page.read_text())]
    assert by_path == []  # it would not find `tests`
