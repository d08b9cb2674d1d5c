"""What a tracking server was not there for is sent later, once; on SQLite, a run without a network."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from distseg import storage, sync, tracking
from distseg.config import RunConfig, to_dict
from distseg.errors import ConfigError
from distseg.runs.run import Run
from distseg.tracking.client import rounded
from distseg.training import checkpoint
from tests import scripted
from tests.conftest import REPOSITORY
from tests.recorded import Recorded, only_run

DEAD = "http://127.0.0.1:9"  # nobody listens on `discard`


@pytest.fixture
def config(store: str, tmp_path: Path, tiny_town: str) -> RunConfig:
    return scripted.config_of(str(tmp_path / "runs"), store, tiny_town)


def to_nobody(config: RunConfig) -> RunConfig:
    return replace(config, tracking=replace(config.tracking, uri=DEAD))


def assert_whole(store: str, num_steps: int, *, is_drawn: bool = True) -> Recorded:
    recorded = only_run(store, scripted.EXPERIMENT)
    assert scripted.lost_and_doubled(recorded, num_steps) == (0, 0)
    assert recorded.run.info.status == "FINISHED"
    assert recorded.run.data.params["optim.max_steps"] == str(num_steps)
    assert recorded.run.data.tags["data.digest"]
    assert recorded.run.inputs is not None and len(recorded.run.inputs.dataset_inputs) == 2
    assert scripted.all_artifacts(recorded) == (scripted.ARTIFACTS if is_drawn else scripted.OF_CONFIG)
    if is_drawn:
        assert recorded.run.data.tags["worst_condition"] == "night"
        assert recorded.run.info.run_id in recorded.run.data.tags[tracking.DESCRIPTION_TAG]
    return recorded


def test_a_run_whose_server_is_well_leaves_nothing_to_send(
    config: RunConfig, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = scripted.train(config)
    assert ended.outcome.is_sent
    assert_whole(store, 30)
    assert scripted.journal_steps(ended.run_uri) == list(range(1, 31))
    assert sync.main([ended.run_uri]) == 0
    out = capsys.readouterr().out
    assert f"MLflow run  {ended.outcome.run_id}\n" in out and "all was there" in out and "sent " not in out


def test_a_run_that_no_server_has_seen_is_created_with_the_times_it_had(
    config: RunConfig, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = scripted.train(to_nobody(config))
    assert not ended.outcome.is_sent and ended.outcome.run_id == ""
    assert Path(ended.run_uri, "report", "index.html").exists()
    assert sync.main([ended.run_uri, "--uri", store]) == 0
    out = capsys.readouterr().out
    assert "(created)" in out and "sent        126 values of metrics" in out
    assert "report/index.html" in out and "sent        status FINISHED" in out
    recorded = assert_whole(store, 30)
    records = tracking.read_journal(ended.run_uri)
    assert recorded.times_s("train/loss") == [r["time_ms"] / 1000 for r in records if "train/loss" in r["metrics"]]
    run = Run.read(ended.run_uri)
    assert (recorded.run.info.start_time, recorded.run.info.end_time) == (run.started_ms, run.ended_ms)
    assert run.tracking_uri == DEAD, "the run stays with its own server"
    assert sync.main([ended.run_uri, "--uri", store]) == 0
    assert "all was there" in capsys.readouterr().out
    assert_whole(store, 30)


def test_a_server_that_lost_its_tables_gets_all_again(config: RunConfig, store: str, empty_store: Path) -> None:
    ended = scripted.train(config, is_drawn=False)
    other = Path(store.removeprefix("sqlite:///")).with_name("restored.db")
    shutil.copy(empty_store, other)
    assert sync.main([ended.run_uri, "--uri", f"sqlite:///{other}"]) == 0
    assert_whole(f"sqlite:///{other}", 30, is_drawn=False)


def test_without_a_server_one_line_names_it_and_what_to_do(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = scripted.train(to_nobody(config), is_drawn=False)
    capsys.readouterr()
    assert sync.main([ended.run_uri]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert f"MLflow at {DEAD}: " in err and "--uri" in err


def test_a_run_without_tracking_is_sent_where_the_user_says(config: RunConfig, store: str) -> None:
    ended = scripted.train(replace(config, tracking=replace(config.tracking, uri="off")), is_drawn=False)
    assert ended.outcome.is_sent
    with pytest.raises(ConfigError, match="off; name a server with --uri"):
        sync.main([ended.run_uri])
    with pytest.raises(ConfigError, match="--uri carries a user or password"):
        sync.main([ended.run_uri, "--uri", "http://me:secret@host/"])
    assert sync.main([ended.run_uri, "--uri", store]) == 0
    assert_whole(store, 30, is_drawn=False)


def test_a_run_that_was_killed_is_sent_as_far_as_it_came_and_not_closed(
    config: RunConfig, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_uri = killed_before(17, to_nobody(config), tmp_path)
    assert sync.main([run_uri, "--uri", store]) == 0
    assert "not ended   still training, or killed" in capsys.readouterr().out
    recorded = only_run(store, scripted.EXPERIMENT)
    assert recorded.steps("train/loss") == list(range(1, 17))
    assert recorded.run.info.status == "RUNNING"

    ended = scripted.train(config, resume=run_uri, is_drawn=False)
    assert ended.outcome.is_sent
    recorded = assert_whole(store, 30, is_drawn=False)
    assert recorded.values("train/resumed_at") == [10]


def test_in_s3_a_killed_run_has_the_steps_of_its_newest_checkpoint_and_here_those_after_it(
    config: RunConfig, store: str, tmp_path: Path, moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    config = replace(to_nobody(config), checkpoint=replace(config.checkpoint, uri=f"{moto_s3}/runs"))
    run_uri = killed_before(17, config, tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert sync.main([run_uri, "--uri", store]) == 0
    assert only_run(store, scripted.EXPERIMENT).steps("train/loss") == list(range(1, 11)), "from another machine"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert sync.main([run_uri, "--uri", store]) == 0
    assert only_run(store, scripted.EXPERIMENT).steps("train/loss") == list(range(1, 17)), "on its own"

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tracked = replace(config, tracking=replace(config.tracking, uri=store))
    assert scripted.train(tracked, resume=run_uri, is_drawn=False).outcome.is_sent
    assert_whole(store, 30, is_drawn=False)


def killed_before(step: int, config: RunConfig, folder: Path) -> str:
    """The directory of a run that SIGKILL ended."""
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-m", "tests.scripted", str(folder / "config.json"), str(step)]
    ended = subprocess.run(command, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (uri,) = {e.uri.rpartition("/")[0] for e in storage.list_files(config.checkpoint.uri) if "run.json" in e.uri}
    return uri


def test_steps_done_again_under_the_same_plan_are_there_once_and_the_run_is_the_same(
    config: RunConfig, store: str
) -> None:
    first = scripted.train(config, before_step=scripted.stop_at(18), is_drawn=False)
    assert first.outcome.step == 10
    second = scripted.train(config, resume=first.run_uri, is_drawn=False)
    assert second.outcome.run_id == first.outcome.run_id
    assert_whole(store, 30, is_drawn=False)


@pytest.mark.parametrize("max_steps", [14, 50])
def test_under_another_plan_nothing_is_left_of_steps_that_no_longer_are(
    config: RunConfig, store: str, max_steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped at 18 of 30, its newest checkpoint of step 10: the latest value must not be that of step 17."""
    first = scripted.train(config, before_step=scripted.stop_at(18), is_drawn=False)
    assert only_run(store, scripted.EXPERIMENT).steps("train/loss")[-1] == 17
    planned = replace(config, optim=replace(config.optim, max_steps=max_steps))
    second = scripted.train(planned, resume=first.run_uri, is_drawn=False)
    assert f"in MLflow a new run, {first.outcome.run_name}-2, takes its place" in caplog.text
    recorded = assert_whole(store, max_steps, is_drawn=False)
    assert recorded.run.info.run_id == second.outcome.run_id != first.outcome.run_id
    assert recorded.run.data.metrics["train/loss"] == rounded(1 / max_steps)
    before = mlflow.MlflowClient(tracking_uri=store).get_run(first.outcome.run_id)
    assert before.info.lifecycle_stage == "deleted"
    assert before.data.tags["distseg.replaced_by"] == second.outcome.run_id
    assert scripted.train(planned, resume=first.run_uri, is_drawn=False).outcome.run_id == second.outcome.run_id, (
        "only once"
    )
    assert_whole(store, max_steps, is_drawn=False)


def test_a_finished_run_that_is_made_longer_stays_the_same(config: RunConfig, store: str) -> None:
    first = scripted.train(config, is_drawn=False)
    longer = replace(config, optim=replace(config.optim, max_steps=40))
    second = scripted.train(longer, resume=first.run_uri, is_drawn=False)
    assert second.outcome.run_id == first.outcome.run_id
    recorded = only_run(store, scripted.EXPERIMENT)
    assert recorded.steps("train/loss") == list(range(1, 41))


def test_a_run_that_moves_to_another_server_takes_all_its_steps_along(
    config: RunConfig, store: str, empty_store: Path
) -> None:
    first = scripted.train(config, before_step=scripted.stop_at(18), is_drawn=False)
    other = Path(store.removeprefix("sqlite:///")).with_name("other.db")
    shutil.copy(empty_store, other)
    moved = replace(config, tracking=replace(config.tracking, uri=f"sqlite:///{other}"))
    assert scripted.train(moved, resume=first.run_uri, is_drawn=False).outcome.is_sent
    assert_whole(f"sqlite:///{other}", 30, is_drawn=False)


def test_records_that_only_the_checkpoint_has_are_in_the_journal_of_the_run_that_goes_on(
    config: RunConfig, store: str
) -> None:
    """As when S3 took a checkpoint and then no segment."""
    first = scripted.train(to_nobody(config), before_step=scripted.stop_at(18), is_drawn=False)
    found = checkpoint.newest(first.run_uri)
    assert found is not None
    records = [r for r in tracking.read_journal(first.run_uri) if r["step"] <= 10]
    tracking.replace_journal(first.run_uri, records[:5])
    checkpoint.write(Path(found[0]), replace(found[1], records=records[5:]))
    ended = scripted.train(config, resume=first.run_uri, is_drawn=False)
    assert scripted.journal_steps(ended.run_uri) == list(range(1, 31))
    assert_whole(store, 30, is_drawn=False)
