"""What is found by name: a file of a folder, or a user's own in the working directory."""

from pathlib import Path

import pytest

from distseg import plugins
from distseg.config import ModelConfig
from distseg.errors import ConfigError

NETWORKS = "distseg.models.networks"


def test_a_folders_files_are_its_names() -> None:
    found = plugins.names(NETWORKS)
    assert "pspnet" in found and found == tuple(sorted(found))
    assert not any(name.startswith("_") for name in found), "helpers are no networks"
    assert issubclass(plugins.find("model.name", NETWORKS, "Options", "enet"), ModelConfig)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("enett", r"model\.name = 'enett': did you mean 'enet'\?; your own is given as module:class"),
        ("zzzz", r"model\.name = 'zzzz': choose from adain, .*unet"),
        ("no_such_module:A", r"model\.name 'no_such_module:A': cannot import no_such_module \(.*\)"),
        ("json:Encoder", r"model\.name 'json:Encoder': json has no class Encoder; did you mean '.*encoder'\?"),
        ("json:", r"model\.name 'json:': give it as module:class"),
    ],
)
def test_what_is_not_there_is_named(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plugins.find("model.name", NETWORKS, "Options", name, kind="class")


def test_a_module_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", ["/somewhere/else"])
    (tmp_path / "plugin_of_mine.py").write_text("SEVEN = 7\n")
    monkeypatch.chdir(tmp_path)
    assert plugins.from_user("--recipe", "plugin_of_mine:SEVEN") == 7


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1 / 0", r"it raises ZeroDivisionError: 'division by zero' at .*broken_plugin\.py, line 1"),
        ("raise SystemExit(3)", r"it raises SystemExit: '3' at .*broken_plugin\.py, line 1"),
        ("def f(:", r"it raises SyntaxError"),
    ],
)
def test_a_module_that_fails_by_itself_is_named_with_the_line(
    line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", ["/somewhere/else"])
    (tmp_path / "broken_plugin.py").write_text(f"{line}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"--metrics 'broken_plugin:f': cannot import broken_plugin \({says}"):
        plugins.from_user("--metrics", "broken_plugin:f")
