"""The training of a network that segments."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from distseg import evaluation, metric_names
from distseg.config import RunConfig
from distseg.data import LabelSpace
from distseg.data.loading import Batch, DatasetPart, TrainReader
from distseg.data.shards import Manifest
from distseg.errors import ConfigError
from distseg.evaluation import World
from distseg.models import Logits, SegmentationModel, Statistics, build_model, drop_by_sample
from distseg.training.adaptation import Labelled, SelfTraining, Targets, View, measure_criteria
from distseg.training.batchnorm import synchronise
from distseg.training.checkpoint import Checkpoint, restore_states, to_cpu
from distseg.training.data_selection import (
    class_pixels,
    open_reader,
    select_data,
    select_targets,
    select_unlabelled,
    trained_conditions,
    unseen_classes,
)
from distseg.training.losses import LossParts, SegmentationLoss, class_weights, kl_consistency, valid_weight
from distseg.training.objective import EvaluationResult
from distseg.training.optim import LossScale, Update, build_optimizer, moving_average
from distseg.training.pretrained import Pretrained, load_pretrained, load_pretrained_
from distseg.training.process import (
    DeviceCopies,
    agreed_layout,
    agreed_precision,
    dtype_of,
    gradients_exchanged_if,
    over_ranks,
)
from distseg.training.restyling import Restyler, SourceStyle, TowardsSource, load_style_network, style_shards

_log = logging.getLogger(__name__)


class Segmentation:
    """An `Objective`: trained by cross entropy and the extra losses, scored by mIoU per condition."""

    def __init__(self, config: RunConfig, world: World) -> None:
        self.config, self.world = config, world
        self.data = select_data(config)
        self.manifest = self.data.manifest
        self.precision = agreed_precision(config, world)
        self.memory_format = agreed_layout(config, self.precision, world)
        self.to_device = DeviceCopies(world.device)
        torch.manual_seed(config.seed)
        model = new_model(config, self.manifest.label_space, load_pretrained(config.model))
        model.to(world.device, dtype_of(self.precision)).to(memory_format=self.memory_format)
        # The bare network is saved and evaluated, the wrapped one is trained.
        self.model = cast(SegmentationModel, synchronise(model)) if world.size > 1 else model
        self.masks = drop_by_sample(self.model, config.seed)
        self.distributed = over_ranks(self.model, world)
        self.wrapped: nn.Module = self.distributed
        if config.compile:
            self.wrapped = torch.compile(self.distributed)  # type: ignore[assignment]
        self.optimizer = build_optimizer(self.model, config.optim)
        self.loss = loss_of(config, self.data.parts, world.device)
        self.source = SourceStyle.of_run(config, self.manifest, world.device, self.precision)
        self.averaged = moving_average(self.model, config.optim.ema_decay)
        scale, clip_norm = LossScale.of(self.precision, world.device), config.optim.clip_norm
        self.update = Update(self.model, self.optimizer, clip_norm=clip_norm, averaged=self.averaged, scale=scale)
        self.restyler: Restyler | None = None
        self.targets: Targets | None = None
        is_self_training = config.adapt.weight is not None
        self.self_training = (
            SelfTraining(config, world, self.precision, self.memory_format) if is_self_training else None
        )

    @classmethod
    def check(cls, config: RunConfig) -> Manifest:
        data = select_data(config)
        for line in unseen_classes(config, data):
            _warn_once(line)
        if config.style.network is not None:
            load_style_network(config.style.network)
            style_shards(config, data.manifest)
        SegmentationLoss(config.loss)
        select_unlabelled(config, data.manifest)
        evaluation.own_metrics(config.evaluate.metrics, "evaluate.metrics")
        pretrained = load_pretrained(config.model)
        with torch.device("cpu" if pretrained else "meta"):  # shapes alone say whether the network can be built
            new_model(config, data.manifest.label_space, pretrained)
        return data.manifest

    @contextlib.contextmanager
    def open_readers(self, step: int) -> Iterator[TrainReader]:
        config = self.config
        with contextlib.ExitStack() as opened:
            reader = opened.enter_context(
                open_reader(
                    config,
                    self.data.parts,
                    self.world,
                    step,
                    config.augment,
                    sampling=config.data.sampling,
                    mix_weights=config.data.mix_weights,
                )
            )
            if config.style.network is not None and config.style.direction == "to_target":
                restyler = Restyler(config, self.manifest, self.world, self.precision, step)
                self.restyler = opened.enter_context(contextlib.closing(restyler))
            if (part := select_targets(config, self.manifest)) is not None:
                targets = Targets(config, part, self.world, step)
                self.targets = opened.enter_context(contextlib.closing(targets))
            yield reader

    # --------------------------------------------------------------------------------------------------------- one step

    def train_step(self, micro_batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        self._seed(step)
        self.wrapped.train()
        self.optimizer.zero_grad(set_to_none=True)
        inputs = [self.to_device(batch.images_B3HW, batch.labels_BHW) for batch in micro_batches]
        normaliser = self._normaliser([labels_BHW for _, labels_BHW in inputs])
        sums = {name: torch.zeros((), dtype=torch.float64, device=self.world.device) for name in self._loss_names()}
        for i, (batch, (images_B3HW, labels_BHW)) in enumerate(zip(micro_batches, inputs, strict=True)):
            targets_B3HW = None if self.targets is None else self.targets.images()
            images_B3HW, labels_BHW = self._inputs(batch, images_B3HW, labels_BHW, targets_B3HW)
            views = self._views(batch, images_B3HW, labels_BHW, targets_B3HW, step, sums)
            is_last = i == len(micro_batches) - 1
            self.masks.begin(batch.positions, self.world.device, num_copies=2 if self._has_composites else 1)
            with gradients_exchanged_if(is_last and not views, self.distributed):
                with evaluation.autocast(self.precision, self.world.device):
                    logits = self.wrapped(images_B3HW)
                loss = self.loss(
                    logits,
                    labels_BHW,
                    normaliser=normaliser,
                    over_ranks=self.world.sum,
                    num_micro_batches=len(micro_batches),
                )
                kl = self._kl(logits, len(micro_batches))
                total = loss.total if kl is None else loss.total + self.config.style.kl_weight * kl
                # DDP averages gradients over ranks, the loss is a sum over them.
                self.update.backward(total * self.world.size)
            for name, part in _by_name(loss, kl).items():
                sums[name] += part.detach().to(torch.float64)
            for view in views:
                with gradients_exchanged_if(is_last and view is views[-1], self.distributed):
                    sums[view.name] += self._learn(view, len(micro_batches))
        self.update.apply()
        return sums

    def _views(
        self,
        batch: Batch,
        images_B3HW: Tensor,
        labels_BHW: Tensor,
        targets_B3HW: Tensor | None,
        step: int,
        sums: dict[str, Tensor],
    ) -> list[View]:
        """What self-training makes of a batch; adds the pseudo labels' quality to the sums."""
        if self.self_training is None or self.self_training.begins_after(step):
            return []
        assert self.averaged is not None and targets_B3HW is not None
        labelled = Labelled(images_B3HW[: len(targets_B3HW)], labels_BHW[: len(targets_B3HW)], batch.positions)
        teacher = cast(SegmentationModel, self.averaged.module)
        views, quality = self.self_training.views(teacher, labelled, targets_B3HW)
        sums[metric_names.TRAIN_PSEUDO_QUALITY] += quality / self.config.data.batch_size
        return views

    def _learn(self, view: View, num_micro_batches: int) -> Tensor:
        """Forward and backward; this rank's part of the view's loss, not weighted."""
        assert self.self_training is not None
        self.masks.begin(view.positions, self.world.device)
        with evaluation.autocast(self.precision, self.world.device):
            logits = self.wrapped(view.images_B3HW)
        loss = self.self_training.loss(view, logits, self.loss.class_weights_K, num_micro_batches)
        self.update.backward(view.weight * loss * self.world.size)
        return loss.detach().to(torch.float64)

    def _seed(self, step: int) -> None:
        """For what a user's own network draws by itself: it differs between ranks and steps, and is the same again when
        a step is done again. Dropout layers have masks by sample instead."""
        torch.manual_seed(((self.config.seed * 1_000_003 + step) * 4096 + self.world.rank) % (1 << 63))

    def _normaliser(self, labels: list[Tensor]) -> Tensor:
        """The weight of the valid pixels of the global batch, all micro-batches together."""
        weights = [valid_weight(labels_BHW, self.loss.class_weights_K) for labels_BHW in labels]
        weight = self.world.sum(stack_sum(weights))
        return weight * 2 if self._has_composites else weight  # each image is there twice

    @property
    def _has_composites(self) -> bool:
        """Whether each image is followed by its composite, whose segmentation must agree."""
        return self.restyler is not None and self.config.style.kl_weight > 0

    def _loss_names(self) -> list[str]:
        kl = [metric_names.TRAIN_KL_LOSS] if self.config.style.kl_weight else []
        terms = [metric_names.loss_term(name) for name in self.loss.term_names]
        adapted = [] if self.self_training is None else self.self_training.logged
        return [metric_names.TRAIN_LOSS, metric_names.TRAIN_AUX_LOSS, *kl, *terms, *adapted]

    def _inputs(
        self, batch: Batch, images_B3HW: Tensor, labels_BHW: Tensor, targets_B3HW: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Normalised images and labels; some images replaced by their composites, or all followed by them."""
        if self.targets is not None and targets_B3HW is not None and self.config.adapt.fourier is not None:
            dtype = dtype_of(self.precision)
            images_B3HW = self.targets.relit(images_B3HW, targets_B3HW, batch.positions, dtype)
        images_B3HW = evaluation.normalize(images_B3HW, self.precision, self.memory_format)
        if self.restyler is None:
            return images_B3HW, labels_BHW
        composites_B3HW = self.restyler.composites(images_B3HW)
        if self._has_composites:
            return torch.cat([images_B3HW, composites_B3HW]), torch.cat([labels_BHW, labels_BHW])
        chosen_B111 = self.restyler.chosen(batch)[:, None, None, None]
        return torch.where(chosen_B111, composites_B3HW, images_B3HW), labels_BHW

    def _kl(self, logits: Logits, num_micro_batches: int) -> Tensor | None:
        if not self._has_composites:
            return None
        image_BKhw, composite_BKhw = logits.main_BKhw.chunk(2)
        num_cells = image_BKhw.numel() // image_BKhw.shape[1] * self.world.size * num_micro_batches
        return kl_consistency(image_BKhw, composite_BKhw, num_pixels=num_cells)

    # ------------------------------------------------------------------------------------------ evaluate, save, restore

    def evaluate(self, step: int) -> EvaluationResult:
        """Scores the evaluation shards over all ranks, every sample once."""
        config, labels, shards = self.config, self.manifest.label_space, self.data.val_shards
        conditions = (shard.condition for shard in shards)
        per_condition = config.evaluate.overlays_per_condition
        overlays = evaluation.Overlays(conditions, labels.palette, per_condition, labels.classes)
        counted = evaluation.evaluate_shards(
            self._evaluated_model(),
            self.manifest,
            shards,
            self.world,
            precision=self.precision,
            num_threads=config.data.num_threads,
            deadline_s=config.data.deadline_s,
            max_megapixels=config.data.max_megapixels,
            cache_bytes=config.data.cache_bytes,
            cache_dir=config.data.cache_dir,
            overlays=overlays,
        )
        own = evaluation.own_metrics(config.evaluate.metrics, "evaluate.metrics")
        criteria = self._criteria()
        about = {"step": step, "trained_on": trained_conditions(self.data.parts)}
        tables = evaluation.as_table(counted, labels, own) | about
        tables |= {"target": criteria} if criteria else {}
        tensors = {
            "matrix_KK": counted.matrices_GKK.sum(0),
            "images": vars(counted.image_counts()),
            "overlays": evaluation.overlays_to_tensors(overlays.gathered(self.world)),
        }
        return EvaluationResult(
            metrics=evaluation.as_metrics(tables)
            | {metric_names.target(name): value for name, value in criteria.items()},
            tables=tables,
            tensors=tensors,
            worst_condition=str(tables["worst_condition"] or ""),
        )

    def _criteria(self) -> dict[str, float]:
        """Figures of target images, without their labels; empty without target conditions."""
        part = select_unlabelled(self.config, self.manifest)
        if part is None:
            return {}
        return measure_criteria(
            self._evaluated_model(),
            None if self.averaged is None else self.model,
            part,
            self.config.evaluate.target_images,
            self.world,
            labelled_K=class_pixels(self.config, self.data.parts),
            precision=self.precision,
            num_threads=self.config.data.num_threads,
            max_megapixels=self.config.data.max_megapixels,
        )

    def _evaluated_model(self) -> SegmentationModel:
        model = self.model if self.averaged is None else cast(SegmentationModel, self.averaged.module)
        return model if self.source is None else TowardsSource(model, self.source, self.config.style.strength)

    def checkpoint_content(self) -> dict[str, Any]:
        return {
            "model": to_cpu(self.model.state_dict()),
            "averaged": {} if self.averaged is None else to_cpu(self.averaged.module.state_dict()),
            "loss_scale": to_cpu(self.update.scale_state()),
            "source_style": {} if self.source is None else to_cpu(self.source.statistics._asdict()),
        }

    def restore(self, saved: Checkpoint) -> None:
        restore_states(self.model, self.optimizer, saved)
        self.update.restore_scale(saved.loss_scale)
        if self.averaged is not None:
            self.averaged.module.load_state_dict(saved.averaged)
            self.averaged.num_averaged = saved.step
        if self.source is not None and saved.source_style:  # other versions took it from other images
            mean, std = (saved.source_style[name].to(self.world.device) for name in Statistics._fields)
            self.source = self.source._replace(statistics=Statistics(mean, std))


@functools.cache
def _warn_once(line: str) -> None:
    """A search checks each of its configurations, of the same data."""
    _log.warning(line)


def new_model(config: RunConfig, labels: LabelSpace, pretrained: Pretrained | None) -> SegmentationModel:
    """The run's network, in fp32. Raises ConfigError for fields, CheckpointError for weights that do not fit."""
    try:
        model = build_model(config.model, labels.num_classes, aux=config.loss.aux_weight > 0)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if pretrained is not None:
        load_pretrained_(model, pretrained, config.model, labels)
    return model


def loss_of(config: RunConfig, parts: Sequence[DatasetPart], device: torch.device) -> SegmentationLoss:
    """The loss of the run; its class weights are from the pixel counts of the training conditions, as packed.

    The counts ignore data.sampling: class weights together with `sampling class` correct an imbalance twice.
    """
    weights_K = None
    if config.loss.class_weights != "none":
        weights_K = class_weights(class_pixels(config, parts), config.loss.class_weights).to(device)
    return SegmentationLoss(config.loss, weights_K)


def stack_sum(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0)


def _by_name(loss: LossParts, kl: Tensor | None) -> dict[str, Tensor]:
    """The parts of the loss under the names by which they are logged."""
    parts = {metric_names.TRAIN_LOSS: loss.main, metric_names.TRAIN_AUX_LOSS: loss.aux}
    terms = {metric_names.loss_term(name): value for name, value in loss.terms.items()}
    return parts | ({} if kl is None else {metric_names.TRAIN_KL_LOSS: kl}) | terms
