"""Milliseconds for one image of data.crop_px on a CPU, measured once before the training."""

import torch

from distseg.config import RunConfig
from distseg.data.shards import load_manifest
from distseg.evaluation import latency_ms, resolve_precision
from distseg.models import build_model


def latency(config: RunConfig) -> float:
    device = torch.device("cpu")
    model = build_model(config.model, load_manifest(config.data.uri).label_space.num_classes, aux=False)
    return latency_ms(model, config.data.crop_px, resolve_precision("auto", device), device)


COST = latency
