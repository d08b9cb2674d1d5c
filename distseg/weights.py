"""Weights from elsewhere: torchvision's by name, or a state dict in a file or an object, loaded with weights_only."""

import io
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor

from distseg import storage
from distseg.config import ModelConfig
from distseg.errors import CheckpointError, first_line
from distseg.models import SegmentationModel, imagenet_state, load_weights


def load_pretrained(model: ModelConfig) -> dict[str, Tensor] | None:
    """The state dict that model.pretrained names, or None. Raises CheckpointError if it is not to be had."""
    if model.pretrained is None:
        return None
    return _imagenet(model.backbone) if model.pretrained == "imagenet" else _state_dict_at(model.pretrained)


def put_into(network: SegmentationModel, state: Mapping[str, Tensor], model: ModelConfig) -> None:
    """Copies what `load_pretrained` gave into a network. Raises CheckpointError naming the keys that do not match."""
    try:
        load_weights(network, state)
    except ValueError as error:
        raise CheckpointError(
            f"model.pretrained = {model.pretrained!r}: {error}; give the state dict of a torchvision "
            f"{model.backbone}, or of a whole PSPNet of its authors"
        ) from None


def _imagenet(backbone: str) -> dict[str, Tensor]:
    try:
        return imagenet_state(backbone)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"model.pretrained = 'imagenet': torchvision's weights of {backbone} cannot be had here "
            f"({first_line(error)}); give a file or s3:// URI of them, or None"
        ) from None


def _state_dict_at(uri: str) -> dict[str, Tensor]:
    data = storage.read_bytes(uri)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if isinstance(state.get("state_dict"), dict):  # as training programs save it, beside other things
            state = state["state_dict"]
        return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"model.pretrained = {uri!r}: no state dict that loads with weights_only ({first_line(error)})"
        ) from None
