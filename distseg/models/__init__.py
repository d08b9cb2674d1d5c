"""Networks by name. `build_model` is the one way to make one; what it returns is told in `layers`."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from distseg.config import ModelConfig
from distseg.models.backbones import imagenet_state, load_backbone
from distseg.models.layers import Logits, SegmentationModel
from distseg.models.networks.adain import Statistics, StyleLosses, StyleNetwork
from distseg.models.networks.enet import ENet
from distseg.models.networks.fcn import FCN, FCNAttention
from distseg.models.networks.pspnet import PSPNet, check_batch, is_authors_layout, load_authors
from distseg.models.networks.r2unet import R2UNet, UNet

__all__ = [
    "MODELS",
    "Logits",
    "SegmentationModel",
    "Statistics",
    "StyleLosses",
    "StyleNetwork",
    "build_model",
    "check_batch",
    "imagenet_state",
    "load_backbone",
    "load_weights",
]


def _pspnet(config: ModelConfig, num_classes: int, aux: bool) -> SegmentationModel:
    return PSPNet(config, num_classes, aux=aux)


def _fcn(config: ModelConfig, num_classes: int, aux: bool) -> SegmentationModel:
    """On VGG16 FCN-32s, -16s or -8s; on a ResNet the dilated baseline of Zhao et al. 2017, table 1."""
    if config.backbone.startswith("vgg16"):
        return FCN(config, num_classes)
    return PSPNet(replace(config, name="pspnet", bins=()), num_classes, aux=aux)


MODELS: dict[str, Callable[[ModelConfig, int, bool], SegmentationModel]] = {
    "pspnet": _pspnet,
    "fcn": _fcn,
    "fcn_attention": lambda config, num_classes, _: FCNAttention(config, num_classes),
    "enet": lambda config, num_classes, _: ENet(config, num_classes),
    "unet": lambda config, num_classes, _: UNet(config, num_classes),
    "r2unet": lambda config, num_classes, _: R2UNet(config, num_classes),
}


def build_model(
    config: ModelConfig,
    num_classes: int,
    *,
    aux: bool = True,
    weights: Mapping[str, Tensor] | None = None,
) -> SegmentationModel:
    """The network of `config`, in training mode. Weights are drawn from torch's global generator: seed it before.

    `aux`: with an auxiliary head, if the network can have one; its parameters are then always there, so that a
    checkpoint loads in training and in evaluation alike. `weights`: see `load_weights`.
    Raises ValueError, in one line, for numbers that do not fit each other and for weights that do not fit the network.
    """
    if num_classes < 2:
        raise ValueError(f"a network for {num_classes} classes: there must be at least 2")
    if config.name not in MODELS:
        raise ValueError(f"model.name = {config.name!r}: choose from {', '.join(MODELS)}")
    model = MODELS[config.name](config, num_classes, aux)
    if weights is not None:
        load_weights(model, weights)
    return model


def load_weights(model: SegmentationModel, state: Mapping[str, Tensor]) -> None:
    """Copies the weights of a backbone in torchvision's layout, or of a whole PSPNet in its authors' layout.

    Keys and shapes must match exactly. Raises ValueError naming those that do not.
    """
    if is_authors_layout(state):
        load_authors(model, state)
    else:
        load_backbone(model.backbone, state)
