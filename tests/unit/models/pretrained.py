"""Networks without memory of their own, and torchvision's."""

import torch
import torchvision
from torch import Tensor, nn

from distseg.config import ModelConfig
from distseg.models import build_model
from distseg.models.networks.pspnet import PSPNet

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def torchvision_state(name: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torchvision.models.get_model(name).state_dict()
    return state


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def meta_pspnet(config: ModelConfig, num_classes: int = 21, aux: bool = True) -> PSPNet:
    with torch.device("meta"):
        model = build_model(config, num_classes, aux=aux)
    assert isinstance(model, PSPNet)
    return model
