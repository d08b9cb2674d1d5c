import pytest
import torch
from torch import Tensor, nn

from distseg.config import ModelConfig, model_config
from distseg.models import build_model, drop_by_sample
from distseg.models.backbones import ResNet, build_resnet
from distseg.models.layers import SqueezeExcite, StochasticDepth, resize_bilinear
from distseg.models.networks.deeplabv3plus import DeepLabV3Plus
from distseg.models.networks.pspnet import PSPNet, PyramidPooling
from distseg.models.networks.segformer import MixTransformer, ReducedAttention
from tests.unit.models.pretrained import meta_pspnet, num_parameters, torchvision_state

# ------------------------------------------------------------------------------------------------------------ pspnet


def test_size_is_the_authors_but_for_the_stem() -> None:
    # Their stem has 3x3 convolutions to 64, 64 and 128 channels where torchvision has one 7x7 to 64, so layer1 also
    # begins with 128 channels instead of 64, in its first 1x1 (to 64) and in its shortcut (to 256).
    model = meta_pspnet(model_config(backbone="resnet50"), num_classes=21)
    deep_stem = (3 * 9 * 64 + 2 * 64) + (64 * 9 * 64 + 2 * 64) + (64 * 9 * 128 + 2 * 128)
    stem = num_parameters(model.backbone.conv1) + num_parameters(model.backbone.bn1)  # type: ignore[arg-type]
    authors = num_parameters(model) - stem + deep_stem + 64 * 64 + 64 * 256
    assert num_parameters(model) == 48_957_802
    assert round(authors / 1e6, 2) == 49.08


@pytest.mark.parametrize(
    ("backbone", "channels", "head", "aux"), [("resnet18", 512, 128, 64), ("resnet50", 2048, 512, 256)]
)
def test_head_widths(backbone: str, channels: int, head: int, aux: int) -> None:
    model = meta_pspnet(model_config(backbone=backbone))
    weights = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() == 4 and "backbone" not in name}
    assert weights == {
        **{f"pyramid.branches.{i}.0.weight": (channels // 4, channels, 1, 1) for i in range(4)},
        "head.0.0.weight": (head, 2 * channels, 3, 3),
        "head.1.1.weight": (21, head, 1, 1),
        "aux_head.0.0.weight": (aux, channels // 2, 3, 3),
        "aux_head.1.1.weight": (21, aux, 1, 1),
    }


def test_squeeze_and_excitation_stands_between_1x1_and_3x3() -> None:
    model = meta_pspnet(model_config(se_ratio=16, bins=(1, 2, 3, 4)))
    shapes = [tuple(p.shape) for p in model.head.parameters() if p.dim() == 4]
    assert shapes == [(512, 4096, 1, 1), (32, 512, 1, 1), (512, 32, 1, 1), (512, 512, 3, 3), (21, 512, 1, 1)]


def test_ablations_change_the_channels_of_the_pyramid() -> None:
    assert meta_pspnet(model_config(bins=())).pyramid.out_channels == 2048
    assert meta_pspnet(model_config(bins=(1,))).pyramid.out_channels == 2 * 2048
    assert meta_pspnet(model_config(reduce=False)).pyramid.out_channels == 5 * 2048
    assert num_parameters(meta_pspnet(model_config(reduce=False)).pyramid) == 0


def test_pyramid_by_hand() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    average = PyramidPooling(1, (1, 2), "avg", reduce=False)(x)
    assert torch.equal(average[:, 0:1], x)
    assert torch.equal(average[:, 1:2], torch.full((1, 1, 4, 4), 7.5))
    cells = torch.tensor([[2.5, 4.5], [10.5, 12.5]]).view(1, 1, 2, 2)
    assert torch.equal(average[:, 2:3], resize_bilinear(cells, (4, 4)))
    maximum = PyramidPooling(1, (2,), "max", reduce=False)(x)
    assert torch.equal(maximum[:, 1, [0, 0, 3, 3], [0, 3, 0, 3]], torch.tensor([[5.0, 7.0, 13.0, 15.0]]))


def test_bilinear_is_between_cell_centres() -> None:
    row = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    # Centres of 4 cells over 2: -0.25 (clamped to 0), 0.25, 0.75, 1.25 (clamped to 1). With align_corners: 0, 1/3 …
    assert resize_bilinear(row, (1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


def test_squeeze_excite_by_hand() -> None:
    gate = SqueezeExcite(2, 2)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(gate.squeeze.weight, 0.5)  # the mean over both channels
    with torch.no_grad():
        gate.excite.weight.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
    x = torch.stack([torch.full((2, 2), 1.0), torch.full((2, 2), 3.0)])[None]
    gated = gate(x)
    torch.testing.assert_close(gated[0, 0], torch.full((2, 2), 1 / (1 + 2.718281828**-2.0)))
    torch.testing.assert_close(gated[0, 1], torch.full((2, 2), 1.5))


def test_auxiliary_head_changes_no_other_weight() -> None:
    torch.manual_seed(3)
    with_aux = build_model(model_config(backbone="resnet18"), 4).state_dict()
    torch.manual_seed(3)
    without = build_model(model_config(backbone="resnet18"), 4, aux=False).state_dict()
    assert not any(key.startswith("aux_head") for key in without)
    assert all(torch.equal(with_aux[key], value) for key, value in without.items())


def test_backbone_and_head_share_the_parameters_out() -> None:
    model = build_model(model_config(backbone="resnet18"), 4)
    backbone, head = model.parameter_groups()
    assert isinstance(model.backbone, ResNet)
    assert len(backbone) == len(list(model.backbone.parameters()))
    ids = [id(p) for p in backbone + head]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert len(set(ids)) == len(ids)


# ------------------------------------------------------------------------------------------------------------ sizes
# With the auxiliary head, where there is one. The first three are as published: ENet 0.36M, and the PSPNet authors'
# code 49.08M and 49.07M. The 30.0M of R2U-Net are those of 56 base channels. The 1.63M of the attention FCN are less
# than a quarter of VGG16's widths.


SIZES: list[tuple[ModelConfig, int, int]] = [
    (model_config("enet"), 21, 360_023),
    (model_config(stem="deep"), 21, 49_081_578),
    (model_config(stem="deep"), 12, 49_074_648),
    (model_config("r2unet"), 19, 39_085_715),
    (model_config("r2unet", width=56 / 64), 19, 29_926_979),
    (model_config("unet"), 19, 34_521_363),
    (model_config("fcn", backbone="vgg16"), 21, 134_376_863),
    (model_config("fcn_attention", se_ratio=16), 21, 37_678_001),
    (model_config("fcn_attention", se_ratio=16, width=0.25), 21, 2_359_580),
    (model_config("fcn_attention", se_ratio=16, width=0.25, skips=False), 21, 2_016_284),
    (model_config("segformer", size="b0"), 150, 3_752_694),  # as transformers counts it
]


@pytest.mark.parametrize(("config", "num_classes", "expected"), SIZES)
def test_numbers_of_parameters(config: ModelConfig, num_classes: int, expected: int) -> None:
    with torch.device("meta"):
        model = build_model(config, num_classes, aux=config.has_aux_head)
    assert num_parameters(model) == expected


PUBLISHED_SEGFORMERS = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}  # table 1, ADE20K


@pytest.mark.parametrize("size", PUBLISHED_SEGFORMERS)
def test_segformer_has_the_published_millions_of_parameters(size: str) -> None:
    with torch.device("meta"):
        model = build_model(model_config("segformer", size=size), 150)
    assert round(num_parameters(model) / 1e6, 1) == PUBLISHED_SEGFORMERS[size]


def test_deeplabv3plus_is_resnet_101_and_the_papers_head() -> None:
    def conv_bn(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs

    resnet_101 = 44_549_160 - (2048 * 1000 + 1000)  # torchvision's, without the classifier of ImageNet
    pyramid = 2 * conv_bn(2048, 256, 1) + 3 * conv_bn(2048, 256, 3) + conv_bn(5 * 256, 256, 1)
    decoder = conv_bn(256, 48, 1) + conv_bn(256 + 48, 256, 3) + conv_bn(256, 256, 3) + 256 * 21 + 21
    with torch.device("meta"):
        model = build_model(model_config("deeplabv3plus", backbone="resnet101"), 21)
    assert num_parameters(model) == resnet_101 + pyramid + decoder == 59_344_309


@pytest.mark.parametrize(
    ("dilations", "stride", "rates"),
    [((1, 1, 2), 16, (6, 12, 18)), ((1, 2, 4), 8, (12, 24, 36)), ((1, 1, 1), 32, (3, 6, 9))],
)
def test_deeplabv3plus_has_the_rates_of_its_stride(
    dilations: tuple[int, int, int], stride: int, rates: tuple[int, ...]
) -> None:
    model = build_model(model_config("deeplabv3plus", backbone="resnet18", width=1 / 64, dilations=dilations), 3)
    assert isinstance(model, DeepLabV3Plus)
    atrous = [module.dilation[0] for module in model.pyramid.atrous.modules() if isinstance(module, nn.Conv2d)]
    assert model.backbone.output_stride == stride
    assert tuple(atrous) == rates


def test_segformers_cells_all_see_each_other_at_the_reduced_resolution() -> None:
    """By hand: with equal keys each cell gets the mean of the values, of 2 x 3 cells after a reduction by 2."""
    attention = ReducedAttention(2, 1, 2)
    with torch.no_grad():
        for layer in (attention.q, attention.kv, attention.proj, attention.sr):
            assert layer is not None
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        assert attention.sr is not None
        attention.sr.weight[[0, 1], [0, 1]] = 0.25  # the mean of 2 x 2 cells
        attention.kv.weight[[2, 3], [0, 1]] = 1.0  # values as they are; keys 0
        attention.proj.weight.copy_(torch.eye(2))
        attention.norm = nn.Identity()  # type: ignore[assignment]
        x_BhwC = torch.randn(1, 5, 7, 2)
        seen = x_BhwC[:, :4, :6].mean((1, 2))  # what the convolution covers: the last row and column are cut off
        torch.testing.assert_close(attention(x_BhwC), seen[:, None, None].expand(1, 5, 7, 2))


def test_a_residual_branch_is_left_out_for_whole_samples() -> None:
    depth = StochasticDepth(0.25)
    assert torch.equal(depth.eval()(torch.ones(2, 3)), torch.ones(2, 3))
    masks = drop_by_sample(depth.train(), 0)
    masks.begin(range(2000), torch.device("cpu"))
    kept_BN = depth(torch.ones(2000, 3))
    assert set(kept_BN.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(kept_BN.amin(1), kept_BN.amax(1))
    assert (kept_BN[:, 0] > 0).double().mean().sub(0.75).abs() < 0.03  # three standard deviations
    masks.begin((7,), torch.device("cpu"))
    assert torch.equal(depth(torch.ones(1, 3))[0], kept_BN[7])


def test_resnet_269_has_its_depth() -> None:
    with torch.device("meta"):
        model = build_model(model_config(backbone="resnet269", stem="deep"), 150)
    convolutions = [name for name, module in model.backbone.named_modules() if isinstance(module, nn.Conv2d)]
    in_blocks = [name for name in convolutions if name.startswith("layer") and "downsample" not in name]
    assert len(in_blocks) == 3 * (3 + 30 + 48 + 8) == 267  # the stem counted as one, and the classifier: 269


# -------------------------------------------------------------------------------------------- weights of other layouts


def authors_state(model: PSPNet) -> dict[str, Tensor]:
    """The weights of a PSPNet of ours under the names that the authors' code saves."""
    stem = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}
    layers = {"0.0": "0", "0.1": "1", "1.1": "4"}
    state = {}
    for key, value in model.state_dict().items():
        part, _, rest = key.partition(".")
        module, _, parameter = rest.rpartition(".")
        if part == "backbone":
            name = f"layer0.{stem[module]}" if module in stem else module
        elif part == "pyramid":
            branch, layer = module.removeprefix("branches.").split(".")
            name = f"ppm.features.{branch}.{int(layer) + 1}"
        else:
            name = f"{'cls' if part == 'head' else 'aux'}.{layers[module]}"
        state[f"module.{name}.{parameter}"] = value
    return state


def test_a_whole_pspnet_of_the_authors_loads_exactly() -> None:
    config = model_config(stem="deep", width=0.25)
    torch.manual_seed(0)
    theirs = build_model(config, 5)
    assert isinstance(theirs, PSPNet)
    state = authors_state(theirs)
    assert "module.layer0.0.weight" in state and "module.ppm.features.3.1.weight" in state
    ours = build_model(config, 5, weights=state)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    without_aux = build_model(config, 5, aux=False, weights=state)
    assert torch.equal(without_aux.state_dict()["head.1.1.weight"], state["module.cls.4.weight"])


def test_weights_of_the_authors_that_do_not_fit_are_named() -> None:
    config = model_config(stem="deep", width=0.25)
    model = build_model(config, 5)
    assert isinstance(model, PSPNet)
    state = authors_state(model)
    del state["module.layer3.5.bn2.weight"]
    state["module.layer5.0.weight"] = torch.zeros(1)
    state["module.cls.4.weight"] = torch.zeros(6, 128, 1, 1)
    with pytest.raises(ValueError, match=r"1 missing \(backbone.layer3.5.bn2.weight\); 1 unexpected .*; 1 of another"):
        build_model(config, 5, weights=state)


def test_a_mit_of_its_authors_and_one_of_transformers_load_exactly() -> None:
    torch.manual_seed(0)
    model = build_model(model_config("segformer"), 3)
    own = model.backbone.state_dict()
    for layout in (authors_mit(own), transformers_mit(own)):
        assert len(layout) >= len(own) and not layout.keys() & own.keys()
        loaded = build_model(model_config("segformer"), 3, weights=layout).backbone
        assert isinstance(loaded, MixTransformer)
        assert all(torch.equal(value, own[key]) for key, value in loaded.state_dict().items())
    incomplete = transformers_mit(own)
    del incomplete["segformer.encoder.block.2.1.attention.self.value.bias"]
    with pytest.raises(
        ValueError, match=r"weights of MiT do not fit: keys 1 missing \(stages.2.blocks.1.attn.kv.bias\)$"
    ):
        build_model(model_config("segformer"), 3, weights=incomplete)


def authors_mit(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of the authors' file, with the classifier of ImageNet."""
    state = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    for key, value in own.items():
        _, stage, part, rest = key.split(".", 3)
        name = {"embed": "patch_embed", "blocks": "block", "norm": "norm"}[part]
        state[f"{name}{int(stage) + 1}.{rest.replace('dwconv.', 'dwconv.dwconv.')}"] = value
    return state


def transformers_mit(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of transformers' file of a whole SegFormer."""
    inside = {"norm1": "layer_norm_1", "norm2": "layer_norm_2", "attn.q": "attention.self.query"}
    inside |= {"attn.sr": "attention.self.sr", "attn.norm": "attention.self.layer_norm", "mlp.fc1": "mlp.dense1"}
    inside |= {"attn.proj": "attention.output.dense", "mlp.fc2": "mlp.dense2", "mlp.dwconv": "mlp.dwconv.dwconv"}
    state = {"decode_head.classifier.bias": torch.zeros(3)}
    for key, value in own.items():
        _, stage, part, rest = key.split(".", 3)
        if part == "embed":
            state[f"segformer.encoder.patch_embeddings.{stage}.{rest.replace('norm', 'layer_norm')}"] = value
        elif part == "norm":
            state[f"segformer.encoder.layer_norm.{stage}.{rest}"] = value
        else:
            block, module, parameter = rest.partition(".")[0], *rest.partition(".")[2].rsplit(".", 1)
            place = f"segformer.encoder.block.{stage}.{block}"
            if module == "attn.kv":
                names = (f"{place}.attention.self.{each}.{parameter}" for each in ("key", "value"))
                state |= zip(names, value.chunk(2), strict=True)
            else:
                state[f"{place}.{inside[module]}.{parameter}"] = value
    return state


def test_vgg16_is_torchvisions() -> None:
    with torch.device("meta"):
        for name in ("vgg16", "vgg16_bn"):
            ours = build_model(model_config("fcn", backbone=name), 3).backbone.state_dict()
            theirs = torchvision_state(name)
            expected = {key: value.shape for key, value in theirs.items() if key.startswith("features.")}
            assert {key: value.shape for key, value in ours.items()} == expected


# ------------------------------------------------------------------------------------------------------------ errors


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model.se_ratio = 256: must divide the head's 128 channels"):
        build_model(model_config(backbone="resnet18", se_ratio=256), 4)
    with pytest.raises(ValueError, match="3 bins do not divide the backbone's 512 channels"):
        PyramidPooling(512, (1, 2, 3), "avg", reduce=True)
    with pytest.raises(ValueError, match="at least 2"):
        build_model(model_config(), 1)
    with pytest.raises(ValueError, match="resnet18, resnet34"):
        build_resnet("resnet19", (1, 2, 4))


def test_one_sample_is_too_few_for_the_1x1_bin() -> None:
    with pytest.raises(ValueError, match=r"at least 2 samples.*data.batch_size"):
        model_config().check_batch(1)
    model_config().check_batch(2)
    model_config(bins=(2, 4)).check_batch(1)
    model_config(reduce=False).check_batch(1)
    model = build_model(model_config(backbone="resnet18"), 3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.zeros(1, 3, 33, 33))
