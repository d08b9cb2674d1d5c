"""Limits of the machine, met anywhere, are one line; errors of the program keep their traceback."""

from collections.abc import Sequence

import pytest

from distseg import cli


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


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train"])

    def main(arguments: Sequence[str]) -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        cli.exit_code_of(main)
