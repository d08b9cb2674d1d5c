"""Encoders of timm: their weights, what is exchanged in them, and what is refused."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from distseg.config import ModelConfig, model_config
from distseg.errors import CheckpointError, ConfigError
from distseg.models import build_model, imagenet_state
from distseg.models.layers import StochasticDepth
from distseg.models.timm_encoders import TimmEncoder, _take_apart
from distseg.training.pretrained import load_pretrained, load_pretrained_
from tests.unit.training.test_pretrained import ROADS

SMALL = "timm:mobilenetv3_small_050"
PSPNET = model_config(backbone=SMALL, dilations=(1, 1, 1))


def trained(name: str) -> nn.Module:
    """timm's network, its classifier included, with statistics as of a training."""
    torch.manual_seed(0)
    net: nn.Module = timm.create_model(name.removeprefix("timm:"))
    with torch.no_grad():
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    return net.eval()


def loaded(config: ModelConfig, state: dict[str, Tensor]) -> TimmEncoder:
    encoder = build_model(config, 3, weights=state).eval().backbone
    assert isinstance(encoder, TimmEncoder)
    return encoder


@torch.no_grad()
def test_with_timms_weights_it_gives_timms_maps() -> None:
    net = trained(SMALL)
    images = torch.randn(1, 3, 64, 96)
    theirs = net.forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]
    ours = loaded(PSPNET, net.state_dict())
    assert ours.strides_px == (4, 8, 16, 32) and ours.fused
    for expected, found in zip(theirs[-4:], ours(images), strict=True):
        torch.testing.assert_close(found, expected)
    all_of_them = loaded(model_config("unet", backbone=SMALL), net.state_dict())
    assert all_of_them.strides_px == (2, 4, 8, 16, 32)
    torch.testing.assert_close(all_of_them(images)[0], theirs[0])


@torch.no_grad()
def test_an_encoder_of_another_mean_gets_images_normalised_by_it() -> None:
    """ImageNet's: 0.485 and 0.229 of red; mobilenetv3's of tf: 0.5 and 0.5."""
    encoder = TimmEncoder("timm:tf_mobilenetv3_small_minimal_100")
    assert encoder.is_renormalised
    red = torch.full((1, 3, 32, 32), (0.8 - 0.485) / 0.229)
    seen: list[Tensor] = []
    encoder.net.conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder.eval()(red)
    assert seen[0][0, 0, 0, 0].item() == pytest.approx((0.8 - 0.5) / 0.5, abs=1e-5)


def test_weights_come_from_a_file_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = trained(SMALL).state_dict()
    save_file(state, tmp_path / "whole.safetensors")
    torch.save({"state_dict": state}, tmp_path / "whole.pt")
    wanted = loaded(PSPNET, state).state_dict()
    for name in ("whole.safetensors", "whole.pt"):
        config = model_config(backbone=SMALL, dilations=(1, 1, 1), pretrained=str(tmp_path / name))
        network = build_model(config, ROADS.num_classes)
        given = load_pretrained(config)
        assert given is not None
        load_pretrained_(network, given, config, ROADS)
        assert all(torch.equal(value, wanted[key]) for key, value in network.backbone.state_dict().items())
    del state["conv_stem.weight"]
    with pytest.raises(ValueError, match=r"backbone weights do not fit: keys 1 missing \(net.conv_stem.weight\)$"):
        build_model(PSPNET, 3, weights=state)
    with pytest.raises(ValueError, match=r"1 unexpected \(net.layer9.weight\)$"):
        build_model(PSPNET, 3, weights=trained(SMALL).state_dict() | {"layer9.weight": torch.zeros(1)})


def test_without_a_network_and_a_cache_imagenet_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = model_config(backbone=SMALL, dilations=(1, 1, 1), pretrained="imagenet")
    with pytest.raises(CheckpointError, match=r"'imagenet': .*timm:mobilenetv3_small_050.*give a file") as raised:
        load_pretrained(config)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="no such network; did you mean 'resnet18'"):
        imagenet_state("timm:resnet1")


def test_fused_norms_and_stochastic_depth_are_exchanged() -> None:
    net = timm.create_model("efficientnet_lite0", drop_path_rate=0.2)
    before = net.eval()(images := torch.randn(1, 3, 32, 32))
    _take_apart(net, timm)
    assert torch.equal(net.eval()(images), before)
    kinds = {type(module) for module in net.modules()}
    assert StochasticDepth in kinds and nn.BatchNorm2d in kinds
    assert not kinds & {BatchNormAct2d, DropPath}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (model_config(backbone="timm:resnet188"), "timm .* has no such network; did you mean 'resnet18'"),
        (model_config(backbone="timm:vit_tiny_patch16_224"), "timm:vit_tiny_patch16_224': "),
        (model_config(backbone="timm:poolformer_s12"), "no output stride of 8.*give model.dilations 1 1 1"),
        (model_config(backbone="timm:hrnet_w18_small", dilations=(1, 1, 1)), "weights, the first .*several workers"),
        (model_config(backbone="timm:levit_128", dilations=(1, 1, 1)), "levit_128': "),
    ],
)
def test_what_cannot_be_is_refused_before_training(config: ModelConfig, message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message) as raised:
        build_model(config, 3)
    assert "\n" not in str(raised.value)


def test_options_that_it_does_not_have_are_refused() -> None:
    for options, message in (
        ({"backbone": SMALL, "width": 0.5}, r"model.width = 0.5: an encoder of timm has its own; give 1"),
        (
            {"backbone": SMALL, "dilations": (1, 2, 2)},
            r"model.dilations = .*an encoder of timm has 1 2 4, 1 1 2 or 1 1 1",
        ),
        ({"backbone": SMALL, "stem": "deep"}, "model.stem = 'deep'"),
        ({"backbone": SMALL, "checkpointing": True}, "model.checkpointing = True"),
        ({"name": "adain", "backbone": SMALL}, "adain needs a ResNet"),
        ({"name": "unet", "backbone": "resnet18"}, "model.backbone = 'resnet18': give timm:NAME, or leave it out"),
    ):
        with pytest.raises(ConfigError, match=message):
            model_config(**options)
