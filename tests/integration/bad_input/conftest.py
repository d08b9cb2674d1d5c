import shlex
import sys

import pytest

from tests.conftest import use_environment
from tests.integration.bad_input.calling import Bad, Fails, assert_one_line, call
from tests.integration.bad_input.places import MAKERS, Places


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(tmp_path_factory.mktemp("places"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    """No server and no cluster is to be had, unless a test says so."""
    use_environment({}, monkeypatch)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(places["recipes_of_mine"])


@pytest.fixture
def fails(places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fails:
    def assert_fails(case: Bad) -> None:
        if case.alone:
            monkeypatch.setenv("RANK", "0")
        program, *arguments = shlex.split(case.command)
        arguments = [argument.format_map(places) for argument in arguments]
        capsys.readouterr()
        code = call(program, arguments, monkeypatch)
        error = capsys.readouterr().err
        assert_one_line(error, case.words)
        assert code == case.code
        assert "hunter2" not in error

    return assert_fails


@pytest.fixture
def fails_and_leaves_nothing(fails: Fails, places: Places) -> Fails:
    """But the places themselves, and what fails in the middle of a training: that run is looked at or resumed."""

    def assert_fails_and_leaves_nothing(case: Bad) -> None:
        before = set(places.folder.rglob("*"))
        fails(case)
        if not case.alone:
            made = {path.relative_to(places.folder) for path in set(places.folder.rglob("*")) - before}
            assert {path.parts[0] for path in made} <= MAKERS.keys(), "something half-written is left"

    return assert_fails_and_leaves_nothing
