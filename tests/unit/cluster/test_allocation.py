"""What a batch job asks about its training."""

from pathlib import Path

import pytest

from cluster import allocation
from distseg import storage
from distseg.runs import Run


def begin_run(folder: Path, name: str, started_ms: int) -> None:
    Run(name, str(folder / name), "off", "e", started_ms=started_ms).write_run_json()


def test_the_newest_run_is_the_one_that_began_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin_run(tmp_path, "zebra", 1)
    begin_run(tmp_path, "adder", 2)
    (tmp_path / "no-run").mkdir()
    assert allocation.main(["newest", str(tmp_path)]) == 0
    assert capsys.readouterr().out == str(tmp_path / "adder")


def test_before_the_first_run_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert allocation.main(["newest", str(tmp_path / "not-yet")]) == 0
    assert capsys.readouterr().out == ""


def test_a_run_that_cannot_be_read_is_an_error_and_no_new_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write_bytes(str(tmp_path / "run" / "run.json"), b"{")
    assert allocation.main(["newest", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
