"""python -m distseg.evaluate --checkpoint URI --data URI [--split val] [--conditions NAME …]
                              [--scales 0.5 0.75 1 …] [--flip] [--sliding] [--adapt batchnorm|tent] [--criteria] …

Evaluates a checkpoint on any split and conditions of packed data: every sample once. Whole images by default; with
scales, flips or sliding windows the softmax is averaged at the image's own size. Under torchrun the ranks share the
images out and the result is the same.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from distseg import cli, evaluation, storage
from distseg.config import Precision
from distseg.data.loading import DatasetPart
from distseg.data.shards import load_manifest
from distseg.deployment import check_classes, load_model
from distseg.errors import ConfigError
from distseg.evaluation import ConfusionMatrix, World, torchrun_world
from distseg.training import adaptation, checkpoint, keep_freed_memory
from distseg.training.checkpoint import Checkpoint

PROG = "python -m distseg.evaluate"


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.InferenceOptions):
    checkpoint: str
    """A checkpoint's directory, a run's (its best), or a file of `export --format weights`; path or URI."""
    data: str
    """Packed data: a directory or s3:// prefix."""
    split: str = "val"
    conditions: tuple[str, ...] = ()
    """Conditions of the split; none: all; SPLIT/CONDITION takes one from another split."""
    adapt: Literal["none", "batchnorm", "tent"] = "none"
    """batchnorm: for each condition, batch norm's statistics are those of its own images; labels are used for scoring
    alone. `python -m distseg.adapt` writes such a network for one set of conditions. tent: batch norm's scales and
    shifts also learn from them, to make the network surer (Wang et al. 2021), which may make it worse."""
    adapt_images: int = 64
    """How many images of each condition it adapts to, evenly spread."""
    adapt_keep: float = 0.0
    """Of batchnorm: the share of the training's statistics that stays, N / (N + n) for n images in Schneider et al.
    2020. The fewer the images, the more should stay."""
    adapt_conditions: tuple[str, ...] = ()
    """Adapt to these alone; none: to all. A condition that was trained on with labels needs no adaptation."""
    criteria: bool = False
    """Also figures that need no labels, of up to --adapt_images images of each condition: certainty and its like."""
    json: str | None = None
    """Also write the table here."""
    metrics: tuple[str, ...] = ()
    """Further metrics, each your own function of distseg.evaluation.PixelCounts as module:name."""
    precision: Precision = "auto"
    """Not the run's own, which gives exactly the figures that its training found."""
    num_threads: int = 2
    """Decoding threads."""
    cache_bytes: int = 8 << 30
    """The most bytes of remote shards that are kept on disk, in --cache_dir, for the next evaluation too; 0: none."""
    cache_dir: str = ""
    """Empty: a directory of this user among the system's temporary files."""


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    if options.json is not None:
        cli.check_output("--json", options.json)
    world = torchrun_world()
    keep_freed_memory(world.device)
    tables = evaluate(options, world)
    if world.rank != 0:
        return 0
    cli.print_conditions(tables, f"{tables['checkpoint']} on {options.data}")
    for condition, figures in tables.get("criteria", {}).items():
        cli.say(f"without labels, {condition}: " + "   ".join(f"{name} {x:.4f}" for name, x in figures.items()))
    if options.json is not None:
        storage.write_bytes(options.json, (json.dumps(tables, indent=1) + "\n").encode())
        cli.say(f"written     {options.json}")
    return 0


def evaluate(options: Arguments, world: World) -> dict[str, Any]:
    """The evaluation as the `--json` contract has it, on every rank.

    Raises CheckpointError, DataError, StorageError, ConfigError.
    """
    _check(options)
    own = evaluation.own_metrics(options.metrics, "--metrics")
    uri, saved = checkpoint.resolve(options.checkpoint)
    manifest = load_manifest(options.data)
    check_classes(saved, manifest)
    shards = evaluation.evaluation_shards(manifest, options.split, options.conditions)
    inference = options.inference(saved.config)
    precision = evaluation.resolve_precision(options.precision, world.device)
    model = load_model(saved, world.device, precision)
    num_images = sum(s.num_samples for s in shards) // world.size
    score: Callable[..., ConfusionMatrix] = evaluation.evaluate_shards
    if options.adapt != "none":
        score = functools.partial(
            adaptation.evaluate_by_condition,
            num_images=options.adapt_images,
            how=options.adapt,
            adapted=options.adapt_conditions,
            keep=options.adapt_keep,
        )
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
    if options.criteria:
        tables["criteria"] = _criteria(options, saved, model, DatasetPart(manifest, shards), world, precision)
    adapted: dict[str, Any] = {} if options.adapt == "none" else {"adapt": options.adapt}
    if options.adapt_keep:
        adapted["adapt_keep"] = options.adapt_keep
    return tables | {"checkpoint": uri, "data": options.data, "data_digest": manifest.digest} | adapted


def _check(options: Arguments) -> None:
    if options.num_threads < 1:
        raise ConfigError(f"--num_threads {options.num_threads}: must be at least 1")
    if options.cache_bytes < 0:
        raise ConfigError(f"--cache_bytes {options.cache_bytes}: must not be negative; 0 is no cache")
    if options.adapt_images < 2:
        raise ConfigError(f"--adapt_images {options.adapt_images}: must be at least 2")
    if not 0 <= options.adapt_keep < 1:
        raise ConfigError(f"--adapt_keep {options.adapt_keep:g}: must be at least 0 and below 1")
    if options.adapt_keep and options.adapt != "batchnorm":
        raise ConfigError(f"--adapt_keep {options.adapt_keep:g}: needs --adapt batchnorm")
    if options.criteria and options.adapt != "none":
        raise ConfigError(f"--criteria: of networks as they are; leave out --adapt {options.adapt}")
    if options.adapt_conditions and options.adapt == "none":
        raise ConfigError(f"--adapt_conditions {options.adapt_conditions[0]}: needs --adapt batchnorm or tent")


def _criteria(
    options: Arguments, saved: Checkpoint, model: nn.Module, part: DatasetPart, world: World, precision: str
) -> dict[str, dict[str, float]]:
    """Of each condition. The network agrees with its moving average, if it has one; ratios of classes are compared with
    those of the labels of its training conditions, if this data set has them."""
    other = load_model(replace(saved, averaged={}), world.device, precision) if saved.averaged else None
    data = saved.config.data
    counts = part.manifest.class_pixels.get(data.train_split, {})
    trained = [counts[name] for name in data.train_conditions or counts if name in counts]
    labelled_K = [sum(of_class) for of_class in zip(*trained, strict=True)] or None
    found = {}
    for condition in sorted({shard.condition for shard in part.shards}):
        found[condition] = adaptation.measure_criteria(
            model,
            other,
            part._replace(shards=tuple(shard for shard in part.shards if shard.condition == condition)),
            options.adapt_images,
            world,
            labelled_K=labelled_K,
            precision=precision,
            num_threads=options.num_threads,
            max_megapixels=options.max_megapixels,
        )
    return found


if __name__ == "__main__":
    cli.run(main)
