"""The number of the network's parameters, without an auxiliary head: it is not there after training."""

import torch

from distseg.config import RunConfig
from distseg.data.shards import load_manifest
from distseg.models import build_model


def parameters(config: RunConfig) -> float:
    with torch.device("meta"):  # no memory, no time
        model = build_model(config.model, load_manifest(config.data.uri).label_space.num_classes, aux=False)
    return float(sum(parameter.numel() for parameter in model.parameters()))


COST = parameters
