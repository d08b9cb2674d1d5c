"""A data set with restyled copies of its images, as samples to be packed or drawn.

images_to_restyle                     the images that `RestylingOptions` names
style_image_for                       the image that gives its style to one of them
original_samples, restyled_samples    the samples of the new data set; loaded in packing processes or Ray tasks
"""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from PIL import Image

from distseg import evaluation, storage
from distseg.config import MAX_MEGAPIXELS
from distseg.data import LabelledImage, Sample, images
from distseg.data.shards import IndexEntry, Manifest, Shard, load_manifest, read_index, read_sample
from distseg.errors import ConfigError
from distseg.models import StyleNetwork
from distseg.training.restyling import in_range, load_style_network


@dataclass(frozen=True, kw_only=True)
class RestylingOptions:
    network: str
    """A checkpoint or run of `distseg.stylize train`."""
    data: str
    """Packed data: a directory or s3:// prefix."""
    to: tuple[str, ...]
    """Target conditions; their images of the split give the styles."""
    conditions: tuple[str, ...] = ()
    """Conditions to restyle; none: all but the targets."""
    split: str = "train"
    strength: float = 1.0
    """Between the image's own style (0) and the target's (1)."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger images are refused by their header, before they are decoded."""
    seed: int = 0
    """Decides which target image gives its style to which image."""

    def __post_init__(self) -> None:
        for flag, uri in (("--network", self.network), ("--data", self.data)):
            if not uri:
                raise ConfigError(f"{flag} '': must not be empty")
        if not self.to:
            raise ConfigError("--to: name at least one condition")
        if len(set(self.to)) < len(self.to):
            raise ConfigError(f"--to {' '.join(self.to)}: name each condition once")
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"--strength {self.strength}: must be in [0, 1]")
        if not self.max_megapixels > 0:
            raise ConfigError(f"--max_megapixels {self.max_megapixels}: must be positive")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: must not be negative")


class PackedImage(NamedTuple):
    """Where a sample lies in packed data."""

    shard: Shard
    entry: IndexEntry


def restyle_image(network: StyleNetwork, content: Image.Image, style: Image.Image, strength: float) -> Image.Image:
    """The composite, of the content's size."""
    content_13HW, style_13HW = (
        evaluation.normalize(torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2), "fp32")
        for image in (content, style)
    )
    composite_3HW = in_range(network.restyle(content_13HW, network.style_of(style_13HW), strength))[0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (evaluation.MEAN_RGB, evaluation.STD_RGB))
    pixels_HW3 = (composite_3HW * std + mean).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels_HW3.numpy())


def images_to_restyle(options: RestylingOptions, manifest: Manifest) -> list[PackedImage]:
    """The images to restyle. Raises DataError for a condition that is not there, ConfigError if none is left."""
    conditions = options.conditions or tuple(c for c in manifest.conditions(options.split) if c not in options.to)
    if not conditions:
        raise ConfigError(f"--to names every condition of {options.split}: name the --conditions to restyle")
    manifest.select(options.split, options.to)
    return list(_packed_images(manifest, options.split, conditions))


def _packed_images(manifest: Manifest, split: str, conditions: Sequence[str] = ()) -> Iterator[PackedImage]:
    for shard in manifest.select(split, conditions):
        for entry in read_index(manifest, shard).entries:
            yield PackedImage(shard, entry)


def style_image_for(manifest: Manifest, options: RestylingOptions, target: str, number: int) -> PackedImage:
    places = _cached_packed_images(manifest.uri, options.split, target)
    return places[int(np.random.default_rng([options.seed, number]).integers(len(places)))]


@functools.lru_cache(maxsize=64)
def _cached_packed_images(uri: str, split: str, condition: str) -> list[PackedImage]:
    return list(_packed_images(load_manifest(uri), split, (condition,)))


def original_samples(manifest: Manifest, split: str) -> Iterator[Sample]:
    for place in _packed_images(manifest, split):
        load = functools.partial(_read, manifest.uri, place)
        yield _sample(manifest, place, place.entry.key, place.shard.condition, load)


def restyled_samples(options: RestylingOptions, manifest: Manifest) -> Iterator[Sample]:
    for number, place in enumerate(images_to_restyle(options, manifest)):
        for target in options.to:
            style = style_image_for(manifest, options, target, number)
            load = functools.partial(_read_restyled, manifest.uri, place, style, options.network, options.strength)
            yield _sample(
                manifest, place, f"{place.entry.key}-as-{target}", f"{place.shard.condition}-as-{target}", load
            )


def _sample(
    manifest: Manifest, place: PackedImage, key: str, condition: str, load: "functools.partial[LabelledImage]"
) -> Sample:
    return Sample(
        key=key,
        condition=condition,
        site=place.shard.site,
        sequence="",
        split=place.shard.split,
        source=f"{place.shard.name}/{place.entry.key}",
        load=load,
        files=(storage.join(manifest.uri, place.shard.name),),
    )


def _read(uri: str, place: PackedImage) -> LabelledImage:
    """As it was packed, byte for byte."""
    files = read_sample(_manifest(uri), *place)
    image_format = "png" if files.image.startswith(b"\x89PNG") else "jpg"
    label_HW = np.asarray(images.decode(files.label, f"{place.shard.name}/{place.entry.key}", is_packed=True))
    return LabelledImage(files.image, cast(Literal["jpg", "png"], image_format), label_HW)


def _read_restyled(
    uri: str, place: PackedImage, style: PackedImage, network_uri: str, strength: float
) -> LabelledImage:
    """In a packing process: the composite as PNG, with the labels of the content."""
    manifest = _manifest(uri)
    composite = restyle_image(_network(network_uri), load_image(manifest, place), load_image(manifest, style), strength)
    buffer = io.BytesIO()
    composite.save(buffer, format="PNG")
    return LabelledImage(buffer.getvalue(), "png", _read(uri, place).label_HW)


def load_image(manifest: Manifest, place: PackedImage) -> Image.Image:
    """Within `images.limited`."""
    source = f"{place.shard.name}/{place.entry.key}"
    return images.as_rgb(images.decode(read_sample(manifest, *place).image, source, is_packed=True), source)


@functools.lru_cache(maxsize=4)
def _manifest(uri: str) -> Manifest:
    return load_manifest(uri)


@functools.lru_cache(maxsize=1)
def _network(uri: str) -> StyleNetwork:
    torch.set_num_threads(1)  # the processes share the cores
    return load_style_network(uri)
