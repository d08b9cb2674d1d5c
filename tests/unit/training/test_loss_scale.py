"""The loss of fp16 is scaled so that small gradients are not lost, and large ones cost a step and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distseg.config import CheckpointConfig, RunConfig
from distseg.evaluation import World
from distseg.training import checkpoint
from distseg.training.optim import LossScale, Update
from distseg.training.trainer import train_run
from tests import ranks
from tests.small_network import Small

CPU = torch.device("cpu")
INF = float("inf")


def updated(gradient: float, scale: LossScale, clip_norm: float | None = None) -> tuple[Tensor, float]:
    """The weight, 1 before, after a step of SGD at rate 1 by a gradient of the loss; and `Update.size`."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    update = Update(model, torch.optim.SGD(model.parameters(), lr=1.0), scale=scale, clip_norm=clip_norm)
    update.backward(model.weight.sum() * gradient)
    update.apply()
    return model.weight.detach(), float(update.size)


def test_the_step_is_that_of_the_loss_itself() -> None:
    weight, size = updated(0.3, LossScale(CPU))
    assert (weight.item(), size) == (1 - torch.tensor(0.3).item(), torch.tensor(0.3).item()), (
        "powers of two round nothing"
    )
    assert updated(5.0, LossScale(CPU), clip_norm=1.0)[0].item() == pytest.approx(0.0, abs=1e-6), (
        "it is clipped unscaled"
    )


def test_a_gradient_that_fp16_cannot_hold_is_not_lost() -> None:
    weight = torch.ones((), requires_grad=True)
    scale = LossScale(CPU)
    for factor, expected in ((torch.ones(()), 0.0), (scale.factor, 1e-8)):
        product = weight.half() * 1e-4 * (1e-4 * factor).half()
        (gradient,) = torch.autograd.grad(product.float(), weight)
        assert float(gradient / factor) == pytest.approx(expected, rel=1e-2, abs=1e-12)


def test_an_overflow_leaves_the_step_out_and_halves_the_scale_until_it_cannot_be_the_scale() -> None:
    scale = LossScale(CPU)
    for exponent in range(16, 0, -1):
        assert float(scale.factor) == 2.0**exponent
        weight, size = updated(INF, scale)
        assert weight.item() == 1 and size == 0
    weight, size = updated(INF, scale)
    assert (float(scale.factor), weight.item(), size) == (1.0, 1.0, INF), "now it is a loss that diverges"


def test_it_grows_again_after_many_sound_steps() -> None:
    scale = LossScale(CPU)
    updated(INF, scale)
    for _ in range(LossScale.GROWS_AFTER - 1):
        assert not scale.adjust(torch.tensor(False))
    assert float(scale.factor) == 2.0**15
    scale.adjust(torch.tensor(False))
    assert (float(scale.factor), float(scale.num_sound)) == (2.0**16, 0.0)


@pytest.fixture
def in_fp16(small_config: RunConfig) -> RunConfig:
    config = replace(
        small_config, model=Small(has_norm=True), precision="fp16", checkpoint=CheckpointConfig(every_steps=1)
    )
    return replace(config, optim=replace(config.optim, max_steps=4, clip_norm=1.0))


def test_training_in_fp16_is_near_that_in_fp32_and_goes_on_with_the_same_scale(
    in_fp16: RunConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, half, rest = ranks.Recorder(), ranks.Recorder(run_folder), ranks.Recorder()
    train_run(replace(in_fp16, precision="fp32"), World(), exact)
    monkeypatch.setattr(LossScale, "GROWS_AFTER", 2)
    train_run(in_fp16, World(), half)
    assert half.losses() == pytest.approx(exact.losses(), rel=5e-3) and half.losses() != exact.losses()
    saved = {each.step: checkpoint.read(each.uri) for each in checkpoint.found_in(str(run_folder))}
    assert [float(saved[step].loss_scale["factor"]) for step in (1, 2, 3, 4)] == [2.0**16, 2.0**17, 2.0**17, 2.0**18]
    resumed = train_run(in_fp16, World(), rest, resume=saved[2])
    assert rest.losses() == half.losses()[2:]
    assert resumed.update.scale is not None and float(resumed.update.scale.factor) == 2.0**18


def test_a_training_goes_on_after_steps_that_overflow(
    in_fp16: RunConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a scale of FIRST the first steps overflow, and then one does not."""
    monkeypatch.setattr(LossScale, "FIRST", 2.0**22)
    config = replace(in_fp16, optim=replace(in_fp16.optim, ema_decay=0.9, max_steps=8))
    whole = train_run(config, World(), ranks.Recorder(run_folder))
    saved = {each.step: checkpoint.read(each.uri) for each in checkpoint.found_in(str(run_folder))}
    weights = [saved[step].model["head.0.weight"] for step in range(1, 9)]
    factors = [float(saved[step].loss_scale["factor"]) for step in range(1, 9)]
    num_skipped = int(np.log2(LossScale.FIRST / factors[-1]))
    assert 2 <= num_skipped <= 6
    assert all(torch.equal(weights[0], each) for each in weights[:num_skipped])
    assert not torch.equal(weights[0], weights[num_skipped])
    resumed = train_run(config, World(), ranks.Recorder(), resume=saved[num_skipped - 1])
    assert whole.update.averaged is not None and resumed.update.averaged is not None
    for ours, theirs in zip(
        resumed.update.averaged.module.parameters(), whole.update.averaged.module.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_two_ranks_learn_what_one_does(in_fp16: RunConfig) -> None:
    one, two = (ranks.train(in_fp16, num_ranks) for num_ranks in (1, 2))
    losses = [[metrics["train/loss"] for metrics in each.values() if "train/loss" in metrics] for each in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
