"""python -m distseg.evaluate --checkpoint URI --data URI [--split val] [--conditions NAME …]
                              [--scales 0.5 0.75 1 …] [--flip] [--sliding] [--adapt batchnorm] [--json FILE]

Evaluates a checkpoint on any split and conditions of packed data: every sample once. Whole images by default; with
scales, flips or sliding windows the softmax is averaged at the image's own size. Under torchrun the ranks share the
images out and the result is the same.
"""

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distseg import cli, evaluation, storage
from distseg.config import Precision
from distseg.data.shards import load_manifest
from distseg.deployment import check_classes, load_model
from distseg.errors import ConfigError
from distseg.evaluation import World, torchrun_world
from distseg.training import adaptation, checkpoint

PROG = "python -m distseg.evaluate"


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.InferenceOptions):
    checkpoint: str
    """A checkpoint's directory, a run's (its best by val/mIoU), or a file of `export --format weights`; path or URI."""
    data: str
    """Packed data: a directory or s3:// prefix."""
    split: str = "val"
    conditions: tuple[str, ...] = ()
    """Conditions of the split; none: all; SPLIT/CONDITION takes one from another split."""
    adapt: Literal["none", "batchnorm"] = "none"
    """batchnorm: for each condition, batch norm's statistics are those of its own images; labels are used for scoring
    alone. `python -m distseg.adapt` writes such a network for one set of conditions."""
    adapt_images: int = 64
    """How many images of each condition the statistics are taken from, evenly spread."""
    json: str | None = None
    """Also write the table here."""
    metrics: tuple[str, ...] = ()
    """Further metrics, each your own function of distseg.evaluation.PixelCounts as module:name."""
    precision: Precision = "auto"
    num_threads: int = 2
    """Decoding threads."""
    cache_bytes: int = 8 << 30
    """The most bytes of shards from S3 that are kept on disk, in --cache_dir, for the next evaluation too; 0: none."""
    cache_dir: str = ""
    """Empty: a directory of this user among the system's temporary files."""


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    if options.json is not None:
        storage.check_writable(options.json.rpartition("/")[0] or ".")
    world = torchrun_world()
    tables = evaluate(options, world)
    if world.rank != 0:
        return 0
    cli.print_conditions(tables, f"{tables['checkpoint']} on {options.data}")
    if options.json is not None:
        storage.write_bytes(options.json, (json.dumps(tables, indent=1) + "\n").encode())
        cli.say(f"written     {options.json}")
    return 0


def evaluate(options: Arguments, world: World) -> dict[str, Any]:
    """The evaluation as the `--json` contract has it, on every rank.

    Raises CheckpointError, DataError, StorageError, ConfigError.
    """
    if options.num_threads < 1:
        raise ConfigError(f"--num_threads {options.num_threads}: must be at least 1")
    if options.cache_bytes < 0:
        raise ConfigError(f"--cache_bytes {options.cache_bytes}: must not be negative; 0 is no cache")
    if options.adapt_images < 2:
        raise ConfigError(f"--adapt_images {options.adapt_images}: must be at least 2")
    own = evaluation.own_metrics(options.metrics, "--metrics")
    uri, saved = checkpoint.resolve(options.checkpoint)
    manifest = load_manifest(options.data)
    check_classes(saved, manifest)
    shards = evaluation.evaluation_shards(manifest, options.split, options.conditions)
    inference = options.inference(saved.config)
    precision = evaluation.resolve_precision(options.precision, world.device)
    model = load_model(saved, world.device, precision)
    num_images = sum(s.num_samples for s in shards) // world.size
    by_condition = functools.partial(adaptation.evaluate_by_condition, num_images=options.adapt_images)
    score = by_condition if options.adapt == "batchnorm" else evaluation.evaluate_shards
    with cli.progress("evaluating", "images") if world.rank == 0 else contextlib.nullcontext() as progress:
        counted = score(
            model,
            manifest,
            shards,
            world,
            precision=precision,
            inference=inference,
            num_threads=options.num_threads,
            max_megapixels=options.max_megapixels,
            cache_bytes=options.cache_bytes,
            cache_dir=options.cache_dir,
            progress=(lambda num_done: progress(num_done, num_images)) if progress else None,
        )
    tables = evaluation.as_table(counted, manifest.label_space, own)
    adapted = {} if options.adapt == "none" else {"adapt": options.adapt}
    return tables | {"checkpoint": uri, "data": options.data, "data_digest": manifest.digest} | adapted


if __name__ == "__main__":
    cli.run(main)
