"""Gradient checkpointing: the step is the same to the bit, and keeps less."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from distseg.config import ModelConfig, RunConfig, model_config
from distseg.errors import ConfigError
from distseg.models import Blocks, SegmentationModel, build_model, drop_by_sample

NETWORKS = [
    model_config(backbone="resnet18", width=0.25, dropout=0.5),
    model_config(backbone="resnet50", width=0.25, bins=(2,), dropout=0.5),
    model_config("fcn", backbone="resnet18"),
    model_config("enet", dropout=0.3),
    model_config("unet", width=1 / 16),
    model_config("r2unet", width=1 / 16),
    model_config("fcn_attention", width=1 / 16, se_ratio=4),
    model_config("segformer", drop_path=0.5),
]


def built(config: ModelConfig, *, checkpointing: bool) -> SegmentationModel:
    torch.manual_seed(0)
    model = build_model(replace(config, checkpointing=checkpointing), 4).double()
    drop_by_sample(model, 5).begin((7, 8), torch.device("cpu"))
    return model


def step(model: SegmentationModel) -> dict[str, Tensor]:
    """Loss, gradients and buffers of a step, in float64."""
    images_B3HW = torch.randn(2, 3, 48, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = sum((part.square().mean() for part in model(images_B3HW) if part is not None), torch.zeros(()))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: f"{config.name} {config.known_backbone or ''}".strip())
def test_loss_gradients_and_statistics_are_the_same_bits(config: ModelConfig) -> None:
    """Under dropout, whose masks must come again, and batch norm, whose statistics must not be updated again."""
    plain, checkpointed = (step(built(config, checkpointing=flag)) for flag in (False, True))
    assert plain.keys() == checkpointed.keys()
    assert [name for name in plain if not torch.equal(plain[name], checkpointed[name])] == []
    assert all(value == 1 for name, value in checkpointed.items() if name.endswith("num_batches_tracked")) or (
        config.name == "r2unet"  # applies the same batch norm several times
    )


def test_a_second_step_begins_where_the_first_one_ended() -> None:
    """Nothing of the second computation stays: neither the masks' count nor that statistics are not tracked."""
    models = [built(NETWORKS[3], checkpointing=flag) for flag in (False, True)]
    for _ in range(2):
        plain, checkpointed = map(step, models)
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_batch_norm_of_several_gpus_too() -> None:
    """nn.SyncBatchNorm, which is plain batch norm on the one CPU here: the exchange needs GPUs."""
    models = [nn.SyncBatchNorm.convert_sync_batchnorm(built(NETWORKS[0], checkpointing=flag)) for flag in (False, True)]
    plain, checkpointed = map(step, models)
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_what_a_users_own_block_draws_is_drawn_again() -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rand_like(x)

    gradients = []
    for flag in (False, True):
        blocks = Blocks(Drawing(), Drawing())
        blocks.is_checkpointed = flag
        torch.manual_seed(0)
        x = torch.ones(100, requires_grad=True)
        blocks(x).sum().backward()
        gradients.append(x.grad)
    assert gradients[0] is not None and gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])


def kept_bytes(model: SegmentationModel) -> int:
    """Of what the forward pass keeps for the backward pass, the inputs of checkpointed blocks included."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # so that no two have the same address
        return tensor

    alive: list[Tensor] = []
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for blocks in (module for module in model.modules() if isinstance(module, Blocks)):
        for block in blocks:
            block.register_forward_pre_hook(lambda _, inputs: (keep(inputs[0]), None)[1])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(2, 3, 48, 64, dtype=torch.float64))
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("config", [NETWORKS[1], NETWORKS[3]], ids=["pspnet resnet50", "enet"])
def test_less_than_half_is_kept(config: ModelConfig) -> None:
    plain, checkpointed = (kept_bytes(built(config, checkpointing=flag)) for flag in (False, True))
    assert checkpointed < plain / 2


def test_evaluation_computes_once() -> None:
    model = built(NETWORKS[0], checkpointing=True).eval()
    calls = []
    model.backbone.get_submodule("layer1.0").register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    assert calls == [1]


def test_where_it_cannot_be_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.checkpointing = True: FCN has no distseg.models.Blocks; leave it out"):
        build_model(model_config("fcn", backbone="vgg16", checkpointing=True), 3)
    with pytest.raises(ConfigError, match=r"model.checkpointing = True: adain has no blocks; leave it out"):
        model_config("adain", checkpointing=True)
    with pytest.raises(ConfigError, match=r"model.checkpointing = True: does not go with compile = True"):
        RunConfig(model=model_config(checkpointing=True), compile=True)
