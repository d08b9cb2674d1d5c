"""Weights to begin with: torchvision's by name, a state dict in a file or an object, or another run's of distseg.

All are loaded with weights_only, and every key must match.
"""

import logging
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from distseg import storage
from distseg.config import ModelConfig
from distseg.data import LabelSpace
from distseg.errors import CheckpointError, first_line
from distseg.models import SegmentationModel, build_model, imagenet_state
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint

log = logging.getLogger(__name__)

Pretrained = Checkpoint | dict[str, Tensor]


def load_pretrained(model: ModelConfig) -> Pretrained | None:
    """What model.pretrained names: a checkpoint of distseg, a state dict, or None.

    Raises CheckpointError or StorageError if it cannot be loaded.
    """
    if model.pretrained is None:
        return None
    if model.pretrained == "imagenet":
        assert model.known_backbone is not None, "checked by ModelConfig"
        return _imagenet(model.known_backbone)
    if checkpoint.is_there(model.pretrained):
        return checkpoint.resolve(model.pretrained)[1]
    return _in_file(model.pretrained)


def load_pretrained_(
    network: SegmentationModel, pretrained: Pretrained, model: ModelConfig, labels: LabelSpace
) -> None:
    """Copies what `load_pretrained` gave into the network of `model`, whose classes are those of `labels`; in place.

    Raises CheckpointError naming the keys, or the fields of the configuration, that do not match.
    """
    if isinstance(pretrained, Checkpoint):
        _load_checkpoint_(network, pretrained, model, labels)
        return
    if model.foreign_weights is None:
        raise CheckpointError(
            f"model.pretrained = {model.pretrained!r}: {model.name} has no backbone that takes a state dict; give a "
            "checkpoint or run of distseg, or None"
        )
    try:
        network.load_weights(pretrained)
    except ValueError as error:
        raise CheckpointError(
            f"model.pretrained = {model.pretrained!r}: {error}; give the state dict of {model.foreign_weights}"
        ) from None


def _load_checkpoint_(network: SegmentationModel, saved: Checkpoint, model: ModelConfig, labels: LabelSpace) -> None:
    """Copies all weights. If the classes differ, those whose shape depends on their number stay random, and are logged.

    An auxiliary head is left out if this network has none.
    """
    free: dict[str, Any] = {"pretrained": None, "dropout": 0.0}
    theirs, ours = asdict(replace(saved.config.model, **free)), asdict(replace(model, **free))
    for name, value in ours.items():
        if (other := theirs.get(name)) != value:
            raise CheckpointError(
                f"model.pretrained = {model.pretrained!r}: has model.{name} = {other!r}, this run {value!r}; "
                "give one of the same network"
            )
    state, own = dict(saved.evaluated), network.state_dict()
    has_aux_head = any(key.startswith("aux_head.") for key in own)
    if not has_aux_head:
        state = {key: value for key, value in state.items() if not key.startswith("aux_head.")}
    if saved.label_space.classes != labels.classes:
        of_classes = _keys_of_classes(model, labels.num_classes, aux=has_aux_head)
        log.info("%s: other classes, so these start random: %s", model.pretrained, ", ".join(sorted(of_classes)))
        state |= {key: own[key] for key in of_classes}
    if different := sorted(state.keys() ^ own.keys()):
        raise CheckpointError(
            f"model.pretrained = {model.pretrained!r}: {len(different)} keys are in one of the two networks only, the "
            f"first {different[0]}; an auxiliary head is there where loss.aux_weight is above 0"
        )
    network.load_state_dict(state)


def _imagenet(backbone: str) -> dict[str, Tensor]:
    try:
        return imagenet_state(backbone)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"model.pretrained = 'imagenet': torchvision's weights of {backbone} cannot be had here "
            f"({first_line(error)}); give a file or s3:// URI of them, or None"
        ) from None


def _in_file(uri: str) -> Pretrained:
    data = storage.read_bytes(uri)
    try:
        state = checkpoint.load_tensors(data)
    except ValueError as error:
        raise CheckpointError(
            f"model.pretrained = {uri!r}: no state dict that loads with weights_only: {error}"
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"model.pretrained = {uri!r}: holds a {type(state).__name__}, not a state dict")
    if {"format", "label_space", "model"} <= state.keys():
        return checkpoint.resolve(uri)[1]
    if isinstance(state.get("state_dict"), dict):  # as training programs save it, beside other things
        state = state["state_dict"]
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _keys_of_classes(model: ModelConfig, num_classes: int, *, aux: bool) -> set[str]:
    """The weights whose shape depends on the number of classes."""
    with torch.device("meta"):
        here, elsewhere = (build_model(model, n, aux=aux).state_dict() for n in (num_classes, num_classes + 1))
    return {key for key, value in here.items() if value.shape != elsewhere[key].shape}
