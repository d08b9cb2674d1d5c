import pytest
import torch

from distseg.config import LossConfig, RunConfig, model_config
from distseg.data.datasets import town
from distseg.models import build_model
from distseg.training.checkpoint import Checkpoint
from tests.unit.tracking.small_model import SCORES


@pytest.fixture(scope="session")
def saved() -> Checkpoint:
    """A small network of random weights whose label maps show several classes."""
    torch.manual_seed(1)
    config = RunConfig(
        name="small", model=model_config("unet", width=0.25, dropout=0.0), loss=LossConfig(aux_weight=0.0)
    )
    model = build_model(config.model, town.LABELS.num_classes, aux=False)
    return Checkpoint(
        step=7,
        config=config,
        label_space=town.LABELS,
        model=model.state_dict(),
        optimizer={},
        manifest_digest="d" * 64,
        metrics=SCORES,
        tables={"conditions": {"fog": {}, "dawn": {}}, "worst_condition": "fog"},
    )
