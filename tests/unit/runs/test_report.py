"""What a run is reviewed by, read from its directory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distseg.config import CheckpointConfig, RunConfig, ScalingConfig
from distseg.review import run_page
from distseg.runs import read_review, train_without_ray
from distseg.runs.report import _cost
from distseg.tracking import MetricPoint


def test_the_page_that_is_written_again_is_the_one_that_the_run_left(tmp_path: Path, small_config: RunConfig) -> None:
    config = replace(
        small_config,
        data=replace(small_config.data, batch_size=2),
        optim=replace(small_config.optim, max_steps=2),
        checkpoint=CheckpointConfig(uri=str(tmp_path)),
        scaling=ScalingConfig(num_workers=2, cpus_per_worker=7),  # of which there will be neither, without Ray
    )
    outcome = train_without_ray(config)
    assert outcome is not None
    review = read_review(outcome.run_uri)
    assert review.dataset == "town"
    assert review.cost is not None
    assert review.cost.device == f"{torch.get_num_threads()} CPU cores"
    assert run_page(review) == (Path(outcome.run_uri) / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("times_s", "hours"),
    [
        ((0, 36, 72, 7200, 7236), 108 / 3600),  # two sittings
        ((0, 1000, 2000, 3600), 1.0),  # slow steps, seldom logged
        ((0, 1000, 2000, 93_600, 94_600), 3000 / 3600),  # with a night between them
        ((0,), None),
    ],
)
def test_what_is_slow_is_no_pause(times_s: tuple[float, ...], hours: float | None, tiny_config: RunConfig) -> None:
    points = [MetricPoint(step, 1.0, time_s) for step, time_s in enumerate(times_s)]
    assert _cost(tiny_config, {"train/loss": points}).wall_hours == pytest.approx(hours)
