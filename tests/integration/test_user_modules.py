"""A user's own network, loss, recipe, space, objective and scheduler, named as module:name from his working directory,
on a cluster whose processes were started elsewhere."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from distseg.data.shards import pack
from distseg.search import read_trials
from tests import programs
from tests.toy_data import LABELS, toy_samples

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(1800)]

MODULES = {
    "my_nets": '''
from dataclasses import dataclass
from torch import nn
from distseg.config import ModelConfig
from distseg.models import Logits, SegmentationModel


class Net(SegmentationModel):
    output_stride = 4

    def __init__(self, width, num_classes):
        super().__init__()
        self.backbone = nn.Conv2d(3, width, 3, stride=4, padding=1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images_B3HW):
        return Logits(self.head(self.backbone(images_B3HW).relu()), None)


@dataclass(frozen=True, kw_only=True)
class Wide(ModelConfig):
    """Two convolutions."""

    width: int = 8

    def build(self, num_classes, *, aux):
        return Net(self.width, num_classes)
''',
    "my_losses": """
def confident(batch):
    return -1e-4 * (batch.log_p_BKHW.exp() * batch.log_p_BKHW).mean()
""",
    "my_runs": '''
from distseg.config import DataConfig, LossConfig, OptimConfig, RunConfig, ScalingConfig, TrackingConfig, model_config


def wide():
    """A run for a minute."""
    return RunConfig(
        name="mine",
        model=model_config("my_nets:Wide"),
        loss=LossConfig(aux_weight=0.0, terms=("my_losses:confident=0.5",)),
        optim=OptimConfig(max_steps=4),
        data=DataConfig(uri="toy", batch_size=4, crop_px=(32, 32), num_threads=1),
        scaling=ScalingConfig(num_workers=1),
        tracking=TrackingConfig(uri="off", log_every_steps=1),
        precision="fp32",
    )
''',
    "my_objectives": """
def night_only(metrics):
    return metrics["val/mIoU/night"]
""",
    "my_schedulers": """
from distseg.search import Scheduler
from ray.tune.schedulers import FIFOScheduler


class StopAtOnce(FIFOScheduler):
    def on_trial_result(self, tune_controller, trial, result):
        return self.STOP


class AtOnce(Scheduler):
    def build(self, budget, space, *, num_trials, seed):
        return StopAtOnce()
""",
    "my_space": """
from distseg.search import Budget
from ray import tune

SPACE = {"model.width": tune.choice((4, 8)), "optim.lr": tune.uniform(0.01, 0.1)}
OBJECTIVE = "my_objectives:night_only"
BUDGET = Budget(num_trials=2, max_steps=400, evaluate_every=2)
RECIPE = "my_runs:wide"
""",
}


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[dict[str, str]]:
    with programs.ray_cluster(dashboard=True) as environment:
        yield environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's: his modules and his data."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    groups = (("day", "town"), ("night", "town"))
    samples = {split: toy_samples(length, split, groups, size_hw=(40, 56)) for split, length in LENGTHS.items()}
    pack(samples, LABELS, str(tmp_path / "toy"), dataset="toy")
    return tmp_path


LENGTHS = {"train": 12, "val": 4}


def test_a_training(ray_cluster: Mapping[str, str], folder: Path) -> None:
    ended = programs.run(folder, ray_cluster, "distseg.train", "--recipe", "my_runs:wide", "--model.width", "4")
    assert ended.code == 0, ended.err
    assert "step 4/4" in ended.out and ended.printed("checkpoint").startswith(ended.printed("run"))


def test_a_search(ray_cluster: Mapping[str, str], folder: Path) -> None:
    arguments = ("my_space", "--scheduler", "my_schedulers:AtOnce", "--checkpoint.uri", str(folder / "runs"))
    ended = programs.run(folder, ray_cluster, "distseg.tune", *arguments)
    assert ended.code == 0, ended.err
    trials = read_trials(ended.printed("search"))
    assert [trial.number for trial in trials] == [1, 2]
    for trial in trials:
        assert trial.status == "stopped" and trial.config["model"]["name"] == "my_nets:Wide"
        night = trial.evaluations[0].metrics["val/mIoU/night"]  # it may have done more before it was stopped
        assert f"my_objectives:night_only {night:.4f}" in ended.out
