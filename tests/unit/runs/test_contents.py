"""What MLflow shows of a run is a list: an entry more is shown, and one that fails costs itself alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from distseg.runs import Run, contents
from distseg.training import checkpoint
from tests import scripted


@pytest.fixture
def run(tmp_path: Path, tiny_town: str) -> Run:
    config = scripted.config_of(str(tmp_path / "runs"), "off", tiny_town, max_steps=2)
    return Run.read(scripted.train(config).run_uri)


def best_of(run: Run) -> checkpoint.Checkpoint:
    found = checkpoint.best(run.uri)
    assert found is not None
    return found[1]


def test_a_run_shows_its_files_tags_pictures_and_description(run: Run) -> None:
    ended = contents.read_contents(run, best_of(run))
    assert ended.files.keys() | {"config/resolved.json"} == scripted.ARTIFACTS
    assert ended.tags.keys() == {"env.python", "env.torch", "env.device", "worst_condition"}
    assert [record["step"] for record in ended.result.records] == [1, 2, 2]
    described = contents.description(ended.result, "ab12", lambda: "#/report")
    assert "get-artifact?path=plots/condition_miou.png&run_uuid=ab12" in described
    assert described.splitlines()[2] == "[The whole report, with images](#/report)", "MLflow shows three lines"
    assert contents.pictures(run.uri, best_of(run)).keys() == {2}


def test_an_entry_more_is_shown_and_one_that_fails_costs_itself_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: contents.RunResult) -> dict[str, bytes]:
        raise RuntimeError("no font")

    def notes(result: contents.RunResult) -> dict[str, bytes]:
        return {"notes/steps.txt": str(len(result.records)).encode()}

    whole = contents.read_contents(run, best_of(run))
    monkeypatch.setattr(contents, "FILES", (failing, *contents.FILES, notes))
    monkeypatch.setattr(contents, "CLOSING_TAGS", (*contents.CLOSING_TAGS, lambda result: {"name": result.run.name}))
    ended = contents.read_contents(run, best_of(run))
    assert ended.files.keys() == whole.files.keys() | {"notes/steps.txt"}
    assert (ended.files["notes/steps.txt"], ended.tags["name"]) == (b"3", run.name)
    assert "no font" in caplog.text


def test_a_run_that_was_not_evaluated_shows_what_it_has(run: Run) -> None:
    for best in (None, replace(best_of(run), tables={})):
        ended = contents.read_contents(run, best)
        assert ended.files.keys() == {"config/environment.json"}
        assert (
            "worst_condition" not in ended.tags and contents.description(ended.result, "ab12", lambda: "#/report") == ""
        )


def test_a_damaged_environment_is_left_out_with_a_warning(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    Path(run.uri, "environment.json").write_text("{}")
    ended = contents.read_contents(run, best_of(run))
    assert "config/environment.json" not in ended.files and ended.tags.keys() == {"worst_condition"}
    assert "environment.json is damaged" in caplog.text
