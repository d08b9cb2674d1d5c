"""Synchronised batch norm of two gloo ranks against plain batch norm over the concatenated batch.

The ranks run once for the whole module: each computes every case on its share and writes the results down; the tests
compare them with one process that has the whole batch.
"""

import copy
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distseg.config import LossConfig, OptimConfig, model_config
from distseg.models import build_model
from distseg.training.batchnorm import SyncBatchNorm2d, synchronise
from distseg.training.losses import SegmentationLoss, valid_weight
from distseg.training.optim import build_optimizer
from tests.ranks import start_ranks

Results = dict[str, dict[str, Tensor]]

WORLD = 2


@dataclass(frozen=True)
class Case:
    """One training pass through a batch norm of `channels`; `images` of each rank."""

    dtype: torch.dtype
    channels: int = 5
    images: tuple[int, int] = (2, 2)
    size: tuple[int, int] = (7, 9)
    channels_last: bool = False
    offset: float = 0.0

    def module(self) -> nn.BatchNorm2d:
        module = nn.BatchNorm2d(self.channels, dtype=torch.promote_types(self.dtype, torch.float32))
        generator = torch.Generator().manual_seed(1)
        for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
            assert tensor is not None
            tensor.data.copy_(torch.rand(self.channels, generator=generator) + 0.5)
        return module

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(x, dy) of the whole batch; the ranks' shares have different means."""
        generator = torch.Generator().manual_seed(0)
        shape = (sum(self.images), self.channels, *self.size)
        x, dy = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        x[self.images[0] :] = 3 * x[self.images[0] :] + 1
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        x, dy = (t.to(self.dtype).contiguous(memory_format=layout) for t in (x + self.offset, dy))
        return x, dy

    def share(self, rank: int) -> slice:
        return slice(0, self.images[0]) if rank == 0 else slice(self.images[0], None)


CASES = {
    "fp64": Case(torch.float64),
    "fp64 channels_last": Case(torch.float64, channels=32, channels_last=True),
    "fp64 unequal shares": Case(torch.float64, images=(1, 3)),
    "fp64 one value per rank": Case(torch.float64, images=(1, 1), size=(1, 1)),
    "fp64 far from zero": Case(torch.float64, offset=1e6),
    "fp32": Case(torch.float32, channels=32, channels_last=True),
    "fp32 far from zero": Case(torch.float32, channels=32, channels_last=True, offset=1e3),
    "bf16": Case(torch.bfloat16, channels=32, channels_last=True),
    "bf16 contiguous": Case(torch.bfloat16, channels=32, images=(1, 3)),
}


def run(module: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """One training pass, then one in eval mode."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    y.backward(dy)
    assert x.grad is not None
    result = {"y": y.detach(), "dx": x.grad}
    result |= {f"d{name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    result |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    return result | {"y_eval": module.eval()(x).detach()}


MODEL = model_config(backbone="resnet18", dropout=0.0)


def train_steps(rank: int, world: int, num_steps: int = 2) -> dict[str, Tensor]:
    """PSPNet-18 in fp64 on this rank's share of a batch of 4, with a 1x1 bin."""
    torch.manual_seed(0)
    model = build_model(MODEL, 3).double()
    model = synchronise(model)  # type: ignore[assignment]
    config = OptimConfig(lr=0.01, max_steps=10)
    optimizer = build_optimizer(model, config)
    trained: nn.Module = DistributedDataParallel(model) if world > 1 else model
    images = torch.randn(4, 3, 33, 33, dtype=torch.float64)
    labels = torch.randint(3, (4, 33, 33))
    labels[0, :20] = 255
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    loss, losses = SegmentationLoss(LossConfig()), []
    for _ in range(num_steps):
        parts = loss(
            trained(images[share]),
            labels[share],
            normaliser=valid_weight(labels),
        )
        (parts.total * world).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(parts.total.detach())
    weights = {name: value.double() for name, value in model.state_dict().items()}
    return {"losses": torch.stack(losses), **weights}


def rank_main(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    results: Results = {}
    for name, case in CASES.items():
        x, dy = (t[case.share(rank)] for t in case.tensors())
        module = synchronise(case.module())
        assert type(module) is SyncBatchNorm2d
        results[name] = run(module, x, dy)
    results["training"] = train_steps(rank, WORLD)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    start_ranks(rank_main, (port, str(folder)), WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def together(ranks: list[Results], name: str) -> dict[str, Tensor]:
    """What the ranks computed, as one process would: samples concatenated, gradients of parameters added."""
    first, second = (results[name] for results in ranks)
    whole = {key: torch.cat([first[key], second[key]]) for key in ("y", "dx", "y_eval")}
    whole |= {key: first[key] + second[key] for key in ("dweight", "dbias")}
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[key], second[key]), "ranks must hold the same bits"
        whole[key] = first[key]
    return whole


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("fp64")])
def test_exact_in_fp64(ranks: list[Results], name: str) -> None:
    case = CASES[name]
    expected = run(case.module(), *case.tensors())
    # Far from zero the data themselves lose digits: 1e6 + 1 keeps 10 of them.
    tolerance = 1e-10 if case.offset == 0 else 1e-8
    for key, value in together(ranks, name).items():
        assert torch.allclose(value, expected[key], rtol=tolerance, atol=tolerance), key


@pytest.mark.parametrize("name", ["fp32", "bf16", "bf16 contiguous"])
def test_as_good_as_plain_in_lower_precision(ranks: list[Results], name: str) -> None:
    """Errors against float64 are a few times the plain one's at most, or a unit in the last place of the values."""
    case = CASES[name]
    x, dy = case.tensors()
    exact = run(case.module().double(), x.double(), dy.double())
    plain = run(case.module(), x, dy)
    for key, value in together(ranks, name).items():
        assert value.dtype == plain[key].dtype, key
        unit = torch.finfo(plain[key].dtype).eps if plain[key].is_floating_point() else 0
        largest = exact[key].double().abs().max()
        ours, theirs = ((v.double() - exact[key].double()).abs().max() for v in (value, plain[key]))
        assert ours <= 4 * theirs + 2 * unit * largest, f"{key}: off by {ours}, the plain one by {theirs}"


def test_means_far_from_zero_cost_little_precision_in_fp32(ranks: list[Results]) -> None:
    """Mean 1000, deviation 2: sums of squares in fp32 would leave no digit of the variance."""
    case = CASES["fp32 far from zero"]
    x, dy = case.tensors()
    exact = run(case.module().double(), x.double(), dy.double())
    value = together(ranks, "fp32 far from zero")
    torch.testing.assert_close(value["running_mean"].double(), exact["running_mean"], rtol=1e-6, atol=0)
    # The ranks' means, rounded to fp32, are some 1e-4 off.
    torch.testing.assert_close(value["running_var"].double(), exact["running_var"], rtol=1e-4, atol=0)
    torch.testing.assert_close(value["y"].double(), exact["y"], rtol=0, atol=1e-3)
    torch.testing.assert_close(value["dx"].double(), exact["dx"], rtol=0, atol=1e-3)


def test_one_training_for_one_and_two_ranks(ranks: list[Results]) -> None:
    alone = train_steps(0, 1)
    first, second = (results["training"] for results in ranks)
    torch.testing.assert_close(first["losses"] + second["losses"], alone["losses"], rtol=1e-10, atol=1e-10)
    for name, value in alone.items():
        if name != "losses":
            assert torch.allclose(first[name], value, rtol=1e-8, atol=1e-8), name
            assert torch.equal(first[name], second[name]), name


def test_keys_and_parameters_are_those_of_the_plain_one() -> None:
    plain = nn.BatchNorm2d(4)
    state: dict[str, Any] = copy.deepcopy(plain.state_dict())
    synchronised = SyncBatchNorm2d(plain, None)
    assert list(synchronised.state_dict()) == list(state)
    assert synchronised.weight is plain.weight
    assert not any(tensor.is_meta for tensor in synchronised.state_dict().values())
    synchronised.load_state_dict(state)
    assert SyncBatchNorm2d(nn.BatchNorm2d(4).eval(), None).training is False


def test_eval_mode_needs_no_other_rank() -> None:
    module = SyncBatchNorm2d(nn.BatchNorm2d(4).eval(), None)
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(module(x), nn.BatchNorm2d(4).eval()(x))


def test_a_world_of_one_stays_plain_and_refuses_one_value_per_channel() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4))
    assert synchronise(model) is model
    assert type(model[0]) is nn.BatchNorm2d
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.zeros(1, 4, 1, 1))


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_other_kinds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs affine=True, track_running_stats=True and a momentum"):
        SyncBatchNorm2d(nn.BatchNorm2d(4, **options), None)
