"""The learning rate by hand, the two groups, and optimisers that restore exactly."""

import copy
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distseg.config import OptimConfig, model_config
from distseg.models import SegmentationModel, build_model
from distseg.training.checkpoint import restore_states
from distseg.training.optim import MovingAverage, build_optimizer, ema_decay, learning_rate, set_learning_rate


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return build_model(model_config(backbone="resnet18", bins=(2,)), 3)


def test_poly_by_hand() -> None:
    config = OptimConfig(lr=0.01, poly_power=0.9, max_steps=100)
    assert learning_rate(0, config) == 0.01
    assert learning_rate(50, config) == pytest.approx(0.01 * 0.5**0.9)
    assert learning_rate(99, config) == pytest.approx(0.01 * 0.01**0.9)
    assert learning_rate(100, config) == 0
    assert learning_rate(1000, config) == 0


def test_cosine_by_hand() -> None:
    config = OptimConfig(lr=0.01, schedule="cosine", max_steps=100)
    assert [learning_rate(step, config) for step in (0, 50, 100)] == pytest.approx([0.01, 0.005, 0])
    assert learning_rate(25, config) == pytest.approx(0.01 * (1 + 2**-0.5) / 2)


def test_warm_up_by_hand() -> None:
    config = OptimConfig(lr=1.0, poly_power=1.0, max_steps=100, warmup_steps=4)
    rates = [learning_rate(step, config) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5 * 0.99, 0.75 * 0.98, 0.97, 0.96, 0.95])


def test_constant_rate_with_power_0() -> None:
    config = OptimConfig(lr=0.5, poly_power=0.0, max_steps=10)
    assert [learning_rate(step, config) for step in (0, 9)] == [0.5, 0.5]


@given(max_steps=st.integers(1, 10**6), power=st.floats(0, 5), data=st.data())
def test_rate_stays_between_0_and_lr(max_steps: int, power: float, data: st.DataObject) -> None:
    warmup_steps = data.draw(st.integers(0, max_steps - 1))
    schedule: Literal["poly", "cosine"] = data.draw(st.sampled_from(("poly", "cosine")))
    config = OptimConfig(lr=0.01, schedule=schedule, max_steps=max_steps, poly_power=power, warmup_steps=warmup_steps)
    step = data.draw(st.integers(0, max_steps + 2))
    assert 0 <= learning_rate(step, config) <= 0.01
    if step >= warmup_steps:
        assert learning_rate(step + 1, config) <= learning_rate(step, config)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups(model: SegmentationModel, name: str) -> None:
    config = OptimConfig(name=name, lr=0.01, head_lr_scale=10, weight_decay=1e-4)  # type: ignore[arg-type]
    optimizer = build_optimizer(model, config)
    backbone, head = optimizer.param_groups
    assert (backbone["name"], head["name"]) == ("backbone", "head")
    assert (backbone["lr"], head["lr"]) == (0.01, pytest.approx(0.1))
    assert {group["weight_decay"] for group in (backbone, head)} == {1e-4}, "batch norm decays, too"
    assert sum(len(group["params"]) for group in (backbone, head)) == len(list(model.parameters()))
    set_learning_rate(optimizer, 0.002, config)
    assert (backbone["lr"], head["lr"]) == (0.002, pytest.approx(0.02))


def test_batch_norm_and_biases_without_decay(model: SegmentationModel) -> None:
    config = OptimConfig(lr=0.01, head_lr_scale=10, weight_decay=1e-4, decay_norm_and_bias=False)
    groups = build_optimizer(model, config).param_groups
    assert [group["name"] for group in groups] == ["backbone", "backbone without decay", "head", "head without decay"]
    assert [group["weight_decay"] for group in groups] == [1e-4, 0, 1e-4, 0]
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.01, 0.1, 0.1])
    assert all((p.ndim > 1) == (group["weight_decay"] > 0) for group in groups for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_momentum_is_beta1_of_adamw(model: SegmentationModel) -> None:
    assert build_optimizer(model, OptimConfig(momentum=0.8)).param_groups[0]["momentum"] == 0.8
    assert build_optimizer(model, OptimConfig(name="adamw", momentum=0.8)).param_groups[0]["betas"] == (0.8, 0.999)


def test_first_sgd_step_by_hand() -> None:
    torch.manual_seed(0)
    model = build_model(model_config(backbone="resnet18", bins=(2,)), 3)
    config = OptimConfig(lr=0.01, head_lr_scale=10, weight_decay=0.5)
    optimizer = build_optimizer(model, config)
    (scale, *_), (weight, *_) = (group["params"] for group in optimizer.param_groups)
    before = scale.detach().clone(), weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(scale.detach(), before[0] - 0.01 * (1 + 0.5 * before[0]))
    torch.testing.assert_close(weight.detach(), before[1] - 0.1 * (1 + 0.5 * before[1]))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_three_steps_are_those_of_torchs_own_class(name: Literal["sgd", "adamw"]) -> None:
    torch.manual_seed(0)
    ours = build_model(model_config(backbone="resnet18", bins=(2,)), 3)
    theirs = copy.deepcopy(ours)
    optimizer = build_optimizer(ours, OptimConfig(name=name, lr=0.1))
    torchs: Any = type(optimizer).__bases__[0]
    assert torchs in (torch.optim.SGD, torch.optim.AdamW)
    twins = dict(zip(ours.parameters(), theirs.parameters(), strict=True))
    groups = [{**group, "params": [twins[each] for each in group["params"]]} for group in optimizer.param_groups]
    peer = torchs(groups)
    for _ in range(3):
        for mine, other in twins.items():
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        optimizer.step()
        peer.step()
    assert all(torch.equal(mine, other) for mine, other in twins.items())
    peer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
    assert all(mine.grad is None for mine in twins)


STEP = """
import sys, torch
from distseg.config import OptimConfig, model_config
from distseg.models import build_model
from distseg.training.optim import build_optimizer
model = build_model(model_config(backbone="resnet18", bins=(2,)), 3).train()
optimizer = build_optimizer(model, OptimConfig(name=sys.argv[1]))
model(torch.zeros(2, 3, 64, 64)).main_BKhw.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_does_not_import_the_compiler(name: str) -> None:
    subprocess.run([sys.executable, "-c", STEP, name], check=True)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gradients_of_another_memory_format_belong_to_the_same_elements(name: str) -> None:
    torch.manual_seed(0)
    models = [build_model(model_config(backbone="resnet18", bins=(2,)), 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].to(memory_format=torch.channels_last)
    optimizers = [build_optimizer(model, OptimConfig(name=name, lr=0.01)) for model in models]  # type: ignore[arg-type]
    for _ in range(2):
        for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
            ours.grad = torch.randn(ours.shape)
            theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert theirs.grad is not None and theirs.grad.shape == theirs.shape
        assert theirs.ndim < 4 or theirs.is_contiguous(memory_format=torch.channels_last)


def test_a_step_that_fails_is_undone_by_the_next(model: SegmentationModel) -> None:
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, OptimConfig(name="adamw"))
    shapes = [parameter.shape for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.param_groups[0]["betas"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    optimizer.step()
    assert [parameter.shape for parameter in model.parameters()] == shapes


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_restored_optimiser_goes_on_exactly_whatever_the_memory_format(name: str) -> None:
    """Contiguous state beside channels_last weights, as after loading a checkpoint on another kind of machine."""
    config = OptimConfig(name=name, lr=0.01)  # type: ignore[arg-type]

    def step(model: SegmentationModel, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step()

    def strides(tensor: torch.Tensor) -> list[int]:
        return [stride for stride, length in zip(tensor.stride(), tensor.shape, strict=True) if length > 1]

    torch.manual_seed(0)
    model = build_model(model_config(backbone="resnet18", bins=(2,)), 3)
    optimizer = build_optimizer(model, config)
    step(model, optimizer, 1)
    restored = build_model(model_config(backbone="resnet18", bins=(2,)), 3)
    restored.load_state_dict(model.state_dict())
    restored.to(memory_format=torch.channels_last)
    restored_optimizer = build_optimizer(restored, config)
    restored_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter, state in restored_optimizer.state.items():  # a GPU's kernels take no other layout
        assert all(strides(value) == strides(parameter) for value in state.values() if value.ndim == 4)
    step(model, optimizer, 2)
    step(restored, restored_optimizer, 2)
    for ours, theirs in zip(restored.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_is_restored_is_the_state_not_what_the_configuration_says(model: SegmentationModel) -> None:
    """A population goes on from another trial's checkpoint with values of its own."""
    theirs = build_optimizer(model, OptimConfig(momentum=0.5, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    theirs.step()
    saved = SimpleNamespace(step=1, model=model.state_dict(), optimizer=copy.deepcopy(theirs.state_dict()))
    for group in saved.optimizer["param_groups"]:
        group["fused"] = None  # as on a GPU
    ours = build_optimizer(model, OptimConfig(momentum=0.9, weight_decay=0.1))
    restore_states(model, ours, saved)  # type: ignore[arg-type]
    assert {(group["momentum"], group["weight_decay"], group["fused"]) for group in ours.param_groups} == {
        (0.9, 0.1, True)
    }
    for parameter in model.parameters():
        assert torch.equal(ours.state[parameter]["momentum_buffer"], theirs.state[parameter]["momentum_buffer"])


def test_the_moving_average_forgets_its_beginning_sooner_than_its_end() -> None:
    assert [ema_decay(n, 0.99) for n in (0, 8, 90)] == pytest.approx([0.1, 0.5, 0.91])
    assert ema_decay(10_000, 0.99) == 0.99


def test_the_moving_average_is_that_of_torch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ours = MovingAverage(model, 0.9)
    decays = iter([ema_decay(n, 0.9) for n in range(1, 9)])
    theirs = AveragedModel(model, use_buffers=True, multi_avg_fn=lambda a, b, n: get_ema_multi_avg_fn(decay)(a, b, n))
    for _ in range(8):
        decay = next(decays) if ours.num_averaged else 0.0
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.data.add_(torch.randn_like(tensor))
        ours.update(model)
        theirs.update_parameters(model)
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(ours.module.state_dict()[name], value), name
    assert all(not torch.equal(a, b) for a, b in zip(ours.module.parameters(), model.parameters(), strict=True))
