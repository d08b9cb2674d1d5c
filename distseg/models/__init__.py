"""Networks by name: `build_model` is the one way to make one.

A `SegmentationModel` maps float images_B3HW, normalised by ImageNet's mean and deviation, to `Logits`: main_BKhw at the
network's own resolution and, in training mode, aux_BKhw of the auxiliary head. Upsampling, losses and metrics are
elsewhere. A `StyleNetwork` restyles images. `drop_by_sample` makes a network's dropout depend on the samples alone;
what a network has in `Blocks` can be checkpointed.

Each network is one file of `distseg/models/networks`, which holds its options, too; `python -m distseg.models` lists
them. Networks import torch and torchvision alone. Errors are ValueErrors of one line.
"""

from collections.abc import Mapping

from torch import Tensor

from distseg.config import ModelConfig
from distseg.models.backbones import imagenet_state, load_backbone
from distseg.models.checkpointing import Blocks, checkpoint_blocks
from distseg.models.dropout import SampleMasks, drop_by_sample
from distseg.models.layers import Logits, SegmentationModel
from distseg.models.networks.adain import Statistics, StyleLosses, StyleNetwork

__all__ = [
    "Blocks",
    "Logits",
    "SampleMasks",
    "SegmentationModel",
    "Statistics",
    "StyleLosses",
    "StyleNetwork",
    "build_model",
    "build_style_network",
    "drop_by_sample",
    "imagenet_state",
    "load_backbone",
]


def build_model(
    config: ModelConfig,
    num_classes: int,
    *,
    aux: bool = True,
    weights: Mapping[str, Tensor] | None = None,
) -> SegmentationModel:
    """The network of `config`, in training mode. Weights are drawn from torch's global generator: seed it before.

    `aux`: with an auxiliary head, if the network can have one. Its parameters exist in evaluation, too, so that a
    checkpoint loads in training and in evaluation alike. `weights`: see `SegmentationModel.load_weights`.
    Raises ValueError for numbers that do not fit each other and for weights that do not fit the network.
    """
    if num_classes < 2:
        raise ValueError(f"a network for {num_classes} classes: there must be at least 2")
    if config.is_style_network:
        raise ValueError(f"model.name = {config.name!r}: restyles images and does not segment; name another network")
    model: SegmentationModel = config.build(num_classes, aux=aux and config.has_aux_head)
    if weights is not None:
        model.load_weights(weights)
    if config.checkpointing:
        checkpoint_blocks(model)
    return model


def build_style_network(config: ModelConfig) -> StyleNetwork:
    """The style network of `config`, in training mode. Raises ValueError if `config` is of a network that segments."""
    if not config.is_style_network:
        raise ValueError(f"model.name = {config.name!r}: segments and does not restyle; give 'adain'")
    network: StyleNetwork = config.build(0, aux=False)
    return network
