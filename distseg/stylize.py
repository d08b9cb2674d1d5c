"""python -m distseg.stylize train [RECIPE] [--dotted.field VALUE …]        as distseg.train, by default `adain_town`
python -m distseg.stylize apply --network URI --data URI --out URI --to CONDITION … [--conditions NAME …]
python -m distseg.stylize show --network URI --data URI --to CONDITION … --out FILE.png [--conditions NAME …]

`train` learns a style network: `--model.pretrained` names its encoder (imagenet, a state dict, or a checkpoint of a
segmentation network), `--data.train_conditions` the images to restyle, `--style.conditions` those to take styles from.
`apply` packs a data set anew: everything that was in it, and for each target a restyled copy of each training image of
the named conditions, with its labels, under the condition `NAME-as-TARGET`. `show` draws such copies side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from distseg import cli, deployment, storage, training
from distseg.data import images
from distseg.data.shards import Manifest, load_manifest, pack
from distseg.errors import ConfigError
from distseg.models import StyleNetwork
from distseg.training import PackedImage, RestylingOptions, load_style_network

PROG = "python -m distseg.stylize"


@dataclass(frozen=True, kw_only=True)
class Apply(RestylingOptions, cli.Workers):
    """Pack a data set anew, with restyled copies of its training images."""

    out: str
    """Directory or s3:// prefix for the new data set."""
    overwrite: bool = False
    """Replace the shards that are there."""

    def __post_init__(self) -> None:
        RestylingOptions.__post_init__(self)
        cli.Workers.__post_init__(self)
        cli.check_named("--out", self.out)


@dataclass(frozen=True, kw_only=True)
class Show(RestylingOptions):
    """Draw images beside their restyled copies."""

    out: str
    """A PNG file."""
    rows: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < 1:
            raise ConfigError(f"--rows {self.rows}: must be at least 1")


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "train":
        return cli.train_command(
            arguments[1:], default_recipe="adain_town", prog=f"{PROG} train", description=__doc__ or ""
        )
    if not arguments or (not arguments[0].startswith("-") and arguments[0] not in ("apply", "show")):
        given = f" {arguments[0]}" if arguments else ""
        raise ConfigError(f"stylize{given}: give train, apply or show ({PROG} --help says what each does)")
    options = cli.parse(Apply | Show, arguments, prog=PROG, description=__doc__ or "")
    options = replace(
        options,
        network=storage.absolute(options.network),
        data=storage.absolute(options.data),
        out=storage.absolute(options.out),
    )
    if isinstance(options, Apply) and storage.is_same_place(options.out, options.data):
        raise ConfigError(f"--out {options.out}: is where --data lies, which is read meanwhile; choose another place")
    manifest = load_manifest(options.data)
    load_style_network(options.network)  # fails now rather than in each task
    return apply(options, manifest) if isinstance(options, Apply) else show(options, manifest)


def apply(options: Apply, manifest: Manifest) -> int:
    splits = {split: list(training.original_samples(manifest, split)) for split in manifest.splits}
    splits[options.split] += list(training.restyled_samples(options, manifest))
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
            max_megapixels=options.max_megapixels,
        )
    cli.say(f"{num_images} images in {len(made.shards)} shards")
    cli.say(f"written     {options.out}")
    return 0


def show(options: Show, manifest: Manifest) -> int:
    network = load_style_network(options.network)
    cli.check_output("--out", options.out)
    chosen = training.images_to_restyle(options, manifest)
    rows = [chosen[i * len(chosen) // options.rows] for i in range(min(options.rows, len(chosen)))]
    with images.limited(options.max_megapixels):
        drawn = [_row(options, manifest, network, place, number) for number, place in enumerate(rows)]
    sheet = Image.new("RGB", (drawn[0].width, sum(row.height for row in drawn)), "white")
    top = 0
    for row in drawn:
        sheet.paste(row, (0, top))
        top += row.height
    storage.write_bytes(options.out, deployment.png_bytes(sheet))
    cli.say(f"written     {options.out}")
    return 0


def _row(options: Show, manifest: Manifest, network: StyleNetwork, place: PackedImage, number: int) -> Image.Image:
    """The image, then for each target the image whose style is taken and the composite."""
    content = training.load_image(manifest, place)
    cells = [(content, place.shard.condition)]
    for target in options.to:
        style = training.load_image(manifest, training.style_image_for(manifest, options, target, number))
        cells += [(style, target), (training.restyle_image(network, content, style, options.strength), f"as {target}")]
    row = Image.new("RGB", (content.width * len(cells), content.height + 14), "white")
    for column, (image, caption) in enumerate(cells):
        row.paste(image.resize(content.size), (column * content.width, 14))
        ImageDraw.Draw(row).text((column * content.width + 2, 1), caption, fill="black")
    return row


if __name__ == "__main__":
    cli.run(main)
