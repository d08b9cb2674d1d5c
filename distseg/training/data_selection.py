"""Which data a run trains and is evaluated on, and the readers of the training images."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from distseg import evaluation, metric_names
from distseg.config import AugmentConfig, RunConfig, Sampling
from distseg.data.loading import DatasetPart, ReadOptions, TrainReader
from distseg.data.shards import Manifest, Shard, combined_digest, load_manifest
from distseg.errors import ConfigError, DataError
from distseg.evaluation import World


class SelectedData(NamedTuple):
    """The data of a segmentation."""

    manifest: Manifest  # of data.uri; its digest is that of all data sets
    parts: tuple[DatasetPart, ...]  # of the training: data.uri's, then those of data.mix
    val_shards: tuple[Shard, ...]


def load_first_manifest(config: RunConfig) -> Manifest:
    """That of data.uri. Raises ConfigError if there is none."""
    if not config.data.uri:
        raise ConfigError("data.uri is empty: give the directory or s3:// prefix that `python -m distseg.pack` wrote")
    return load_manifest(config.data.uri)


def select_data(config: RunConfig) -> SelectedData:
    """Raises ConfigError or DataError if something asked for is not there, or is both trained and evaluated on."""
    try:
        config.model.check_batch(config.micro_batch_size)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    data, manifest = config.data, load_first_manifest(config)
    manifests = [manifest, *map(load_manifest, data.mix)]
    check_mixable(manifests)
    parts = tuple(DatasetPart(each, _train_shards(config, each, manifests)) for each in manifests)
    val_shards = evaluation.evaluation_shards(manifest, data.val_split, data.val_conditions)
    evaluation.check_disjoint(parts[0].shards, val_shards)
    _check_ranked(config.checkpoint.best_by, [shard.condition for shard in val_shards])
    _check_labelled(config, parts, val_shards)
    targets = select_targets(config, manifest)
    if targets is not None and config.adapt.uri:
        manifests.append(targets.manifest)
    return SelectedData(replace(manifest, digest=combined_digest(manifests)), parts, val_shards)


def _check_ranked(best_by: str, evaluated: Sequence[str]) -> None:
    condition = metric_names.condition_of(best_by)
    if condition is not None and condition not in evaluated:
        raise ConfigError(
            f"checkpoint.best_by = {best_by!r}: {condition} is not evaluated; choose from "
            f"{', '.join(sorted({*evaluated}))}"
        )


def select_targets(config: RunConfig, manifest: Manifest) -> DatasetPart | None:
    """The shards of adapt.conditions, whatever their classes. Raises DataError for a condition that is not there."""
    if not config.adapt.conditions:
        return None
    found = load_manifest(config.adapt.uri) if config.adapt.uri else manifest
    return DatasetPart(found, found.select(config.data.train_split, config.adapt.conditions))


def select_unlabelled(config: RunConfig, manifest: Manifest) -> DatasetPart | None:
    """The shards on which figures without labels are measured: of evaluate.targets, else of adapt.conditions.

    Raises DataError for a condition that is not there.
    """
    if not config.evaluate.target_images:
        return None
    if not config.evaluate.targets:
        return select_targets(config, manifest)
    split = config.data.train_split
    return DatasetPart(manifest, evaluation.evaluation_shards(manifest, split, config.evaluate.targets))


def check_mixable(manifests: Sequence[Manifest]) -> None:
    """Raises DataError unless these are different data sets whose train ids mean the same."""
    first, *others = manifests
    for i, other in enumerate(others, 1):
        for before in manifests[:i]:
            if other.digest == before.digest:
                raise DataError(f"data.mix: {other.uri} is the same data as {before.uri}; give one of them more weight")
        pairs = itertools.zip_longest(other.label_space.classes, first.label_space.classes, fillvalue="none")
        for train_id, (theirs, ours) in enumerate(pairs):
            if theirs != ours:
                raise DataError(
                    f"data.mix: class {train_id} of {other.uri} ({other.label_space.name}) is {theirs}, of {first.uri} "
                    f"({first.label_space.name}) {ours}; pack both with the same --relabel"
                )


def _train_shards(config: RunConfig, manifest: Manifest, manifests: Sequence[Manifest]) -> tuple[Shard, ...]:
    """Of the conditions to train on, those that the data set has; in a mixture it need not have all."""
    split, conditions = config.data.train_split, config.data.train_conditions
    elsewhere = {c for other in manifests if other is not manifest for c in other.conditions(split)}
    own = [c for c in conditions if c in manifest.conditions(split) or c not in elsewhere]
    return manifest.select(split, own or conditions)


def _check_labelled(config: RunConfig, parts: Sequence[DatasetPart], val_shards: Sequence[Shard]) -> None:
    """Raises DataError if there is nothing to learn from, or to be scored on: if all pixels are void."""
    if not any(class_pixels(config, parts)):
        raise _all_void("data.train_split", config.data.train_split, [s for part in parts for s in part.shards], parts)
    if not any(any(shard.class_samples) for shard in val_shards):
        raise _all_void("data.val_split", config.data.val_split, val_shards, parts)


def _all_void(field: str, split: str, shards: Sequence[Shard], parts: Sequence[DatasetPart]) -> DataError:
    conditions = ", ".join(dict.fromkeys(shard.condition for shard in shards))
    uris = ", ".join(part.manifest.uri for part in parts)
    return DataError(
        f"{field} = {split!r}: every pixel of condition {conditions} is void in {uris}; which raw ids are classes is "
        "decided when packing (for a folder of your own, in classes.json)"
    )


def unseen_classes(config: RunConfig, data: SelectedData) -> list[str]:
    """A line for each split that has no pixel of some class, or some condition that is void throughout."""
    classes = data.manifest.label_space.classes
    trained_K = class_pixels(config, data.parts)
    scored_K = [any(of_class) for of_class in zip(*(shard.class_samples for shard in data.val_shards), strict=True)]
    train = f"data.train_split = {config.data.train_split!r}"
    val = f"data.val_split = {config.data.val_split!r}"
    lines = [
        f"{where}: no pixel of {', '.join(unseen)}, which {so}"
        for where, present_K, so in ((train, trained_K, "cannot be learnt"), (val, scored_K, "cannot be scored"))
        if (unseen := [name for name, is_there in zip(classes, present_K, strict=False) if not is_there])
    ]
    trained = [shard for part in data.parts for shard in part.shards]
    return lines + [
        f"{where}: every pixel of condition {', '.join(void)} is void"
        for where, shards in ((train, trained), (val, data.val_shards))
        if (void := _void_conditions(shards))
    ]


def trained_conditions(parts: Sequence[DatasetPart]) -> list[str]:
    """The conditions of which there are labels to train on."""
    return sorted({shard.condition for part in parts for shard in part.shards if any(shard.class_samples)})


def _void_conditions(shards: Sequence[Shard]) -> list[str]:
    seen = {shard.condition for shard in shards if any(shard.class_samples)}
    return [condition for condition in dict.fromkeys(s.condition for s in shards) if condition not in seen]


def class_pixels(config: RunConfig, parts: Sequence[DatasetPart]) -> list[int]:
    """Pixels of each class in the training conditions; a data set that a mixture shows twice as often counts twice."""
    nums = [sum(shard.num_samples for shard in part.shards) for part in parts]
    shares = config.data.mix_weights or nums
    pixels_K = [0] * parts[0].manifest.label_space.num_classes
    for (manifest, shards), num, share in zip(parts, nums, shares, strict=True):
        counts = manifest.class_pixels[config.data.train_split]
        times = share * nums[0] / (num * shares[0])
        for condition in {shard.condition for shard in shards}:
            pixels_K = [sum_ + round(times * n) for sum_, n in zip(pixels_K, counts[condition], strict=True)]
    return pixels_K


def open_reader(
    config: RunConfig,
    parts: Sequence[DatasetPart],
    world: World,
    step: int,
    augment: AugmentConfig,
    *,
    sampling: Sampling = "each",
    mix_weights: Sequence[float] = (),
) -> TrainReader:
    """This rank's micro-batches of the data sets' parts, mixed, from an optimiser step on."""
    data = config.data
    options = ReadOptions(
        batch_size=config.micro_batch_size,
        crop_px=data.crop_px,
        augment=augment if data.augment else None,
        seed=config.seed,
        shuffle_window=data.shuffle_window,
        num_threads=data.num_threads,
        prefetch_batches=data.prefetch_batches,
        on_bad_sample=data.on_bad_sample,
        max_bad_samples=data.max_bad_samples,
        max_megapixels=data.max_megapixels,
        deadline_s=data.deadline_s,
        cache_bytes=data.cache_bytes,
        cache_dir=data.cache_dir,
        sampling=sampling,
        mix_weights=mix_weights,
        pin_memory=world.device.type == "cuda",
    )
    start_batch = step * config.optim.accumulate_steps
    return TrainReader(parts, options, rank=world.rank, world=world.size, start_batch=start_batch)
