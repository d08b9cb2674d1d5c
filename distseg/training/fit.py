"""The training loop, free of Ray and MLflow: `fit(config, world, report)` in one process or as one rank of many.

Everything that must be the same for any number of ranks is defined on the global batch: its samples (plan), the loss
(sum over valid pixels of all ranks / their number), batch norm (synchronised), the learning rate (a function of the
step). What is random is seeded from (seed, position) or (seed, step, rank), so a resumed run needs no generator states.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distseg import evaluation
from distseg.config import RunConfig
from distseg.data import LabelSpace
from distseg.data.loading import Batch, DatasetPart, TrainReader
from distseg.data.shards import Manifest, Shard, combined_digest, load_manifest
from distseg.errors import ConfigError, DataError
from distseg.evaluation import World
from distseg.models import SegmentationModel, Statistics, StyleNetwork, build_model
from distseg.training import checkpoint
from distseg.training.batchnorm import synchronise
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
    to_cpu,
)
from distseg.training.losses import Objective, class_weights, kl_consistency, segmentation_loss, valid_weight
from distseg.training.optim import build_optimizer, ema_decay, learning_rate, set_learning_rate
from distseg.training.pretrained import Pretrained, load_pretrained, put_into
from distseg.training.style import Restyler, TowardsSource, load_network, source_style, style_shards


@dataclass
class Training:
    """The objects one run trains with, and how far it is."""

    config: RunConfig
    world: World
    manifest: Manifest  # of data.uri; its digest is that of all data sets
    train_shards: Sequence[Shard]  # of data.uri
    mix: tuple[DatasetPart, ...]  # what else is trained on
    val_shards: tuple[Shard, ...]
    precision: str
    model: SegmentationModel  # the bare one: what is saved and evaluated
    wrapped: nn.Module  # DDP or compiled around it: what is trained
    optimizer: torch.optim.Optimizer
    objective: Objective
    source: tuple[StyleNetwork, Statistics] | None  # of style.direction to_source: what evaluation restyles by
    averaged: AveragedModel | None  # the moving average that is evaluated instead, with its own batch norm statistics
    step: int = 0
    tables: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)  # beside the tables: what intervals are made of


def fit(
    config: RunConfig, world: World, report: Report, *, resume: Checkpoint | None = None, run_id: str = ""
) -> Training:
    """Trains from step 0, or from `resume`, to optim.max_steps; evaluates and saves on the way and at the end.

    Raises ConfigError, DataError, CheckpointError before the first step if something asked for is not there, and
    TrainingError if the loss becomes NaN or infinite.
    """
    training = prepare(config, world)
    if resume is not None:
        restore(training, resume)
        if world.rank == 0:
            report.log(training.step, {"train/resumed_at": float(training.step)})
    max_steps = config.optim.max_steps
    with contextlib.ExitStack() as opened:
        reader = opened.enter_context(
            open_reader(
                config,
                training.manifest,
                training.train_shards,
                world,
                training.step,
                config.augment,
                sampling=config.data.sampling,
                mix=training.mix,
                mix_weights=config.data.mix_weights,
            )
        )
        restyler = open_restyler(training)
        if restyler is not None:
            opened.enter_context(contextlib.closing(restyler))
        watch = Watch(reader, config.data.batch_size, training.step)
        losses = FiniteLosses(world)
        while training.step < max_steps:
            micro_batches = [next(reader) for _ in range(config.optim.accumulate_steps)]
            lr = learning_rate(training.step, config.optim)
            set_learning_rate(training.optimizer, lr, config.optim)
            losses.expect(training.step + 1, train_step(training, micro_batches, restyler), micro_batches)
            training.step += 1
            step = training.step
            if due(step, config.tracking.log_every_steps, max_steps) or step == 1:
                main, aux, kl = losses.check()
                if world.rank == 0:
                    parts = {"train/loss": main, "train/aux_loss": aux}
                    parts |= {"train/kl_loss": kl} if config.style.kl_weight else {}
                    report.log(step, parts | {"train/lr": lr} | watch.rates(step))
            evaluate_now = due(step, config.evaluate.every_steps, max_steps)
            if evaluate_now or due(step, config.checkpoint.every_steps, max_steps):
                losses.check()
                metrics = evaluate(training) if evaluate_now else {}
                if world.rank == 0 and metrics:
                    report.log(step, metrics, str(training.tables["worst_condition"] or ""))
                    report.pictures(step, evaluation.overlay_pictures(training.evaluation))
                report.save(step, capture(training, reader, metrics, report, run_id), metrics)
                watch.restart(step)
        losses.check()
    return training


# ------------------------------------------------------------------------------------------------ before the first step


def prepare(config: RunConfig, world: World) -> Training:
    """Data, network and optimiser of a run at step 0; every rank ends with the same weights."""
    keep_freed_memory(world.device)
    manifest, parts, val_shards = select_data(config)
    precision = agreed_precision(config, world)
    torch.manual_seed(config.seed)
    model = new_model(config, manifest.label_space, load_pretrained(config.model))
    model.to(world.device, torch.float64 if precision == "fp64" else torch.float32)
    model.to(memory_format=torch.channels_last)
    if world.size > 1:
        model = cast(SegmentationModel, synchronise(model))
    return Training(
        config=config,
        world=world,
        manifest=manifest,
        train_shards=parts[0].shards,
        mix=parts[1:],
        val_shards=val_shards,
        precision=precision,
        model=model,
        wrapped=_wrap(model, config, world),
        optimizer=build_optimizer(model, config.optim),
        objective=objective_of(config, parts, world.device),
        source=_source(config, manifest, world, precision),
        averaged=_averaged(model, config.optim.ema_decay),
    )


def select_data(config: RunConfig) -> tuple[Manifest, tuple[DatasetPart, ...], tuple[Shard, ...]]:
    """(data.uri's manifest with the digest of all data sets, what is trained on, evaluation shards).

    Raises if something asked for is not there, or is both trained and evaluated on.
    """
    if not config.data.uri:
        raise ConfigError("data.uri is empty: give the directory or s3:// prefix that `python -m distseg.pack` wrote")
    try:
        config.model.check_batch(config.micro_batch_size)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    data = config.data
    manifest = load_manifest(data.uri)
    manifests = [manifest, *map(load_manifest, data.mix)]
    check_mixable(manifests)
    parts = tuple(DatasetPart(each, _train_shards(config, each, manifests)) for each in manifests)
    val_shards = evaluation.evaluation_shards(manifest, data.val_split, data.val_conditions)
    evaluation.check_disjoint(parts[0].shards, val_shards)
    return replace(manifest, digest=combined_digest(manifests)), parts, val_shards


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


def check(config: RunConfig) -> Manifest:
    """Everything that can be known to fail before a cluster is asked for anything; returns the data's manifest.

    Raises ConfigError, DataError, StorageError or CheckpointError.
    """
    manifest, *_ = select_data(config)
    if config.style.network is not None:
        load_network(config.style.network)
        style_shards(config, manifest)
    pretrained = load_pretrained(config.model)
    with torch.device("cpu" if pretrained else "meta"):  # shapes alone say whether the network can be built
        new_model(config, manifest.label_space, pretrained)
    return manifest


def new_model(config: RunConfig, labels: LabelSpace, pretrained: Pretrained | None) -> SegmentationModel:
    """The run's network, in fp32. Raises ConfigError for fields, CheckpointError for weights that do not fit."""
    try:
        model = build_model(config.model, labels.num_classes, aux=config.loss.aux_weight > 0)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if pretrained is not None:
        put_into(model, pretrained, config.model, labels)
    return model


def objective_of(config: RunConfig, parts: Sequence[DatasetPart], device: torch.device) -> Objective:
    """The loss of the run; its class weights are from the pixel counts of the training conditions, as packed.

    What data.sampling changes in them is not counted: weights and sampling by class do the same twice.
    """
    loss = config.loss
    weights_K = None
    if loss.class_weights != "none":
        weights_K = class_weights(_class_pixels(config, parts), loss.class_weights).to(device)
    return Objective(
        aux_weight=loss.aux_weight,
        class_weights_K=weights_K,
        ohem_threshold=loss.ohem_threshold,
        ohem_min_kept=loss.ohem_min_kept,
        dice_weight=loss.dice_weight,
        lovasz_weight=loss.lovasz_weight,
    )


def _class_pixels(config: RunConfig, parts: Sequence[DatasetPart]) -> list[int]:
    """Of each class; a data set that a mixture shows twice as often as the first counts twice."""
    nums = [sum(shard.num_samples for shard in part.shards) for part in parts]
    shares = config.data.mix_weights or nums
    pixels_K = [0] * parts[0].manifest.label_space.num_classes
    for (manifest, shards), num, share in zip(parts, nums, shares, strict=True):
        counts = manifest.class_pixels[config.data.train_split]
        times = share * nums[0] / (num * shares[0])
        for condition in {shard.condition for shard in shards}:
            pixels_K = [sum_ + round(times * n) for sum_, n in zip(pixels_K, counts[condition], strict=True)]
    return pixels_K


def _source(
    config: RunConfig, manifest: Manifest, world: World, precision: str
) -> tuple[StyleNetwork, Statistics] | None:
    if config.style.network is None or config.style.direction != "to_source":
        return None
    dtype = torch.float64 if precision == "fp64" else torch.float32
    network = load_network(config.style.network).to(world.device, dtype)
    return network, source_style(network, config, manifest, world.device)


def open_restyler(training: Training) -> Restyler | None:
    """What restyles this run's training images, from where the training stands; None if nothing does."""
    config = training.config
    if config.style.network is None or config.style.direction != "to_target":
        return None
    return Restyler(config, training.manifest, training.world, training.precision, training.step)


def _averaged(model: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None

    def average(averaged: Any, current: Any, num_averaged: Any) -> None:
        # A constant decay would keep the random weights of the beginning for thousands of steps.
        get_ema_multi_avg_fn(ema_decay(int(num_averaged), decay))(averaged, current, num_averaged)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _wrap(model: nn.Module, config: RunConfig, world: World) -> nn.Module:
    wrapped: nn.Module = model
    if world.size > 1:
        # Batch norm's buffers are equal on all ranks by construction, so they need no broadcast.
        devices = [world.device] if world.device.type == "cuda" else None
        wrapped = DistributedDataParallel(
            model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
    return torch.compile(wrapped) if config.compile else wrapped  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------------------- one step


def train_step(training: Training, micro_batches: list[Batch], restyler: Restyler | None = None) -> Tensor:
    """One optimiser step. Returns this rank's parts of the global (loss, auxiliary loss, KL), float64, shape (3,)."""
    config, world = training.config, training.world
    device = world.device
    # Dropout differs between ranks and steps and is the same again when a step is done again.
    torch.manual_seed(((config.seed * 1_000_003 + training.step) * 4096 + world.rank) % (1 << 63))
    training.wrapped.train()
    training.optimizer.zero_grad(set_to_none=True)
    labels = [batch.labels_BHW.to(device, non_blocking=True) for batch in micro_batches]
    normaliser = world.sum(
        sum_of([valid_weight(labels_BHW, training.objective.class_weights_K) for labels_BHW in labels])
    )
    with_composites = restyler is not None and config.style.kl_weight > 0
    if with_composites:  # each image is there twice
        normaliser *= 2
    parts_3 = torch.zeros(3, dtype=torch.float64, device=device)
    for i, (batch, labels_BHW) in enumerate(zip(micro_batches, labels, strict=True)):
        images_B3HW = evaluation.normalize(batch.images_B3HW.to(device, non_blocking=True), training.precision)
        if restyler is not None:
            images_B3HW, labels_BHW = _restyled(restyler, batch, images_B3HW, labels_BHW, with_composites)
        is_last = i == len(micro_batches) - 1
        with _gradients_shared_only_if(is_last, training.wrapped):
            with evaluation.autocast(training.precision, device):
                logits = training.wrapped(images_B3HW)
            loss = segmentation_loss(
                logits,
                labels_BHW,
                training.objective,
                normaliser=normaliser,
                over_ranks=world.sum,
                num_micro_batches=len(micro_batches),
            )
            kl = torch.zeros_like(loss.main)
            if with_composites:
                image_BKhw, composite_BKhw = logits.main_BKhw.chunk(2)
                num_cells = image_BKhw.numel() // image_BKhw.shape[1] * world.size * len(micro_batches)
                kl = kl_consistency(image_BKhw, composite_BKhw, num_pixels=num_cells)
            # DDP averages gradients over ranks, the loss is a sum over them.
            ((loss.total + config.style.kl_weight * kl) * world.size).backward()
        parts_3 += torch.stack([loss.main, loss.aux, kl.detach()]).to(torch.float64)
    if config.optim.clip_norm is not None:
        nn.utils.clip_grad_norm_(training.model.parameters(), config.optim.clip_norm)
    training.optimizer.step()
    if training.averaged is not None:
        training.averaged.update_parameters(training.model)
    return parts_3


def _restyled(
    restyler: Restyler, batch: Batch, images_B3HW: Tensor, labels_BHW: Tensor, with_composites: bool
) -> tuple[Tensor, Tensor]:
    """Some images replaced by their composites, or all followed by them; the labels stay."""
    composites_B3HW = restyler.composites(images_B3HW)
    if with_composites:
        return torch.cat([images_B3HW, composites_B3HW]), torch.cat([labels_BHW, labels_BHW])
    chosen_B111 = restyler.chosen(batch).to(images_B3HW.device)[:, None, None, None]
    return torch.where(chosen_B111, composites_B3HW, images_B3HW), labels_BHW


def sum_of(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0)


@contextlib.contextmanager
def _gradients_shared_only_if(is_last: bool, wrapped: nn.Module) -> Iterator[None]:
    """With accumulated micro-batches, DDP exchanges gradients once, in the last one's backward pass."""
    if is_last or not isinstance(wrapped, DistributedDataParallel):
        yield
    else:
        with wrapped.no_sync():
            yield


# ---------------------------------------------------------------------------------------------- evaluate, save, restore


def evaluate(training: Training) -> dict[str, float]:
    """Scores the evaluation shards over all ranks, every sample once; keeps the table, returns the metrics."""
    world, labels = training.world, training.manifest.label_space
    model = training.model if training.averaged is None else cast(SegmentationModel, training.averaged.module)
    if training.source is not None:
        model = TowardsSource(model, *training.source, training.config.style.strength)
    overlays = evaluation.Overlays(
        (shard.condition for shard in training.val_shards),
        labels.palette,
        training.config.evaluate.overlays_per_condition,
    )
    counted = evaluation.evaluate_shards(
        model,
        training.manifest,
        training.val_shards,
        world,
        precision=training.precision,
        num_threads=training.config.data.num_threads,
        deadline_s=training.config.data.deadline_s,
        overlays=overlays,
    )
    training.tables = evaluation.as_table(counted, labels) | {"step": training.step}
    training.evaluation = {
        "matrix_KK": counted.matrices_GKK.sum(0),
        "images": vars(counted.image_counts()),
        "overlays": evaluation.overlays_to_tensors(overlays.gathered(world)),
    }
    return evaluation.as_metrics(training.tables)


def capture(
    training: Training, reader: TrainReader, metrics: dict[str, float], report: Report, run_id: str
) -> Checkpoint | None:
    """Everything needed to go on from this step; None on every rank but 0, which hold the same."""
    if training.world.rank != 0:
        return None
    return snapshot(
        training.config,
        training.manifest,
        training.step,
        training.model,
        training.optimizer,
        report,
        run_id,
        averaged=to_cpu(training.averaged.module.state_dict()) if training.averaged is not None else {},
        source_style=to_cpu(training.source[1]._asdict()) if training.source is not None else {},
        metrics=metrics,
        tables=training.tables if metrics else {},
        evaluation=training.evaluation if metrics else {},
    )


def restore(training: Training, saved: Checkpoint) -> None:
    """Puts a training where `saved` was taken, for any number of ranks. Raises if it would not be the same run."""
    checkpoint.check_resumable(training.config, training.manifest, saved)
    restore_states(training.model, training.optimizer, saved)
    if training.averaged is not None:
        training.averaged.module.load_state_dict(saved.averaged)
        training.averaged.n_averaged.fill_(saved.step)
    training.step = saved.step
