"""Names and shapes of all weights, as they were when the file of digests was made: so old checkpoints can be loaded."""

import hashlib
import json

import pytest
import torch
from torch import nn

from distseg.config import ModelConfig, model_config
from distseg.models import build_model, build_style_network
from distseg.models.__main__ import choose
from tests.conftest import REPOSITORY

NUM_CLASSES = 19
DIGESTS: dict[str, str] = json.loads((REPOSITORY / "tests/data/before/state_keys.json").read_text())


def digest(network: nn.Module) -> str:
    keys = sorted((key, list(value.shape)) for key, value in network.state_dict().items())
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]


def config_of(name: str) -> ModelConfig:
    return model_config("adain") if name == "adain" else choose()[name]


@pytest.mark.parametrize("name", DIGESTS)
def test_weights_keep_their_names_and_shapes(name: str) -> None:
    config = config_of(name)
    with torch.device("meta"):
        network = build_style_network(config) if config.is_style_network else build_model(config, NUM_CLASSES)
    assert digest(network) == DIGESTS[name]
