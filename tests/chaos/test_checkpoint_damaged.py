"""A stopped run's newest checkpoint is damaged: `--resume` names it, goes on from the one before, and completes."""

from dataclasses import replace
from pathlib import Path

import pytest

from distseg import checkpoint
from distseg.config import RunConfig, ScalingConfig
from tests import programs
from tests.chaos.conftest import write_config
from tests.recorded import only_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SAVED_EVERY = 2


def test_the_checkpoint_before_a_damaged_one_is_used(config: RunConfig, tmp_path: Path) -> None:
    config = replace(
        config,
        optim=replace(config.optim, max_steps=4),
        checkpoint=replace(config.checkpoint, every_steps=SAVED_EVERY),
        scaling=ScalingConfig(num_workers=1),
    )
    arguments = ("distseg.train", "--config", write_config(config, tmp_path))
    run_uri = train(tmp_path / "0", *arguments).printed("run")
    for end, damage, what in ((6, flip_a_byte, "checkpoint.pt is damaged"), (8, Path.unlink, "has no checkpoint.pt")):
        newest = checkpoint.found_in(run_uri)[0]
        damage(Path(newest.uri) / checkpoint.WEIGHTS_FILE)
        ended = train(tmp_path / str(end), "distseg.train", "--resume", run_uri, "--optim.max_steps", str(end))
        assert f"passed over: {newest.uri}: {what}" in ended.err
        recorded = only_run(config.tracking.uri, config.tracking.experiment)
        assert recorded.values("train/resumed_at")[-1] == newest.step - SAVED_EVERY
        assert recorded.steps("train/loss") == list(range(1, end + 1))
        saved = checkpoint.newest(run_uri)
        assert saved is not None and saved[1].step == end


def train(folder: Path, *arguments: str) -> programs.Ended:
    ended = programs.run(folder, programs.alone(), *arguments)
    assert ended.code == 0, ended.err
    return ended


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
