"""python -m distseg.stylize train [RECIPE] [--dotted.field VALUE …]        as distseg.train, by default `adain_town`
python -m distseg.stylize apply --network URI --data URI --out URI --to CONDITION … [--conditions NAME …]
python -m distseg.stylize show --network URI --data URI --to CONDITION … --out FILE.png [--conditions NAME …]

`train` learns a style network: `--model.pretrained` names its encoder (imagenet, a state dict, or a checkpoint of a
segmentation network), `--data.train_conditions` the images to restyle, `--style.conditions` those to take styles from.
`apply` packs a data set anew: everything that was in it, and for each target a restyled copy of each training image of
the named conditions, with its labels, under the condition `NAME-as-TARGET`. `show` draws such copies side by side.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from PIL import Image, ImageDraw

from distseg import cli, inference, storage
from distseg.data.manifest import IndexEntry, Manifest, Shard, load_manifest, read_index, read_sample
from distseg.data.sample import LabelledImage, Sample
from distseg.data.shards import pack
from distseg.errors import ConfigError
from distseg.models.adain import StyleNetwork
from distseg.style import in_range, load_network
from distseg.train import main as train

PROG = "python -m distseg.stylize"


@dataclass(frozen=True, kw_only=True)
class _Restyling:
    network: str
    """A checkpoint or run of `distseg.stylize train`."""
    data: str
    """Packed data: a directory or s3:// prefix."""
    to: tuple[str, ...]
    """Target conditions; their images of the split lend the styles."""
    conditions: tuple[str, ...] = ()
    """Conditions to restyle; none: all but the targets."""
    split: str = "train"
    strength: float = 1.0
    """Between the image's own style (0) and the target's (1)."""
    seed: int = 0
    """Decides which target image lends its style to which image."""

    def __post_init__(self) -> None:
        if not self.to:
            raise ConfigError("--to: name at least one condition")
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"--strength {self.strength}: must be in [0, 1]")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class Apply(_Restyling, cli.Workers):
    """Pack a data set anew, with restyled copies of its training images."""

    out: str
    """Directory or s3:// prefix for the new data set."""
    overwrite: bool = False
    """Replace the shards that are there."""

    def __post_init__(self) -> None:
        _Restyling.__post_init__(self)
        cli.Workers.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class Show(_Restyling):
    """Draw images beside their restyled copies."""

    out: str
    """A PNG file."""
    rows: int = 4


class Place(NamedTuple):
    """A sample of packed data."""

    shard: Shard
    entry: IndexEntry


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "train":
        return train(arguments[1:], default_recipe="adain_town")
    options = cli.parse(Apply | Show, arguments, prog=PROG, description=__doc__ or "")
    options = replace(
        options,
        network=storage.absolute(options.network),
        data=storage.absolute(options.data),
        out=storage.absolute(options.out),
    )
    manifest = load_manifest(options.data)
    load_network(options.network)  # fails now rather than in each task
    return apply(options, manifest) if isinstance(options, Apply) else show(options, manifest)


def apply(options: Apply, manifest: Manifest) -> int:
    splits = {split: list(_originals(manifest, split)) for split in manifest.splits}
    splits[options.split] += list(_restyled_samples(options, manifest))
    num_images = sum(len(samples) for samples in splits.values())
    with cli.progress("restyling", "images") as progress:
        made = pack(
            splits,
            manifest.label_space,
            options.out,
            dataset=manifest.dataset,
            seed=options.seed,
            run=options.runner(options.out),
            progress=progress,
            overwrite=options.overwrite,
        )
    print(f"{num_images} images in {len(made.shards)} shards")
    print(f"written     {options.out}")
    return 0


def show(options: Show, manifest: Manifest) -> int:
    network = load_network(options.network)
    chosen = _chosen(options, manifest)
    rows = [chosen[i * len(chosen) // options.rows] for i in range(min(options.rows, len(chosen)))]
    drawn = [_row(options, manifest, network, place, number) for number, place in enumerate(rows)]
    sheet = Image.new("RGB", (drawn[0].width, sum(row.height for row in drawn)), "white")
    top = 0
    for row in drawn:
        sheet.paste(row, (0, top))
        top += row.height
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    storage.write_bytes(options.out, buffer.getvalue())
    print(f"written     {options.out}")
    return 0


def _row(options: Show, manifest: Manifest, network: StyleNetwork, place: Place, number: int) -> Image.Image:
    """The image, then for each target the image whose style is taken and the composite."""
    content = _image(manifest, place)
    cells = [(content, place.shard.condition)]
    for target in options.to:
        style = _image(manifest, _style_place(manifest, options, target, number))
        cells += [(style, target), (restyle(network, content, style, options.strength), f"as {target}")]
    row = Image.new("RGB", (content.width * len(cells), content.height + 14), "white")
    for column, (image, caption) in enumerate(cells):
        row.paste(image.resize(content.size), (column * content.width, 14))
        ImageDraw.Draw(row).text((column * content.width + 2, 1), caption, fill="black")
    return row


def restyle(network: StyleNetwork, content: Image.Image, style: Image.Image, strength: float) -> Image.Image:
    """The composite, of the content's size."""
    content_13HW, style_13HW = (
        inference.normalize(torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2), "fp32")
        for image in (content, style)
    )
    composite_3HW = in_range(network.restyle(content_13HW, network.style_of(style_13HW), strength))[0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (inference.MEAN_RGB, inference.STD_RGB))
    pixels_HW3 = (composite_3HW * std + mean).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels_HW3.numpy())


# ---- samples


def _chosen(options: _Restyling, manifest: Manifest) -> list[Place]:
    """The images to restyle. Raises DataError for a condition that is not there, ConfigError if none is left."""
    conditions = options.conditions or tuple(c for c in manifest.conditions(options.split) if c not in options.to)
    if not conditions:
        raise ConfigError(f"--to names every condition of {options.split}: name the --conditions to restyle")
    manifest.select(options.split, options.to)
    return list(_places(manifest, options.split, conditions))


def _places(manifest: Manifest, split: str, conditions: Sequence[str] = ()) -> Iterator[Place]:
    for shard in manifest.select(split, conditions):
        for entry in read_index(manifest, shard).entries:
            yield Place(shard, entry)


def _style_place(manifest: Manifest, options: _Restyling, target: str, number: int) -> Place:
    places = _cached_places(manifest.uri, options.split, target)
    return places[int(np.random.default_rng([options.seed, number]).integers(len(places)))]


@functools.lru_cache(maxsize=64)
def _cached_places(uri: str, split: str, condition: str) -> list[Place]:
    return list(_places(load_manifest(uri), split, (condition,)))


def _originals(manifest: Manifest, split: str) -> Iterator[Sample]:
    for place in _places(manifest, split):
        yield _sample(place, place.entry.key, place.shard.condition, functools.partial(_read, manifest.uri, place))


def _restyled_samples(options: Apply, manifest: Manifest) -> Iterator[Sample]:
    for number, place in enumerate(_chosen(options, manifest)):
        for target in options.to:
            style = _style_place(manifest, options, target, number)
            load = functools.partial(_read_restyled, manifest.uri, place, style, options.network, options.strength)
            yield _sample(place, f"{place.entry.key}-as-{target}", f"{place.shard.condition}-as-{target}", load)


def _sample(place: Place, key: str, condition: str, load: "functools.partial[LabelledImage]") -> Sample:
    return Sample(
        key=key,
        condition=condition,
        site=place.shard.site,
        sequence="",
        split=place.shard.split,
        source=f"{place.shard.name}/{place.entry.key}",
        load=load,
    )


def _read(uri: str, place: Place) -> LabelledImage:
    """As it was packed, byte for byte."""
    files = read_sample(_manifest(uri), *place)
    image_format = "png" if files.image.startswith(b"\x89PNG") else "jpg"
    label_HW = np.asarray(Image.open(io.BytesIO(files.label)))
    return LabelledImage(files.image, cast(Literal["jpg", "png"], image_format), label_HW)


def _read_restyled(uri: str, place: Place, style: Place, network_uri: str, strength: float) -> LabelledImage:
    """In a packing process: the composite as PNG, with the labels of the content."""
    manifest = _manifest(uri)
    composite = restyle(_network(network_uri), _image(manifest, place), _image(manifest, style), strength)
    buffer = io.BytesIO()
    composite.save(buffer, format="PNG")
    return LabelledImage(buffer.getvalue(), "png", _read(uri, place).label_HW)


def _image(manifest: Manifest, place: Place) -> Image.Image:
    return Image.open(io.BytesIO(read_sample(manifest, *place).image)).convert("RGB")


@functools.lru_cache(maxsize=4)
def _manifest(uri: str) -> Manifest:
    return load_manifest(uri)


@functools.lru_cache(maxsize=1)
def _network(uri: str) -> StyleNetwork:
    torch.set_num_threads(1)  # the processes share the cores
    return load_network(uri)


if __name__ == "__main__":
    cli.run(main)
