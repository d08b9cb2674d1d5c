"""Limits of the machine, met anywhere, are one line; errors of the program keep their traceback."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from distseg import cli
from distseg.cli import exit_codes
from distseg.data.shards import load_manifest
from tests import programs
from tests.raw_files import write_grey, write_photograph


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory: raise the limit"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory: raise the limit"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "lower data.batch_size"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (RuntimeError("can't start new thread"), "no more processes or threads: raise the limit (ulimit -u"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "no more processes or threads"),
    ],
)
def test_what_a_limit_forbids_is_one_line(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train"])

    def main(arguments: Sequence[str]) -> int:
        raise error

    assert cli.exit_code_of(main) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_home_is_home_after_an_equals_sign_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr("sys.argv", ["train", "--out=~/runs", "--uri=~", "--name=~me", "~/as-it-is", "--x=a=~/b"])
    given: list[Sequence[str]] = []
    assert cli.exit_code_of(given.append) == 0
    assert given == [["--out=/home/me/runs", "--uri=/home/me", "--name=~me", "~/as-it-is", "--x=a=~/b"]]


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train"])

    def main(arguments: Sequence[str]) -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        cli.exit_code_of(main)


def test_its_traceback_shows_no_password(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    monkeypatch.setattr(exit_codes, "_leave", lambda code: None)
    monkeypatch.setattr("sys.argv", ["train"])
    run: Callable[[Callable[[Sequence[str]], int]], object] = cli.run  # which does not return, but here it does
    run(lambda arguments: 0)
    try:
        raise ValueError("https://me:hunter2@host/ does not answer")
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.endswith("ValueError: https://host/ does not answer\n")


def test_where_python_knows_ascii_only_names_of_files_and_classes_stay_as_they_are(tmp_path: Path) -> None:
    root, out = tmp_path / "größe", tmp_path / "木"
    write_photograph(root / "images" / "train" / "straße.png", (8, 8))
    write_grey(root / "labels" / "train" / "straße.png", np.zeros((8, 8), np.uint16))
    (root / "classes.json").write_text(json.dumps(["straße", "木"], ensure_ascii=False), encoding="utf-8")
    environment = programs.plain_environment() | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    arguments = ("distseg.pack", "folder", "--root", str(root), "--out", str(out))
    ended = programs.run(tmp_path, environment, *arguments)
    assert ended.code == 0 and str(out) in ended.out, ended.err
    assert load_manifest(str(out)).label_space.classes == ("straße", "木")
    (shard,) = out.rglob("*.tar")
    assert json.dumps("straße.png")[1:-1].encode() in shard.read_bytes() or "straße.png".encode() in shard.read_bytes()
