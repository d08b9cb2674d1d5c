"""How a bad command is written, and called in this process as the command line would.

`train` goes up to where it would join a Ray cluster, or, where a case says `alone`, trains as the only rank of a
training without Ray. In a command `{name}` is a file or directory that the function `name` of `places` makes; `{out}`
is a directory that is not there.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from distseg import cli

TRAIN = "train --config {config} --checkpoint.uri {out}"
ALONE = "train --config {config} --checkpoint.uri {out} --scaling.num_workers 1"


@dataclass(frozen=True)
class Bad:
    command: str
    code: int
    words: tuple[str, ...]
    """Each is in the error line."""
    alone: bool = False


Fails = Callable[[Bad], None]  # asserts that the command ends with the code and the line


def each_of(cases: Mapping[str, Bad]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=[name.replace(" ", "-") for name in cases])


def call(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """As `python -m` would."""
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    if program == "cluster.submit":
        return int(importlib.import_module(program).main(arguments))
    return cli.exit_code_of(importlib.import_module(f"distseg.{program}").main)


def assert_one_line(error: str, words: tuple[str, ...]) -> None:
    assert "Traceback" not in error
    lines = error.strip().splitlines()
    assert lines and lines[-1].startswith("error: "), error
    assert sum(line.startswith("error: ") for line in lines) == 1, error
    missing = [word for word in words if word not in lines[-1]]
    assert not missing, f"{missing} not in {lines[-1]!r}"
    assert len(lines[-1]) <= 500
