"""What holds for every network: shapes at any size, gradients, weights, precision, determinism."""

import itertools
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from distseg.config import ModelConfig, model_config, network_names
from distseg.deployment import exporting
from distseg.errors import DistsegError
from distseg.models import SegmentationModel, build_model
from distseg.models.networks import fcn

NUM_CLASSES = 7

VARIANTS = {
    "pspnet-18": model_config(backbone="resnet18"),
    "pspnet-50": model_config(backbone="resnet50"),
    "pspnet-18 se": model_config(backbone="resnet18", bins=(1, 2, 3, 4), se_ratio=16),
    "pspnet-18 max, not reduced": model_config(backbone="resnet18", pool="max", reduce=False),
    "pspnet-18 no pyramid": model_config(backbone="resnet18", bins=()),
    "pspnet-18 stride 4": model_config(backbone="resnet18", dilations=(2, 4, 8)),
    "pspnet-18 deep stem": model_config(backbone="resnet18", stem="deep", bins=(1,)),
    "fcn-8s vgg16": model_config("fcn", backbone="vgg16"),
    "fcn-32s vgg16_bn": model_config("fcn", backbone="vgg16_bn", fcn_stride=32),
    "fcn resnet18": model_config("fcn", backbone="resnet18"),
    "fcn_attention": model_config("fcn_attention", se_ratio=4, width=0.25),
    "fcn_attention plain": model_config("fcn_attention", width=0.25, skips=False, downsample="pool"),
    "enet": model_config("enet"),
    "unet": model_config("unet", width=0.25),
    "r2unet": model_config("r2unet", width=0.25),
    "deeplabv3plus-18": model_config("deeplabv3plus", backbone="resnet18", width=0.25),
    "segformer b0": model_config("segformer"),
    "pspnet timm": model_config(backbone="timm:resnet10t"),
    "fcn timm": model_config("fcn", backbone="timm:convnext_atto", dilations=(1, 1, 1)),
    "unet timm": model_config("unet", backbone="timm:mobilenetv3_small_050"),
}
for network in network_names():  # one that is added is tested with no edit here
    if network not in {config.name for config in VARIANTS.values()} and not model_config(network).is_style_network:
        VARIANTS[network] = model_config(network)
DEEP = ("resnet34", "resnet101", "resnet152")


@pytest.fixture(autouse=True)
def narrow_fc(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG16's fully connected layers have nine of ten of its weights, and nothing here asks for their number."""
    monkeypatch.setattr(fcn, "FC_CHANNELS", 128)


every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


def build(config: ModelConfig, seed: int = 0) -> SegmentationModel:
    torch.manual_seed(seed)
    return build_model(config, NUM_CLASSES)


def cells(num_pixels: int, stride: int) -> int:
    return -(-num_pixels // stride)


@every_variant
@torch.no_grad()
def test_any_size_and_one_image_in_eval_mode(config: ModelConfig) -> None:
    model = build(config).eval()
    for height, width in ((65, 97), (32, 33), (9, 28)):
        logits = model(torch.randn(1, 3, height, width))
        expected = (1, NUM_CLASSES, cells(height, model.output_stride), cells(width, model.output_stride))
        assert logits.main_BKhw.shape == expected
        assert logits.aux_BKhw is None
        assert logits.main_BKhw.isfinite().all()


@pytest.mark.parametrize("backbone", DEEP)
def test_deep_backbones_have_the_same_shapes(backbone: str) -> None:
    with torch.device("meta"):
        model = build_model(model_config(backbone=backbone), NUM_CLASSES)
        logits = model(torch.empty(2, 3, 65, 97))
    assert logits.main_BKhw.shape == (2, NUM_CLASSES, 9, 13)
    assert logits.aux_BKhw is not None and logits.aux_BKhw.shape == (2, NUM_CLASSES, 9, 13)


@every_variant
def test_gradients_reach_every_parameter(config: ModelConfig) -> None:
    model = build(config).train()
    for name, parameter in model.named_parameters():
        if not parameter.any() and name.endswith("weight"):
            nn.init.ones_(parameter)  # timm's last norm of a residual branch, before which nothing learns at first
    logits = model(torch.randn(2, 3, 49, 65))
    assert (logits.aux_BKhw is not None) == config.has_aux_head
    torch.stack([x.square().mean() for x in logits if x is not None]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_variant
@torch.no_grad()
def test_saved_weights_give_the_same_logits(config: ModelConfig, tmp_path: Path) -> None:
    trained, fresh = build(config, seed=0), build(config, seed=1).eval()
    trained(torch.randn(2, 3, 33, 33))  # moves the running statistics
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    images = torch.randn(1, 3, 33, 49)
    assert torch.equal(trained.eval()(images).main_BKhw, fresh(images).main_BKhw)


@every_variant
@torch.no_grad()
def test_bf16_and_channels_last_are_close_to_fp32(config: ModelConfig) -> None:
    model = build(config)
    images = torch.randn(2, 3, 49, 65)
    model(images)  # running statistics that fit the data
    model.eval()
    expected = model(images).main_BKhw
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images.contiguous(memory_format=torch.channels_last)).main_BKhw
    assert logits.dtype == torch.bfloat16
    # ENet rounds after each of 81 convolutions, and rounding can move a maximum, whose place its unpooling keeps.
    tolerance = 0.1 if config.name == "enet" else 0.05
    assert (logits - expected).norm() < tolerance * expected.norm()


EXPORTED = (("pspnet-18 se", "onnx"),)
EXPORTED_LONG = (
    *(
        (name, "onnx")
        for name in ("fcn resnet18", "fcn_attention", "unet", "r2unet", "deeplabv3plus-18", "segformer b0")
    ),
    *((name, "torch-export") for name in ("deeplabv3plus-18", "segformer b0")),
    *((name, "torch-export") for name in ("pspnet-18 se", "fcn resnet18", "fcn_attention", "enet", "unet", "r2unet")),
)


EXPORTED_NIGHTLY = (("enet", "onnx"), ("pspnet timm", "onnx"), ("unet timm", "onnx"))


@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        *EXPORTED,
        *(pytest.param(*each, marks=pytest.mark.long) for each in EXPORTED_LONG),
        *(pytest.param(*each, marks=[pytest.mark.long, pytest.mark.nightly]) for each in EXPORTED_NIGHTLY),
    ],
)
def test_exported_networks_give_the_same_logits_at_other_sizes(
    name: str, file_format: Literal["onnx", "torch-export"], tmp_path: Path
) -> None:
    model = build(VARIANTS[name])
    with torch.no_grad():
        model(torch.randn(2, 3, 65, 97))  # moves the running statistics
    deployed = exporting.Deployed(model.eval())
    write, load = exporting.FORMATS[file_format]
    with exporting.quiet_libraries():
        write(deployed, (96, 128), tmp_path / "model.pt2", {})
    assert exporting.largest_difference(deployed, load(tmp_path / "model.pt2"), (96, 128)) < 1e-5


@pytest.mark.parametrize("sick", [math.nan, math.inf])
def test_an_exported_network_that_gives_no_numbers_is_refused(
    sick: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = exporting.Deployed(build(VARIANTS["enet"]).eval())
    calls = itertools.count()

    def run(images: torch.Tensor) -> torch.Tensor:
        factor = sick if next(calls) == 1 else 1.0  # at one of the three sizes
        return torch.as_tensor(deployed(images) * factor)

    monkeypatch.setitem(exporting.FORMATS, "onnx", (lambda *_: None, lambda _: run))
    with pytest.raises(DistsegError, match=rf"differs from the checkpoint by {sick}.*nothing is written"):
        exporting.export_network(deployed.model, str(tmp_path / "out.onnx"), file_format="onnx", size=(64, 64))
    assert not (tmp_path / "out.onnx").exists()


@every_variant
def test_same_seed_same_step(config: ModelConfig) -> None:
    def loss_and_gradient() -> tuple[float, torch.Tensor]:
        model = build(config).train()
        torch.manual_seed(1)  # dropout
        loss = model(torch.ones(2, 3, 33, 33).cumsum(3)).main_BKhw.square().sum()
        loss.backward()
        gradient = next(model.parameters()).grad
        assert gradient is not None
        return loss.item(), gradient

    (loss, gradient), (again, gradient_again) = loss_and_gradient(), loss_and_gradient()
    assert loss == again
    assert torch.equal(gradient, gradient_again)


@every_variant
@torch.no_grad()
def test_images_of_a_batch_do_not_mix_in_eval_mode(config: ModelConfig) -> None:
    model = build(config).double().eval()
    images = torch.randn(2, 3, 33, 49, dtype=torch.float64)
    together = model(images).main_BKhw
    alone = torch.cat([model(image[None]).main_BKhw for image in images])
    torch.testing.assert_close(together, alone)
