"""Restyling by AdaIN, and the training of the style network (Song et al. 2021, part b).

Content images are those of data.train_conditions, style images those of style.conditions, both of the train split and
without their labels. The network trains as everything else does: `fit_style` has the signature of `fit`.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distseg import evaluation
from distseg.config import AugmentConfig, ModelConfig, RunConfig
from distseg.data.loading import Batch, TrainReader, eval_samples
from distseg.data.shards import Manifest, Shard, load_manifest
from distseg.errors import CheckpointError, ConfigError, first_line
from distseg.evaluation import World
from distseg.models import (
    Logits,
    SegmentationModel,
    Statistics,
    StyleLosses,
    StyleNetwork,
    build_style_network,
    load_backbone,
)
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint
from distseg.training.loop import (
    FiniteLosses,
    Report,
    Watch,
    agreed_precision,
    due,
    keep_freed_memory,
    open_reader,
    restore_states,
    snapshot,
)
from distseg.training.optim import build_optimizer, learning_rate, set_learning_rate
from distseg.training.pretrained import load_pretrained

STYLE_SEED = 7919  # style images come in another order than the content images they are paired with
SOURCE_IMAGES = 64  # whose mean statistics are the training set's style

BLACK_131 = -torch.tensor(evaluation.MEAN_RGB).view(3, 1, 1) / torch.tensor(evaluation.STD_RGB).view(3, 1, 1)
WHITE_131 = (255 - torch.tensor(evaluation.MEAN_RGB).view(3, 1, 1)) / torch.tensor(evaluation.STD_RGB).view(3, 1, 1)


# ------------------------------------------------------------------------------------------------------------ restyling


def load_network(uri: str) -> StyleNetwork:
    """The style network of a checkpoint or run of `distseg.stylize train`, in eval mode. Raises CheckpointError."""
    found, saved = checkpoint.resolve(uri)
    if not saved.config.model.is_style_network:
        raise CheckpointError(
            f"{found}: a checkpoint of {saved.config.model.name}, not of a style network; "
            "train one with python -m distseg.stylize train"
        )
    network = build_style_network(saved.config.model)
    try:
        network.load_state_dict(saved.evaluated)
    except RuntimeError as error:
        raise CheckpointError(f"{found}: its weights do not fit its style network: {first_line(error)}") from None
    return network.requires_grad_(False).eval()


class Restyler:
    """Restyles training images towards those of other conditions, the same ones on any number of ranks."""

    def __init__(self, config: RunConfig, manifest: Manifest, world: World, precision: str, step: int) -> None:
        assert config.style.network is not None
        self.style, self.seed, self.precision, self.world = config.style, config.seed, precision, world
        dtype = torch.float64 if precision == "fp64" else torch.float32
        self.network = load_network(config.style.network).to(world.device, dtype)
        self.reader = open_styles(config, manifest, world, step)

    def composites(self, images_B3HW: Tensor) -> Tensor:
        """The next batch's images, normalised, each in the style of an image of the target conditions."""
        style_B3HW = next(self.reader).images_B3HW.to(images_B3HW.device, non_blocking=True)
        with evaluation.autocast(self.precision, images_B3HW.device):
            wanted = self.network.style_of(evaluation.normalize(style_B3HW, self.precision))
            return in_range(self.network.restyle(images_B3HW, wanted, self.style.strength)).to(images_B3HW.dtype)

    def chosen(self, batch: Batch) -> Tensor:
        """Which images of a batch are restyled, (B,) bool: a function of the seed and the position in the stream."""
        drawn = [np.random.default_rng([self.seed, STYLE_SEED, p]).random() for p in batch.positions]
        return torch.tensor(drawn) < self.style.probability

    def close(self) -> None:
        self.reader.close()


def in_range(images_B3HW: Tensor) -> Tensor:
    """Normalised colours between black and white."""
    limits = (limit.to(images_B3HW) for limit in (BLACK_131, WHITE_131))
    return images_B3HW.clamp(*limits)


class TowardsSource(SegmentationModel):
    """A segmentation network whose images are first given the style of its training set."""

    def __init__(self, model: SegmentationModel, network: StyleNetwork, style: Statistics, strength: float) -> None:
        super().__init__()
        self.model, self.network, self.strength = model, network, strength
        self.backbone, self.output_stride = model.backbone, model.output_stride
        self.wanted = style

    def forward(self, images_B3HW: Tensor) -> Logits:
        wanted = Statistics(*(x.to(images_B3HW) for x in self.wanted))
        restyled_B3HW = in_range(self.network.restyle(images_B3HW, wanted, self.strength))
        logits: Logits = self.model(restyled_B3HW.to(images_B3HW.dtype))
        return logits


def source_style(network: StyleNetwork, config: RunConfig, manifest: Manifest, device: torch.device) -> Statistics:
    """The mean statistics of up to SOURCE_IMAGES training images, evenly spread; the same on every rank."""
    shards = manifest.select(config.data.train_split, config.data.train_conditions)
    num_images = sum(shard.num_samples for shard in shards)
    every = max(1, num_images // SOURCE_IMAGES)
    found: list[Statistics] = []
    samples = eval_samples(manifest, shards, num_threads=config.data.num_threads, deadline_s=config.data.deadline_s)
    for i, sample in enumerate(samples):
        if i % every == 0 and len(found) < SOURCE_IMAGES:
            image_13HW = evaluation.normalize(sample.image_3HW[None].to(device), "fp32")
            found.append(network.style_of(image_13HW.to(next(network.parameters()).dtype)))
    mean, std = (torch.stack(list(parts)).mean(0) for parts in zip(*found, strict=True))
    return Statistics(mean, std)


# ---------------------------------------------------------------------------------------------------- the style network


def style_shards(config: RunConfig, manifest: Manifest) -> tuple[Shard, ...]:
    """Of the target conditions, train split only. Raises DataError for a condition that is not there."""
    return manifest.select(config.data.train_split, config.style.conditions)


def check_style(config: RunConfig) -> Manifest:
    """Everything that can be known to fail before a cluster is asked for anything; returns the data's manifest."""
    if not config.data.uri:
        raise ConfigError("data.uri is empty: give the directory or s3:// prefix that `python -m distseg.pack` wrote")
    manifest = load_manifest(config.data.uri)
    manifest.select(config.data.train_split, config.data.train_conditions)
    style_shards(config, manifest)
    new_network(config.model)
    return manifest


def new_network(model: ModelConfig) -> StyleNetwork:
    """With the encoder that model.pretrained names, or a distseg checkpoint's. Raises ConfigError, CheckpointError."""
    if model.pretrained is None:
        raise ConfigError(
            "model.pretrained = None: a style network needs a trained encoder; give 'imagenet', a state dict, or the "
            "checkpoint or run of a segmentation network with this backbone"
        )
    network = build_style_network(model)
    try:
        load_backbone(network.backbone, encoder_state(model))
    except ValueError as error:
        raise CheckpointError(f"model.pretrained = {model.pretrained!r}: {error}") from None
    return network


def encoder_state(model: ModelConfig) -> dict[str, Tensor]:
    pretrained, prefix = load_pretrained(model), "backbone."
    assert pretrained is not None
    if isinstance(pretrained, Checkpoint):
        return {key.removeprefix(prefix): v for key, v in pretrained.evaluated.items() if key.startswith(prefix)}
    return pretrained


@dataclass
class StyleTraining:
    """The objects a style network trains with, and how far it is."""

    config: RunConfig
    world: World
    manifest: Manifest
    precision: str
    network: StyleNetwork
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0


def fit_style(
    config: RunConfig, world: World, report: Report, *, resume: Checkpoint | None = None, run_id: str = ""
) -> StyleTraining:
    """Trains the decoder of a style network to optim.max_steps; see `fit`, whose promises hold here too.

    Logs train/loss = content + style.loss_weight · (mean + std), and the parts. There is nothing to evaluate: the
    newest checkpoint is the result.
    """
    training = prepare_style(config, world)
    if resume is not None:
        restore_style(training, resume)
        if world.rank == 0:
            report.log(training.step, {"train/resumed_at": float(training.step)})
    manifest, max_steps = training.manifest, config.optim.max_steps
    content_shards = manifest.select(config.data.train_split, config.data.train_conditions)
    with (
        open_images(config, manifest, content_shards, world, training.step) as content,
        open_styles(config, manifest, world, training.step) as style,
    ):
        watch = Watch(content, config.data.batch_size, training.step)
        losses = FiniteLosses(world)
        while training.step < max_steps:
            lr = learning_rate(training.step, config.optim)
            set_learning_rate(training.optimizer, lr, config.optim)
            batch = next(content)
            losses.expect(training.step + 1, style_step(training, batch, next(style)), [batch])
            training.step += 1
            step = training.step
            if due(step, config.tracking.log_every_steps, max_steps) or step == 1:
                total, content_loss, style_loss = losses.check()
                if world.rank == 0:
                    parts = {"train/loss": total, "train/content_loss": content_loss, "train/style_loss": style_loss}
                    report.log(step, parts | {"train/lr": lr} | watch.rates(step))
            if due(step, config.checkpoint.every_steps, max_steps):
                losses.check()
                report.save(step, capture_style(training, report, run_id), {})
                watch.restart(step)
    return training


def prepare_style(config: RunConfig, world: World) -> StyleTraining:
    keep_freed_memory(world.device)
    manifest = load_manifest(config.data.uri)
    precision = agreed_precision(config, world)
    torch.manual_seed(config.seed)
    network = new_network(config.model)
    network = network.to(world.device, torch.float64 if precision == "fp64" else torch.float32)
    network.to(memory_format=torch.channels_last)
    wrapped: nn.Module = network
    if world.size > 1:
        devices = [world.device] if world.device.type == "cuda" else None
        wrapped = DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)
    return StyleTraining(
        config=config,
        world=world,
        manifest=manifest,
        precision=precision,
        network=network.train(),
        wrapped=wrapped,
        optimizer=build_optimizer(network, config.optim),
    )


def style_step(training: StyleTraining, content: Batch, style: Batch) -> Tensor:
    """One optimiser step. Returns this rank's parts of the global (loss, content, style) losses, float64, shape (3,).

    The ranks' shares are all of one size, so the mean of their means is the global mean.
    """
    device = training.world.device
    training.optimizer.zero_grad(set_to_none=True)
    images = [
        evaluation.normalize(batch.images_B3HW.to(device, non_blocking=True), training.precision)
        for batch in (content, style)
    ]
    with evaluation.autocast(training.precision, device):
        losses = cast(StyleLosses, training.wrapped(*images))
    style_loss = losses.mean + losses.std
    total = losses.content + training.config.style.loss_weight * style_loss
    total.backward()
    training.optimizer.step()
    return torch.stack([total, losses.content, style_loss]).detach().to(torch.float64) / training.world.size


def capture_style(training: StyleTraining, report: Report, run_id: str) -> Checkpoint | None:
    if training.world.rank != 0:
        return None
    return snapshot(
        training.config,
        training.manifest,
        training.step,
        training.network,
        training.optimizer,
        report,
        run_id,
    )


def restore_style(training: StyleTraining, saved: Checkpoint) -> None:
    checkpoint.check_resumable(training.config, training.manifest, saved)
    restore_states(training.network, training.optimizer, saved)
    training.step = saved.step


def open_images(
    config: RunConfig, manifest: Manifest, shards: tuple[Shard, ...], world: World, step: int
) -> TrainReader:
    """This rank's images to restyle, mirrored and scaled only, from a step on."""
    augment = AugmentConfig(mirror=True, scale=config.augment.scale, rotate_deg=0.0, blur=0.0)
    return open_reader(config, manifest, shards, world, step, augment)


def open_styles(config: RunConfig, manifest: Manifest, world: World, step: int) -> TrainReader:
    """This rank's images to take styles from, in another order than the content images they meet."""
    other_order = replace(config, seed=config.seed + STYLE_SEED)
    return open_images(other_order, manifest, style_shards(config, manifest), world, step)
