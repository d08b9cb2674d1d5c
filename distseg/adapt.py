"""python -m distseg.adapt --checkpoint URI --data URI --conditions NAME … --out FILE

Writes a checkpoint's network with batch norm's statistics of other conditions, of which no labels are needed. The file
is what every --checkpoint takes. `evaluate --adapt batchnorm` does the same for each condition it evaluates, and so
tells before whether it helps; training on target images is `train --adapt.conditions …`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from distseg import cli, evaluation, storage
from distseg.config import MAX_MEGAPIXELS, Precision
from distseg.data.shards import load_manifest
from distseg.deployment import load_model
from distseg.errors import CheckpointError, ConfigError
from distseg.training import adaptation, checkpoint

PROG = "python -m distseg.adapt"
_STATISTICS = (".running_mean", ".running_var")  # all else in the file is the checkpoint's, to the bit


@dataclass(frozen=True, kw_only=True)
class Arguments:
    checkpoint: str
    """A checkpoint's directory, a run's (its best), or a file of `export --format weights`; path or URI."""
    data: str
    """Packed data: a directory or s3:// prefix."""
    conditions: tuple[str, ...]
    """Whose images the statistics are of, together."""
    out: str
    """The file: a path or s3:// URI."""
    split: str = "train"
    images: int = 64
    """How many, evenly spread."""
    keep: float = 0.0
    """The share of the training's statistics that stays (evaluate --adapt_keep)."""
    precision: Precision = "auto"
    num_threads: int = 2
    """Decoding threads."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger images are refused by their header, before they are decoded."""


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    if options.images < 2:
        raise ConfigError(f"--images {options.images}: must be at least 2")
    if not 0 <= options.keep < 1:
        raise ConfigError(f"--keep {options.keep:g}: must be at least 0 and below 1")
    if options.num_threads < 1:
        raise ConfigError(f"--num_threads {options.num_threads}: must be at least 1")
    if not options.conditions:
        raise ConfigError("--conditions: name at least one condition")
    uri, saved = checkpoint.resolve(options.checkpoint)
    if saved.source_style:
        raise CheckpointError(
            f"{uri}: style.direction = to_source evaluates with a second network; use evaluate --adapt"
        )
    manifest = load_manifest(options.data)
    shards = manifest.select(options.split, options.conditions)
    cli.check_output("--out", options.out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = evaluation.resolve_precision(options.precision, device)
    model = load_model(saved, device, precision)
    images = adaptation.spread_by_size(
        manifest, shards, options.images, num_threads=options.num_threads, max_megapixels=options.max_megapixels
    )
    num_images = adaptation.recalibrate_on_(model, images, device=device, precision=precision, keep=options.keep)
    statistics = {name: value for name, value in model.state_dict().items() if name.endswith(_STATISTICS)}
    like = saved.evaluated
    adapted = like | {name: value.to(like[name]) for name, value in statistics.items()}
    unscored = replace(saved, model=adapted, averaged={}, metrics={}, tables={}, evaluation={})
    storage.write_bytes(options.out, checkpoint.as_one_file(unscored))
    cli.say(f"{saved.config.model.name} of {uri}, step {saved.step}: statistics of {num_images} images")
    cli.say(f"written     {options.out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
