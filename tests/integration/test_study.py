"""A study as a user runs it. In one process without Ray: that training is the same there, others assert."""

import re
from pathlib import Path

import pytest

from tests import programs

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

COMMAND = ("distseg.study", "dawn", "--max_steps", "2", "--frames", "36", "18", "--out", "studies")


def test_a_study_is_a_table_made_by_one_command_that_goes_on(tmp_path: Path) -> None:
    ended = programs.run(tmp_path, programs.alone(), *COMMAND)
    assert ended.code == 0, ended.err
    assert re.search(r"^\| trained on dawn( \| \d+\.\d){12} \|$", ended.out, re.M), ended.out
    assert (tmp_path / "studies/dawn.md").read_text().strip() in ended.out
    (tmp_path / "studies/pspnet-s0/result.json").unlink()
    again = programs.run(tmp_path, programs.alone(), *COMMAND)
    assert again.code == 0, again.err
    assert "pspnet-s0 goes on" in again.out and "pspnet-dawn-s0" not in again.out
    assert (tmp_path / "studies/dawn.md").read_text().strip() in ended.out
