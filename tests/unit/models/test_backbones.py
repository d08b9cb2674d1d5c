from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from distseg.config import model_config
from distseg.models import build_model, imagenet_state
from distseg.models.backbones import build_resnet, load_backbone
from tests.unit.models.pretrained import RESNETS, torchvision_state

# ------------------------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("name", RESNETS)
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours = build_resnet(name, (1, 2, 4)).state_dict()
        theirs = torchvision_state(name)
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == expected


@pytest.mark.parametrize("stem", ["torchvision", "deep"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_width_scales_every_layer(name: str, stem: str) -> None:
    with torch.device("meta"):
        full = build_resnet(name, (1, 2, 4), stem).state_dict()
        half = build_resnet(name, (1, 2, 4), stem, width=0.5).state_dict()
    assert half.keys() == full.keys()
    for key, value in full.items():
        is_first = key == "conv1.weight"
        halved = tuple(n // 2 if i == 0 or (i == 1 and not is_first) else n for i, n in enumerate(value.shape))
        assert half[key].shape == halved, key


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_without_dilation_computes_what_torchvision_computes(name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name).eval()
    ours = build_resnet(name, (1, 1, 1)).eval()
    load_backbone(ours, theirs.state_dict())
    images = torch.randn(1, 3, 65, 49)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    for stage, features in enumerate(ours(images), start=1):
        x = getattr(theirs, f"layer{stage}")(x)
        torch.testing.assert_close(features, x)
    assert ours.output_stride == 32


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(
    ("dilations", "output_stride"), [((1, 1, 1), 32), ((1, 1, 2), 16), ((1, 2, 4), 8), ((2, 4, 8), 4)]
)
def test_every_3x3_of_a_stage_is_dilated(name: str, dilations: tuple[int, int, int], output_stride: int) -> None:
    with torch.device("meta"):
        resnet = build_resnet(name, dilations)
        features = resnet(torch.empty(1, 3, 65, 97))
    assert resnet.output_stride == output_stride
    assert features[-1].shape[2:] == (-(-65 // output_stride), -(-97 // output_stride))
    for stage, dilation in enumerate(dilations, start=2):
        convolutions = [m for m in getattr(resnet, f"layer{stage}").modules() if isinstance(m, nn.Conv2d)]
        spatial = [m for m in convolutions if m.kernel_size == (3, 3)]
        assert {m.dilation for m in spatial} == {(dilation, dilation)}
        assert {m.padding for m in spatial} == {(dilation, dilation)}
        num_striding = sum(m.stride == (2, 2) for m in convolutions)
        assert num_striding == (2 if dilation == 1 else 0), "a 3x3 and the shortcut stride, or nothing does"


@pytest.mark.parametrize(
    ("name", "stage", "field_cells"),
    # Each 3x3 of dilation d adds 2d cells: resnet18 has 4 of them in a stage, resnet50 has 6 in layer3, 3 in layer4.
    [("resnet18", 3, 17), ("resnet18", 4, 33), ("resnet50", 3, 25), ("resnet50", 4, 25)],
)
def test_receptive_field_of_the_dilated_stages(name: str, stage: int, field_cells: int) -> None:
    resnet = build_resnet(name, (1, 2, 4), width=1 / 16).eval().requires_grad_(False)
    layer = getattr(resnet, f"layer{stage}")
    for parameter in layer.parameters():  # all paths positive, so that none cancels
        nn.init.constant_(parameter, 0.1)
    x = torch.ones(1, resnet.stage_channels[stage - 2], 39, 39, requires_grad=True)
    layer(x)[0, 0, 19, 19].backward()
    assert x.grad is not None
    rows = x.grad[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    columns = x.grad[0].abs().sum(dim=(0, 1)).nonzero().flatten()
    # Since the first 3x3 is dilated, too, only every d-th cell is seen.
    seen = list(range(19 - field_cells // 2, 20 + field_cells // 2, 2 ** (stage - 2)))
    assert rows.tolist() == columns.tolist() == seen


# ----------------------------------------------------------------------------------------------------------- weights


def test_imagenet_weights_are_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    state = torchvision_state("resnet18")
    torch.save(state, file)
    model = build_model(model_config(backbone="resnet18"), 5, weights=imagenet_state("resnet18"))
    assert torch.equal(model.backbone.state_dict()["layer4.1.bn2.weight"], state["layer4.1.bn2.weight"])
    assert torch.equal(model.backbone.state_dict()["conv1.weight"], state["conv1.weight"])


def test_imagenet_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nobody listens
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match="refused"):
        imagenet_state("resnet18")


@pytest.mark.parametrize("name", RESNETS)
def test_every_backbone_has_imagenet_weights(name: str) -> None:
    weights = torchvision.models.get_weight(f"{name.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1")
    assert name in weights.url


def test_weights_without_the_counters_of_batch_norm_load() -> None:
    state = {k: v for k, v in torchvision_state("resnet18").items() if "num_batches_tracked" not in k}
    load_backbone(build_resnet("resnet18", (1, 2, 4)), state)


def test_weights_that_do_not_fit_are_refused() -> None:
    backbone = build_resnet("resnet18", (1, 2, 4))
    state = torchvision_state("resnet18")
    before = backbone.state_dict()["conv1.weight"].clone()
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    state["extra"] = state.pop("bn1.weight")
    with pytest.raises(ValueError, match="1 missing") as error:
        load_backbone(backbone, state)
    message = str(error.value)
    assert "1 missing (bn1.weight)" in message
    assert "1 unexpected (extra)" in message
    assert "1 of another shape (conv1.weight (64, 3, 3, 3) instead of (64, 3, 7, 7))" in message
    assert "\n" not in message
    assert torch.equal(backbone.state_dict()["conv1.weight"], before)


def test_weights_of_another_network_are_named_briefly() -> None:
    with pytest.raises(ValueError, match=r"missing \(layer1.0.conv3.weight, .*, …\)") as error:
        load_backbone(build_resnet("resnet50", (1, 2, 4)), torchvision_state("resnet18"))
    assert len(str(error.value)) < 600
