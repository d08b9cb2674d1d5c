"""In a step on a GPU the host never waits for the device, whose kernels would then have to wait for the host.

There is no GPU here. The steps run on the meta device, whose tensors hold no values, so that whatever asks for a value
raises, be it in C++ (`item`, a boolean mask, `bincount`, `nonzero`). Copies between the host and that device are looked
at one by one.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.overrides import TorchFunctionMode

from distseg.config import AdaptConfig, LossConfig, Precision, RunConfig, model_config
from distseg.data.loading import Batch
from distseg.evaluation import World
from distseg.training import monitoring, optim, process, segmentation
from distseg.training.monitoring import LossMonitor
from distseg.training.segmentation import Segmentation
from tests.small_network import Small
from tests.unit.training.adaptation.test_self_training import ADAPT

DEVICE = torch.device("meta")
COPIES = (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu, torch.Tensor.copy_, torch.Tensor.type_as)
FROM_VALUES = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor, torch.from_numpy)


class WaitsError(AssertionError):
    pass


class NoWaitingCopies(TorchFunctionMode):
    """Raises WaitsError where a copy between host and device is not `non_blocking`, or is not from pinned memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            if func in COPIES:
                source = args[1] if func is torch.Tensor.copy_ else args[0]
                if source.device != result.device and not kwargs.get("non_blocking"):
                    raise WaitsError(f"{func.__name__} from {source.device} to {result.device}")
            given = args[-1] if args else None
            if func in FROM_VALUES and result.device == DEVICE and not isinstance(given, torch.Tensor):
                raise WaitsError(f"{func.__name__} of {given} on {DEVICE}")
        return result


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has no fused optimisers, autocast and copies to the host. Class weights come before a step."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(optim, "step_unless", lambda _, optimizer: optimizer.step())
    monkeypatch.setattr(optim, "AdamW", lambda groups, fused, **options: AdamW(groups, **options))
    monkeypatch.setattr(monitoring, "HostCopy", lambda tensor: tensor)
    monkeypatch.setattr(segmentation, "class_weights", lambda class_pixels, _: torch.ones(len(class_pixels)))


def batch(num_images: int) -> Batch:
    images_B3HW = torch.zeros(num_images, 3, 64, 96, dtype=torch.uint8)
    labels_BHW = torch.zeros(num_images, 64, 96, dtype=torch.uint8)
    return Batch(images_B3HW, labels_BHW, ("key",) * num_images, tuple(range(num_images)), 0)


EVERY_LOSS = LossConfig(class_weights="inverse_sqrt", ohem_threshold=0.7, dice_weight=0.5, lovasz_weight=0.5)


def config_of(base: RunConfig, **changes: Any) -> RunConfig:
    optim = replace(base.optim, name="adamw", clip_norm=1.0, ema_decay=0.9, accumulate_steps=2)
    return replace(base, optim=optim, **changes)


def steps(training: Segmentation, micro_batches: Callable[[], list[Batch]], *, num_before: int = 1) -> None:
    """Two, after as many in which the host may look."""
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(num_before):
        training.optimizer.step()  # before its first step the host looks once
    monitor = LossMonitor(training.world)
    with NoWaitingCopies():
        for step in range(2):
            with process.step_kernels(training.precision, DEVICE):
                losses = training.train_step(micro_batches(), step)
            monitor.pending = None  # what the host would look at when the next step has been queued
            monitor.add(step, losses, training.update.size, [])


@pytest.mark.parametrize(
    ("network", "loss", "precision"),
    [
        (model_config(backbone="resnet18", checkpointing=True), EVERY_LOSS, "fp32"),
        (model_config("enet"), LossConfig(aux_weight=0.0), "fp16"),
        (Small(dropout=0.3), LossConfig(aux_weight=0.0), "fp32"),
    ],
    ids=["pspnet", "enet", "without batch norm"],
)
def test_no_step_waits_for_the_device(
    without_kernels: None, light_config: RunConfig, network: Any, loss: LossConfig, precision: Precision
) -> None:
    config = config_of(light_config, model=network, loss=loss, precision=precision)
    steps(Segmentation(config, World(device=DEVICE)), lambda: [batch(2), batch(2)])


@pytest.mark.parametrize(
    "adapt", [ADAPT, replace(ADAPT, mix=False, teacher_statistics="running")], ids=["mix", "whole"]
)
def test_nor_does_one_of_self_training(without_kernels: None, light_config: RunConfig, adapt: AdaptConfig) -> None:
    data = replace(light_config.data, train_conditions=("dawn",), val_conditions=("fog",), crop_px=(64, 96))
    config = config_of(replace(light_config, data=data), adapt=replace(adapt, start_step=0), precision="fp32")
    training = Segmentation(config, World(device=DEVICE))
    with training.open_readers(0):
        steps(training, lambda: [batch(2), batch(2)])


def test_nor_does_one_without_momentum(
    without_kernels: None, light_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "SGD", lambda groups, fused, **options: SGD(groups, **options))
    config = replace(light_config, optim=replace(light_config.optim, momentum=0.0), precision="fp32")
    steps(Segmentation(config, World(device=DEVICE)), lambda: [batch(4)], num_before=0)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.long().bincount(),
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: x.new_tensor(1.0),
        lambda x: torch.tensor([1.0], device=x.device),
    ],
    ids=range(10),
)
def test_what_waits_is_seen(wait: Callable[[torch.Tensor], object]) -> None:
    x = torch.zeros(3, device=DEVICE)
    with NoWaitingCopies(), pytest.raises((WaitsError, RuntimeError)):
        wait(x)
