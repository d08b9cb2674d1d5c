"""Networks by name. `build_model` is the one way to make one; what it returns is told in `layers`."""

from collections.abc import Callable, Mapping

from torch import Tensor

from distseg.config import ModelConfig
from distseg.models.backbones import imagenet_state, load_backbone
from distseg.models.layers import Logits, SegmentationModel
from distseg.models.pspnet import PSPNet, check_batch

__all__ = [
    "MODELS",
    "Logits",
    "SegmentationModel",
    "build_model",
    "check_batch",
    "imagenet_state",
    "load_backbone",
]


def _pspnet(config: ModelConfig, num_classes: int, aux: bool) -> SegmentationModel:
    return PSPNet(config, num_classes, aux=aux)


MODELS: dict[str, Callable[[ModelConfig, int, bool], SegmentationModel]] = {"pspnet": _pspnet}


def build_model(
    config: ModelConfig,
    num_classes: int,
    *,
    aux: bool = True,
    backbone_state: Mapping[str, Tensor] | None = None,
) -> SegmentationModel:
    """The network of `config`, in training mode. Weights are drawn from torch's global generator: seed it before.

    `aux`: with an auxiliary head, if the network can have one; its parameters are then always there, so that a
    checkpoint loads in training and in evaluation alike. `backbone_state`: weights of the backbone, loaded exactly.
    Raises ValueError, in one line, for numbers that do not fit each other and for weights that do not fit the network.
    """
    if num_classes < 2:
        raise ValueError(f"a network for {num_classes} classes: there must be at least 2")
    if config.name not in MODELS:
        raise ValueError(f"model.name = {config.name!r}: choose from {', '.join(MODELS)}")
    model = MODELS[config.name](config, num_classes, aux)
    if backbone_state is not None:
        load_backbone(model.backbone, backbone_state)
    return model
