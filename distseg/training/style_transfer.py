"""The training of a style network (Song et al. 2021, part b): its decoder learns, its encoder is given.

Content images are those of data.train_conditions, style images those of style.conditions, both of the train split and
without their labels. There is nothing to evaluate: the newest checkpoint is the result.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from distseg import evaluation, metric_names
from distseg.config import ModelConfig, RunConfig
from distseg.data.loading import Batch, TrainReader
from distseg.data.shards import Manifest
from distseg.errors import CheckpointError, ConfigError
from distseg.evaluation import World
from distseg.models import StyleLosses, StyleNetwork, build_style_network, load_backbone
from distseg.training.checkpoint import Checkpoint, restore_states, to_cpu
from distseg.training.data_selection import load_first_manifest
from distseg.training.optim import LossScale, Update, build_optimizer
from distseg.training.pretrained import load_pretrained
from distseg.training.process import DeviceCopies, agreed_layout, agreed_precision, dtype_of, over_ranks
from distseg.training.restyling import open_images, open_styles, style_shards


class StyleTransfer:
    """An `Objective`: loss = content + style.loss_weight · (mean + std)."""

    def __init__(self, config: RunConfig, world: World) -> None:
        self.config, self.world = config, world
        self.manifest = load_first_manifest(config)
        self.precision = agreed_precision(config, world)
        self.memory_format = agreed_layout(config, self.precision, world)
        self.to_device = DeviceCopies(world.device)
        torch.manual_seed(config.seed)
        self.network = new_style_network(config.model).to(world.device, dtype_of(self.precision))
        self.network.to(memory_format=self.memory_format).train()
        self.wrapped = over_ranks(self.network, world)
        self.optimizer = build_optimizer(self.network, config.optim)
        self.update = Update(self.network, self.optimizer, scale=LossScale.of(self.precision, world.device))
        self.styles: TrainReader | None = None

    @classmethod
    def check(cls, config: RunConfig) -> Manifest:
        manifest = load_first_manifest(config)
        manifest.select(config.data.train_split, config.data.train_conditions)
        style_shards(config, manifest)
        new_style_network(config.model)
        return manifest

    @contextlib.contextmanager
    def open_readers(self, step: int) -> Iterator[TrainReader]:
        config, manifest = self.config, self.manifest
        content_shards = manifest.select(config.data.train_split, config.data.train_conditions)
        with (
            open_images(config, manifest, content_shards, self.world, step) as contents,
            open_styles(config, manifest, self.world, step) as self.styles,
        ):
            yield contents

    def train_step(self, micro_batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        assert self.styles is not None
        (content,) = micro_batches  # optim.accumulate_steps is 1
        self.optimizer.zero_grad(set_to_none=True)
        images = [self._input(batch) for batch in (content, next(self.styles))]
        with evaluation.autocast(self.precision, self.world.device):
            losses = cast(StyleLosses, self.wrapped(*images))
        style_loss = losses.mean + losses.std
        total = losses.content + self.config.style.loss_weight * style_loss
        self.update.backward(total)
        self.update.apply()
        # All ranks have as many images, so the mean of their means is the global mean.
        parts = {
            metric_names.TRAIN_LOSS: total,
            metric_names.TRAIN_CONTENT_LOSS: losses.content,
            metric_names.TRAIN_STYLE_LOSS: style_loss,
        }
        return {name: part.detach().to(torch.float64) / self.world.size for name, part in parts.items()}

    def _input(self, batch: Batch) -> Tensor:
        (images_B3HW,) = self.to_device(batch.images_B3HW)
        return evaluation.normalize(images_B3HW, self.precision, self.memory_format)

    def evaluate(self, step: int) -> None:
        return None

    def checkpoint_content(self) -> dict[str, Any]:
        return {"model": to_cpu(self.network.state_dict()), "loss_scale": to_cpu(self.update.scale_state())}

    def restore(self, saved: Checkpoint) -> None:
        restore_states(self.network, self.optimizer, saved)
        self.update.restore_scale(saved.loss_scale)


def new_style_network(model: ModelConfig) -> StyleNetwork:
    """With the encoder that model.pretrained names, or a distseg checkpoint's. Raises ConfigError, CheckpointError."""
    if model.pretrained is None:
        raise ConfigError(
            "model.pretrained = None: a style network needs a trained encoder; give 'imagenet', a state dict, or the "
            "checkpoint or run of a segmentation network with this backbone"
        )
    network = build_style_network(model)
    try:
        load_backbone(network.backbone, _encoder_state(model))
    except ValueError as error:
        raise CheckpointError(f"model.pretrained = {model.pretrained!r}: {error}") from None
    return network


def _encoder_state(model: ModelConfig) -> dict[str, Tensor]:
    pretrained, prefix = load_pretrained(model), "backbone."
    assert pretrained is not None
    if isinstance(pretrained, Checkpoint):
        return {key.removeprefix(prefix): v for key, v in pretrained.evaluated.items() if key.startswith(prefix)}
    return pretrained
