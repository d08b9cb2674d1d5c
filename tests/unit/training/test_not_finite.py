"""What is not finite stops a training and reaches neither weights nor checkpoints; in old checkpoints it is refused."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from distseg.config import CheckpointConfig, OptimConfig, RunConfig
from distseg.errors import CheckpointError, TrainingError
from distseg.evaluation import World
from distseg.training import checkpoint
from distseg.training.checkpoint import first_not_finite
from distseg.training.losses import LossBatch
from distseg.training.optim import Update, build_optimizer, moving_average, step_unless
from distseg.training.trainer import train_run
from tests import ranks
from tests.small_network import Small
from tests.unit.training.test_checkpoint import saved

POISON = f"{__name__}:poison"
POISONED = 3  # the step, on the last rank only
_calls = 0


def poison(batch: LossBatch) -> Tensor:
    """0, but in one step its gradient is infinite: that of a root at 0."""
    global _calls
    _calls += 1
    mean = batch.log_p_BKHW.mean()
    zero = mean - mean.detach()
    is_last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
    return zero.sqrt() if _calls == POISONED and is_last else zero * 0


@pytest.fixture(autouse=True)
def calls_from_0() -> Iterator[None]:
    global _calls
    _calls = 0
    yield


def without_poison() -> None:
    global _calls
    _calls = POISONED


@pytest.fixture
def poisoned(small_config: RunConfig) -> RunConfig:
    config = replace(small_config, model=Small(has_norm=True), checkpoint=CheckpointConfig(every_steps=1))
    config = replace(config, loss=replace(config.loss, terms=(POISON,)))
    return replace(config, optim=replace(config.optim, max_steps=5, momentum=0.9, ema_decay=0.9))


def check_kept(folder: Path, step: int) -> checkpoint.Checkpoint:
    """The newest checkpoint is of that step, and all of it is finite."""
    found = checkpoint.newest(str(folder))
    assert found is not None and found[1].step == step
    assert len(checkpoint.found_in(str(folder))) == step
    return found[1]


def test_a_gradient_that_is_not_finite_leaves_a_checkpoint_to_go_on_from(poisoned: RunConfig, run_folder: Path) -> None:
    message = (
        r"the gradient of the loss of step 3 is (nan|inf) on train/\S+tar/.*, the loss \d\.\d+; the last checkpoint"
    )
    with pytest.raises(TrainingError, match=message):
        train_run(poisoned, World(), ranks.Recorder(run_folder))
    kept = check_kept(run_folder, 2)
    resumed = ranks.Recorder(run_folder)
    train_run(poisoned, World(), resumed, resume=kept)
    without_poison()
    undisturbed = ranks.Recorder()
    train_run(poisoned, World(), undisturbed)
    assert resumed.losses() == pytest.approx(undisturbed.losses()[2:], rel=1e-12)


def test_all_ranks_stop_if_the_gradient_of_one_is_not_finite(poisoned: RunConfig, run_folder: Path) -> None:
    with pytest.raises(ProcessRaisedException, match=r"the gradient of the loss of step 3 is (nan|inf)"):
        ranks.train(poisoned, 2, folder=run_folder)
    kept = check_kept(run_folder, 2)
    without_poison()
    undisturbed, resumed = ranks.Recorder(), ranks.Recorder()
    train_run(poisoned, World(), undisturbed)
    train_run(poisoned, World(), resumed, resume=kept)
    assert (torch.tensor(resumed.losses()) - torch.tensor(undisturbed.losses()[2:])).abs().max() < 1e-8


def test_accumulated_gradients_are_looked_at_together(poisoned: RunConfig, run_folder: Path) -> None:
    config = replace(poisoned, optim=replace(poisoned.optim, accumulate_steps=2, clip_norm=1.0))
    with pytest.raises(
        TrainingError, match=r"the gradient of the loss of step 2 is (nan|inf)"
    ):  # of its first micro-batch
        train_run(config, World(), ranks.Recorder(run_folder))
    check_kept(run_folder, 1)


def test_weights_that_became_infinite_by_a_finite_gradient_are_not_saved(
    small_config: RunConfig, run_folder: Path
) -> None:
    config = replace(small_config, optim=replace(small_config.optim, lr=1e39), precision="fp32")
    config = replace(config, checkpoint=CheckpointConfig(every_steps=1))
    with pytest.raises(TrainingError, match=r"model/\S+ after the loss of step 1 is (nan|inf) on train/\S+tar/.*lr"):
        train_run(config, World(), ranks.Recorder(run_folder))
    assert not run_folder.exists()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y.square().mean()

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        return list(self.conv.parameters()), list(self.norm.parameters())


def updated(name: str) -> tuple[Net, Update]:
    """After one good step, with the gradient of a second."""
    net = Net()
    optimizer = build_optimizer(net, OptimConfig(name=name, max_steps=9))  # type: ignore[arg-type]
    update = Update(net, optimizer, clip_norm=0.1, averaged=moving_average(net, 0.9))
    for _ in range(2):
        if update.optimizer.state:
            optimizer.zero_grad()
        net(torch.randn(2, 3, 8, 8)).backward()
        if not update.optimizer.state:
            update.apply()
    return net, update


def copied(update: Update) -> dict[str, Any]:
    return copy.deepcopy(checkpoint.to_cpu(update.states()))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_is_changed_by_a_gradient_that_is_not_finite(name: str, value: float) -> None:
    net, update = updated(name)
    before = copied(update)
    assert net.conv.weight.grad is not None
    net.conv.weight.grad[1, 2, 0, 1] = value
    update.apply()
    assert not update.size.isfinite() and same(copied(update), before)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    update.apply()
    assert update.size.isfinite() and not same(copied(update), before)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_nothing_is_changed_when_batch_norms_statistics_are_not_finite(name: str) -> None:
    net, update = updated(name)
    assert net.norm.running_var is not None
    net.norm.running_var[2] = float("inf")
    before = copied(update)
    update.apply()
    assert not update.size.isfinite() and same(copied(update), before)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_is_left_out_without_asking_the_host(name: str) -> None:
    """As on GPUs: the kernels of the optimiser look at the flag."""
    net, update = updated(name)
    _, expected = updated(name)
    before = copied(update)
    assert net.conv.bias is not None and net.conv.bias.grad is not None
    good = net.conv.bias.grad.clone()
    net.conv.bias.grad.fill_(float("nan"))
    step_unless(torch.tensor(True), update.optimizer)
    assert same(copied(update), before)
    net.conv.bias.grad.copy_(good)
    step_unless(torch.tensor(False), update.optimizer)
    expected.optimizer.step()
    assert same(copied(update), copied(expected))


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    state: dict[str, Any] = {
        "model": {"a": torch.ones(2), "n": torch.tensor(3)},
        "optimizer": {"state": {0: {"m": torch.ones(2)}}},
    }
    assert first_not_finite(state) is None
    state["optimizer"]["state"][0]["m"][1] = float("inf")
    assert first_not_finite(state) == ("optimizer/state/0/m", float("inf"))
    state["model"]["a"][0] = float("nan")
    found = first_not_finite(state)
    assert found is not None and found.name == "model/a" and math.isnan(found.value)
    huge = torch.full((9,), torch.finfo(torch.float32).max)
    assert not huge.sum().isfinite() and first_not_finite({"huge": huge, "negative": -huge}) is None
    assert first_not_finite({"empty": torch.zeros(0), "half": torch.ones(3).half()}) is None


NAN = torch.tensor([1.0, float("nan")])


def make_old(folder: Path) -> None:
    """Early versions did not say in the META_FILE whether the weights are finite."""
    meta = json.loads((folder / checkpoint.META_FILE).read_text())
    del meta["not_finite"]
    (folder / checkpoint.META_FILE).write_text(json.dumps(meta))


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", {"weight": NAN}),
        ("averaged", {"weight": torch.ones(2), "running_mean": NAN}),
        ("optimizer", {"state": {0: {"momentum_buffer": NAN}}, "param_groups": []}),
    ],
)
def test_a_checkpoint_that_is_not_finite_is_refused_by_name_and_the_one_before_is_used(
    tmp_path: Path, field: str, value: Any, is_old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    good = saved(tmp_path, 1)
    bad = saved(tmp_path, 2, **{field: value})
    if is_old:
        make_old(bad)
    refused = rf"{bad}: {field}/\S+ holds values that are not finite; use an earlier checkpoint"
    with pytest.raises(CheckpointError, match=refused):
        checkpoint.read(str(bad))
    newest, point = checkpoint.newest(str(tmp_path)), checkpoint.resume_point(str(tmp_path))
    assert newest is not None and point is not None
    assert (newest[0], point.uri, point.step) == (str(good), str(good), 1)
    assert f"passed over: {bad}: {field}/" in caplog.text
    checkpoint.quarantine(str(tmp_path), after_step=1)
    assert [found.uri for found in checkpoint.found_in(str(tmp_path))] == [str(good)]
