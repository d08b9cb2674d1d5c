"""Batch norm's statistics of other images, by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from distseg import adapt, evaluate
from distseg.config import RunConfig
from distseg.errors import ConfigError
from distseg.evaluation import World
from distseg.training import checkpoint, train_run
from distseg.training.adaptation import recalibrate_
from distseg.training.adaptation.statistics import use_batch_statistics_
from tests import ranks


def statistics(norm: nn.BatchNorm2d) -> tuple[float, float]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.item(), norm.running_var.item()


def test_the_statistics_of_all_batches_together_replace_the_trainings() -> None:
    norm = nn.BatchNorm2d(1)
    model = nn.Sequential(norm, nn.Dropout(0.5)).eval()
    values = torch.tensor([1.0, 3.0, 5.0, 11.0, 2.0, 8.0]).view(3, 1, 1, 2)
    assert recalibrate_(model, [values[:2], values[2:]], model) == 3
    # Batch means 5 (4 values, unbiased variance 56/3) and 5 (2 values, 18), weighted by images 2 : 1.
    assert statistics(norm) == pytest.approx((5, (2 * 56 / 3 + 18) / 3))
    assert not any(module.training for module in model.modules())
    assert norm.momentum == 0.1


def test_the_variance_between_batches_counts() -> None:
    norm = nn.BatchNorm2d(1).eval()
    recalibrate_(norm, [torch.full((1, 1, 1, 2), 1.0), torch.full((1, 1, 1, 2), 5.0)], norm)
    assert statistics(norm) == pytest.approx((3, 4))


def test_a_share_of_the_trainings_statistics_stays_while_batches_pass_and_afterwards() -> None:
    norm = nn.BatchNorm2d(1, eps=0.0).eval()
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.fill_(9)
    norm.running_var.fill_(41)
    passed: list[torch.Tensor] = []
    values = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)  # mean 3, variance 4, unbiased 8
    recalibrate_(norm, [values], lambda batch: passed.append(norm(batch)), keep=0.25)
    # 0.25 · 9 + 0.75 · 3 = 4.5, and 0.25 · 41 + 0.75 · 4 = 13.25; at the end with the unbiased variance, 16.25
    assert passed[0].flatten().tolist() == pytest.approx([-3.5 / 13.25**0.5, 0.5 / 13.25**0.5])
    assert statistics(norm) == pytest.approx((4.5, 16.25))


def test_a_teacher_normalises_by_the_batch_and_its_own_statistics_stay() -> None:
    norm = nn.BatchNorm2d(1).eval()
    use_batch_statistics_(norm)
    with torch.no_grad():
        found = norm(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))  # mean 2, deviation 1
    assert found.flatten().tolist() == pytest.approx([-1, 1], abs=1e-4)
    assert statistics(norm) == (0, 1)


def test_what_cannot_be_recalibrated_is_refused_and_left_as_it_was() -> None:
    with pytest.raises(ConfigError, match="has no batch norm"):
        recalibrate_(nn.Conv2d(1, 1, 1), [], print)
    norm = nn.BatchNorm2d(1).eval()
    with pytest.raises(ConfigError, match="more than one image"):
        recalibrate_(norm, [torch.ones(2, 1, 1, 1), torch.ones(1, 1, 1, 1)], norm)
    with pytest.raises(ConfigError, match="there are none"):
        recalibrate_(norm, [], norm)
    assert (norm.momentum, norm.training, *statistics(norm)) == (0.1, False, 0, 1)


def test_each_condition_is_evaluated_with_the_statistics_of_its_own_images_and_adapt_writes_them(
    light_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(light_config, optim=replace(light_config.optim, max_steps=2))
    train_run(config, World(), ranks.Recorder(tmp_path / "run"))
    data = ("--data", config.data.uri, "--precision", "fp64")
    adapting = ("--adapt", "batchnorm", "--adapt_keep", "0.3", "--json")
    assert evaluate.main(["--checkpoint", "run", *data, *adapting, "all.json"]) == 0
    assert evaluate.main(["--checkpoint", "run", *data, *adapting, "night.json", "--conditions", "night"]) == 0
    night = ("--conditions", "night", "--out", "night.pt")
    assert adapt.main(["--checkpoint", "run", *data, "--split", "val", *night, "--keep", "0.3"]) == 0
    assert evaluate.main(["--checkpoint", "night.pt", *data, "--json", "written.json", "--conditions", "night"]) == 0
    tables = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("all", "night", "written")}
    found = [table["conditions"]["night"] for table in tables.values()]
    assert found[0] == found[1] == found[2]
    assert (tables["all"]["num_images"], tables["all"]["adapt"]) == (18, "batchnorm")
    as_trained = checkpoint.resolve("run")[1]
    assert found[0] != as_trained.tables["conditions"]["night"]
    adapted = checkpoint.resolve("night.pt")[1]
    changed = {name for name, value in adapted.model.items() if not torch.equal(value, as_trained.model[name])}
    assert changed and all(name.endswith((".running_mean", ".running_var")) for name in changed)
