"""A review is made of a checkpoint alone, and of the history where there is one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distseg.config import CheckpointConfig, RunConfig
from distseg.review import run_files
from distseg.runs.report import build_review
from distseg.tracking import MetricPoint
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint
from tests import ranks

STEPS = 2


def trained(config: RunConfig, num_ranks: int, folder: Path) -> Checkpoint:
    config = replace(config, optim=replace(config.optim, max_steps=STEPS), checkpoint=CheckpointConfig())
    ranks.train(config, num_ranks, folder=folder)
    found = checkpoint.newest(str(folder))
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def history() -> dict[str, list[MetricPoint]]:
    times_s = (0.0, 36.0, 72.0, 7200.0, 7236.0)  # two sittings
    return {
        "train/loss": [MetricPoint(step, 1 / (step + 1), time_s) for step, time_s in enumerate(times_s)],
        "train/images_per_s": [MetricPoint(0, 4.0, 0.0), MetricPoint(1, 6.0, 36.0)],
    }


def test_the_images_are_the_same_on_one_and_two_ranks_and_add_up_to_the_table(
    light_config: RunConfig, tmp_path: Path, history: dict[str, list[MetricPoint]]
) -> None:
    config = replace(light_config, precision="fp64")
    one, two = (trained(config, num, tmp_path / str(num)) for num in (1, 2))
    reviews = [build_review("a run", saved, dataset="town", history=history) for saved in (one, two)]
    images = [review.images for review in reviews]
    assert images[0] is not None and images[1] is not None
    assert images[0].keys == images[1].keys
    assert images[0].counts_N3K.equal(images[1].counts_N3K)
    assert len(images[0].keys) == one.tables["num_images"]
    assert images[0].counts_N3K[:, 0].sum(0).tolist() == list(one.tables["support"].values())
    assert reviews[0].cost.wall_hours == pytest.approx(108 / 3600)  # the pause is not counted
    assert reviews[0].cost.images_per_s == 5.0
    assert reviews[0].cost.cpu_hours == reviews[0].cost.wall_hours
    elastic = replace(config.scaling, num_workers=2, min_workers=1)
    checkpoints = replace(config.checkpoint, every_steps=1)
    unsteady = replace(one, config=replace(config, scaling=elastic, checkpoint=checkpoints))
    cost = build_review("a run", unsteady, history=history).cost
    assert (cost.device, cost.cpu_hours, cost.gpu_hours) == ("at most 2 CPU cores", None, None)

    assert [o.kind for o in reviews[0].overlays].count("fixed") == 18  # both images of each condition
    assert reviews[0].overlays == reviews[1].overlays

    files = run_files(reviews[0])
    assert {name for name in files if name.startswith("plots/")} == {
        "plots/condition_miou.png",
        "plots/condition_by_class.png",
        "plots/confusion_matrix.png",
        "plots/curves.png",
    }
    assert all(data.startswith(b"\x89PNG") for name, data in files.items() if name.endswith(".png"))
    assert json.loads(files["tables/images.json"])["keys"] == list(images[0].keys)
    assert b"<html" in files["report/index.html"] and b"a run" in files["report/index.html"]


def test_a_checkpoint_from_before_there_were_counts_is_reviewed_without_intervals(
    light_config: RunConfig, tmp_path: Path
) -> None:
    saved = replace(trained(light_config, 1, tmp_path), evaluation={})
    files = run_files(build_review("old", saved))
    assert "tables/images.json" not in files and "plots/confusion_matrix.png" not in files
    assert b"<html" in files["report/index.html"]
