"""Restyling by AdaIN in training and at evaluation (Song et al. 2021, part b).

A style network gives an image (the content) the style of another one; the result is called their composite. Content
images are those of data.train_conditions, style images those of style.conditions, both of the train split.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distseg import evaluation
from distseg.config import AugmentConfig, RunConfig
from distseg.data.loading import Batch, DatasetPart, TrainReader, spread_samples
from distseg.data.shards import Manifest, Shard
from distseg.errors import CheckpointError, first_line
from distseg.evaluation import World
from distseg.models import Logits, SegmentationModel, Statistics, StyleNetwork, build_style_network
from distseg.training import checkpoint
from distseg.training.data_selection import open_reader
from distseg.training.process import dtype_of, from_host

STYLE_SEED = 7919  # style images come in another order than the content images they are paired with
SOURCE_IMAGES = 64  # whose mean statistics are the training set's style

BLACK, WHITE = (
    tuple((colour - mean) / std for mean, std in zip(evaluation.MEAN_RGB, evaluation.STD_RGB, strict=True))
    for colour in (0.0, 255.0)
)


def load_style_network(uri: str) -> StyleNetwork:
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


def in_range(images_B3HW: Tensor) -> Tensor:
    """Normalised colours, clamped between black and white."""
    black_311, white_311 = (evaluation.of_colours(colour, images_B3HW) for colour in (BLACK, WHITE))
    return images_B3HW.clamp(black_311, white_311)


# ---------------------------------------------------------------------------------------------------------- in training


class Restyler:
    """Restyles training images towards those of other conditions, the same ones on any number of ranks."""

    def __init__(self, config: RunConfig, manifest: Manifest, world: World, precision: str, step: int) -> None:
        assert config.style.network is not None
        self.style, self.seed, self.precision, self.world = config.style, config.seed, precision, world
        self.network = load_style_network(config.style.network).to(world.device, dtype_of(precision))
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
        is_chosen = [each < self.style.probability for each in drawn]
        return from_host(torch.tensor(is_chosen), self.world.device)

    def close(self) -> None:
        self.reader.close()


def style_shards(config: RunConfig, manifest: Manifest) -> tuple[Shard, ...]:
    """Of the target conditions, train split only. Raises DataError for a condition that is not there."""
    return manifest.select(config.data.train_split, config.style.conditions)


def open_images(
    config: RunConfig, manifest: Manifest, shards: tuple[Shard, ...], world: World, step: int
) -> TrainReader:
    """This rank's images to restyle, mirrored and scaled only, from a step on."""
    augment = AugmentConfig(mirror=True, scale=config.augment.scale, rotate_deg=0.0, blur=0.0)
    return open_reader(config, [DatasetPart(manifest, shards)], world, step, augment)


def open_styles(config: RunConfig, manifest: Manifest, world: World, step: int) -> TrainReader:
    """This rank's images to take styles from, in another order than the content images they meet."""
    other_order = replace(config, seed=config.seed + STYLE_SEED)
    return open_images(other_order, manifest, style_shards(config, manifest), world, step)


# -------------------------------------------------------------------------------------------------------- at evaluation


class SourceStyle(NamedTuple):
    """The style of the training set, and the network that gives it to images: of style.direction to_source."""

    network: StyleNetwork
    statistics: Statistics

    @classmethod
    def of_run(
        cls, config: RunConfig, manifest: Manifest, device: torch.device, precision: str
    ) -> "SourceStyle | None":
        """None for a run that does not restyle at evaluation."""
        if config.style.network is None or config.style.direction != "to_source":
            return None
        network = load_style_network(config.style.network).to(device, dtype_of(precision))
        return cls(network, _mean_style(network, config, manifest, device))


def _mean_style(network: StyleNetwork, config: RunConfig, manifest: Manifest, device: torch.device) -> Statistics:
    """The mean statistics of up to SOURCE_IMAGES training images, evenly spread; the same on every rank."""
    shards = manifest.select(config.data.train_split, config.data.train_conditions)
    data, found = config.data, list[Statistics]()
    samples = spread_samples(
        manifest,
        shards,
        SOURCE_IMAGES,
        num_threads=data.num_threads,
        deadline_s=data.deadline_s,
        max_megapixels=data.max_megapixels,
    )
    for sample in samples:
        image_13HW = evaluation.normalize(sample.image_3HW[None].to(device), "fp32")
        found.append(network.style_of(image_13HW.to(next(network.parameters()).dtype)))
    mean, std = (torch.stack(list(parts)).mean(0) for parts in zip(*found, strict=True))
    return Statistics(mean, std)


class TowardsSource(SegmentationModel):
    """A segmentation network whose images are first given the style of its training set."""

    def __init__(self, model: SegmentationModel, source: SourceStyle, strength: float) -> None:
        super().__init__()
        self.model, self.network, self.strength = model, source.network, strength
        self.backbone, self.output_stride = model.backbone, model.output_stride
        self.wanted = source.statistics

    def forward(self, images_B3HW: Tensor) -> Logits:
        wanted = Statistics(*(x.to(images_B3HW) for x in self.wanted))
        restyled_B3HW = in_range(self.network.restyle(images_B3HW, wanted, self.strength))
        logits: Logits = self.model(restyled_B3HW.to(images_B3HW.dtype))
        return logits
