"""A training that begins with what another one has learnt."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distseg.config import LossConfig, ModelConfig, RunConfig, model_config
from distseg.data.sample import LabelSpace
from distseg.errors import CheckpointError, ConfigError
from distseg.models import build_model
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint
from distseg.training.pretrained import load_pretrained
from distseg.training.segmentation import new_model

PSPNET = model_config(backbone="resnet18", dropout=0.0)


def space(*classes: str) -> LabelSpace:
    return LabelSpace(name="-".join(classes), classes=classes, palette=tuple((i, i, i) for i in range(len(classes))))


ROADS = space("road", "car", "sky")


def trained(model: ModelConfig, *, aux: bool = True) -> Checkpoint:
    torch.manual_seed(7)
    network = build_model(model, ROADS.num_classes, aux=aux and model.has_aux_head)
    return Checkpoint(
        step=3,
        config=config_of(model, aux=aux),
        label_space=ROADS,
        model=network.state_dict(),
        optimizer={},
        manifest_digest="",
    )


def config_of(model: ModelConfig, *, aux: bool = True) -> RunConfig:
    return RunConfig(model=model, loss=LossConfig(aux_weight=0.4 if aux and model.has_aux_head else 0.0))


def begun(model: ModelConfig, labels: LabelSpace, *, aux: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(8)
    return new_model(config_of(model, aux=aux), labels, load_pretrained(model)).state_dict()


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {key for key in one if one[key].shape != other[key].shape or not one[key].equal(other[key])}


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    found = trained(PSPNET)
    checkpoint.write(tmp_path, found)
    return found


@pytest.fixture
def model(saved: Checkpoint, tmp_path: Path) -> ModelConfig:
    return replace(PSPNET, pretrained=str(tmp_path))


def test_all_weights_are_taken_where_the_classes_are_the_same(saved: Checkpoint, model: ModelConfig) -> None:
    assert not differing(begun(model, ROADS), saved.model)
    assert not differing(begun(replace(model, dropout=0.5), ROADS), {**saved.model})


@pytest.mark.parametrize("labels", [space("road", "car"), space("sky", "car", "road")])
def test_only_the_classifiers_start_random_where_they_are_others(
    saved: Checkpoint, model: ModelConfig, labels: LabelSpace, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "distseg"):
        taken = begun(model, labels)
    of_classes = differing(taken, saved.model)
    assert of_classes == {f"{head}.1.1.{name}" for head in ("head", "aux_head") for name in ("weight", "bias")}
    fresh = begun(replace(model, pretrained=None), labels)
    assert all(taken[key].equal(fresh[key]) for key in of_classes)
    assert all(key in caplog.text for key in of_classes)


def test_the_average_of_the_weights_is_what_is_taken(saved: Checkpoint, model: ModelConfig, tmp_path: Path) -> None:
    averaged = {key: value * 2 for key, value in saved.model.items()}
    checkpoint.write(tmp_path, replace(saved, averaged=averaged))
    assert not differing(begun(model, ROADS), averaged)


def test_an_auxiliary_head_may_be_left_out_but_not_made_up(
    saved: Checkpoint, model: ModelConfig, tmp_path: Path
) -> None:
    taken = begun(model, ROADS, aux=False)
    assert not differing(taken, {k: v for k, v in saved.model.items() if not k.startswith("aux_head.")})
    checkpoint.write(tmp_path, trained(PSPNET, aux=False))
    with pytest.raises(CheckpointError, match=r"keys are in one of the two networks only, the first aux_head\..*loss"):
        begun(model, ROADS)


def test_a_file_of_weights_serves_a_network_without_a_backbone(tmp_path: Path) -> None:
    enet = trained(model_config("enet"))
    path = tmp_path / "enet.pt"
    path.write_bytes(checkpoint.as_one_file(enet))
    assert not differing(begun(model_config("enet", pretrained=str(path)), ROADS), enet.model)


def test_another_network_is_named(model: ModelConfig) -> None:
    with pytest.raises(CheckpointError, match=r"has model.backbone = 'resnet18', this run 'resnet34'; give one of the"):
        begun(model_config(backbone="resnet34", dropout=0.0, pretrained=model.pretrained), ROADS)
    with pytest.raises(CheckpointError, match=r"has model.name = 'pspnet', this run 'unet'"):
        begun(model_config("unet", dropout=0.0, pretrained=model.pretrained), ROADS)


def test_what_has_no_imagenet_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.pretrained = 'imagenet': there are no ImageNet weights of enet"):
        model_config("enet", pretrained="imagenet")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"enet has no backbone that takes a state dict; give a checkpoint or run"
    ):
        begun(model_config("enet", pretrained=str(tmp_path / "a.pt")), ROADS)
