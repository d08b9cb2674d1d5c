"""The console script: it lists the programs, runs them, and ends with their codes."""

import importlib
import sys

import pytest

import distseg
from distseg import __main__ as console


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `distseg ARGUMENTS…`."""
    monkeypatch.setattr(sys, "argv", ["distseg", *arguments])
    monkeypatch.setattr("distseg.cli.exit_codes._leave", sys.exit)  # which ends this process at once
    with pytest.raises(SystemExit) as ended:
        console.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_alone_it_lists_every_program(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    assert all(f"  distseg {verb} " in out for verb in console.PROGRAMS)


def test_every_verb_is_a_program() -> None:
    for module in console.MODULES.values():
        assert callable(importlib.import_module(module).main), module


def test_a_verb_gets_the_rest_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, "train", "--list")
    assert code == 0 and out.startswith("town ")


def test_an_unknown_verb_is_a_bad_argument(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(monkeypatch, capsys, "tain")
    assert code == 2
    assert err.startswith("error: 'tain': no such program; choose from pack, train, ")


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, capsys, "--version")[:2] == (0, f"distseg {distseg.__version__}\n")
