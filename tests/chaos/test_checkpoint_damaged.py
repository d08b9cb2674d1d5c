"""A stopped run's newest checkpoint is damaged: `--resume` names it, goes on from the one before, and completes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distseg.config import RunConfig, ScalingConfig
from distseg.training import checkpoint
from tests import programs
from tests.chaos.conftest import write_config
from tests.recorded import only_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

SAVED_EVERY, STOPPED_AT, END = 2, 4, 6


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "what"), [(flip_a_byte, "checkpoint.pt is damaged"), (Path.unlink, "has no checkpoint.pt")]
)
def test_the_checkpoint_before_a_damaged_one_is_used(
    config: RunConfig, damage: Callable[[Path], None], what: str, tmp_path: Path
) -> None:
    config = replace(
        config,
        optim=replace(config.optim, max_steps=STOPPED_AT),
        checkpoint=replace(config.checkpoint, every_steps=SAVED_EVERY),
        scaling=ScalingConfig(num_workers=1),
    )
    arguments = ("distseg.train", "--config", write_config(config, tmp_path))
    stopped = programs.run(tmp_path / "first", programs.alone(), *arguments)
    assert stopped.code == 0, stopped.err
    run_uri = stopped.printed("run")
    newest = checkpoint.found_in(run_uri)[0]
    damage(Path(newest.uri) / checkpoint.WEIGHTS_FILE)

    more = ("--resume", run_uri, "--optim.max_steps", str(END))
    ended = programs.run(tmp_path / "second", programs.alone(), "distseg.train", *more)
    assert ended.code == 0, ended.err
    assert f"passed over: {newest.uri}: {what}" in ended.err
    recorded = only_run(config.tracking.uri, config.tracking.experiment)
    assert recorded.values("train/resumed_at") == [STOPPED_AT - SAVED_EVERY]
    assert recorded.steps("train/loss") == list(range(1, END + 1))
    saved = checkpoint.newest(run_uri)
    assert saved is not None and saved[1].step == END
    assert newest.uri not in {found.uri for found in checkpoint.found_in(run_uri)}
