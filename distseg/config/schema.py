"""A run is one value: `RunConfig`. It is logged whole, stored in every checkpoint and tuned by dotted field.

Frozen dataclasses, one nested group per concern. Each group checks itself when it is made, so a `RunConfig` that exists
is one that makes sense; what depends on data or machines (does the condition exist, are there GPUs) is checked before
training by who knows it. `to_dict` and `from_dict` are exact inverses through JSON.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from distseg.errors import ConfigError

Precision = Literal["auto", "bf16", "fp32", "fp64"]
Sampling = Literal["each", "condition", "class"]
Champion = Literal["val/mIoU", "val/mIoU_mean_conditions", "val/mIoU_worst"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network. Defaults: PSPNet (Zhao et al. 2017) on a dilated ResNet-50.

    A field that the named network does not have must keep its default.
    """

    name: Literal["pspnet", "fcn", "fcn_attention", "enet", "unet", "r2unet", "adain"] = "pspnet"
    """adain is the style network of `distseg.stylize`; the others segment."""
    backbone: Literal[
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet269", "vgg16", "vgg16_bn"
    ] = "resnet50"
    """Of pspnet, a ResNet; of fcn, a ResNet (the dilated baseline) or VGG16 (FCN-32s, -16s, -8s)."""
    pretrained: str | None = None
    """A checkpoint, run or weights file of distseg, all of whose weights are taken, but for the last layers if it was
    trained on other classes; 'imagenet' (torchvision's weights of the backbone), or a file or s3:// URI of such a state
    dict, or of a whole PSPNet in its authors' layout. None: random."""
    stem: Literal["torchvision", "deep"] = "torchvision"
    """A ResNet's first layers: one 7x7 convolution, or the PSPNet authors' three 3x3."""
    bins: tuple[int, ...] = (1, 2, 3, 6)
    """Grid sizes of the pyramid pooling; () leaves the pyramid out (the dilated FCN baseline)."""
    pool: Literal["avg", "max"] = "avg"
    reduce: bool = True
    """Reduce each bin to C / len(bins) channels by a 1x1 convolution ('DR' in the paper's table 1)."""
    se_ratio: int | None = None
    """Squeeze-and-excitation with this reduction ratio: on pspnet's fused pyramid (Song et al. 2021), in
    fcn_attention's decoder (Shen & Sun 2022). None: without."""
    dilations: tuple[int, int, int] = (1, 2, 4)
    """Dilation of ResNet stages 2, 3, 4; a dilated stage does not stride. (1, 2, 4): output stride 8."""
    fcn_stride: Literal[8, 16, 32] = 8
    """Of fcn on VGG16: FCN-8s, -16s or -32s."""
    downsample: Literal["conv", "pool"] = "conv"
    """fcn_attention halves by strided convolutions, as its paper, or by maxima, as VGG16."""
    skips: bool = True
    """Skip connections of fcn_attention, at all levels."""
    recurrence: int = 2
    """t of r2unet: each recurrent convolution is applied t + 1 times."""
    width: float = 1.0
    """Scales all channels of fcn_attention, unet and r2unet."""
    style_depth: Literal[1, 2, 3] = 2
    """Stages of adain's ResNet encoder: styles are exchanged at 1/4 (1) or 1/8 (2) of the resolution."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self._check_fields_belong()
        _require(all(b >= 1 for b in self.bins), "model.bins", self.bins, "every bin must be at least 1")
        _require(len(set(self.bins)) == len(self.bins), "model.bins", self.bins, "bins must differ from each other")
        _require(
            not (self.reduce and self.bins) or 512 % len(self.bins) == 0,
            "model.bins",
            self.bins,
            f"{len(self.bins)} bins do not divide the backbone's channels; use 1, 2, 4 or 8, or model.reduce False",
        )
        _require(all(d >= 1 for d in self.dilations), "model.dilations", self.dilations, "each must be at least 1")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")
        _require(self.recurrence >= 0, "model.recurrence", self.recurrence, "must not be negative")
        channels = 64 * self.width
        _require(channels >= 1 and channels == int(channels), "model.width", self.width, "must be a multiple of 1/64")
        _require(
            self.pretrained != "imagenet" or self.has_known_backbone,
            "model.pretrained",
            self.pretrained,
            f"there are no ImageNet weights of {self.name}; give a checkpoint or run of distseg, or leave it out",
        )
        gated = int(channels) if self.name == "fcn_attention" else 512
        _require(
            self.se_ratio is None or (1 <= self.se_ratio <= gated and gated % self.se_ratio == 0),
            "model.se_ratio",
            self.se_ratio,
            f"must divide the {gated} channels it gates: 2, 4, 8, 16 …",
        )

    def _check_fields_belong(self) -> None:
        """A search over a field that changes nothing would compare noise."""
        if self.name in ("pspnet", "adain"):
            needs = f"{self.name} needs a ResNet"
            _require(not self.backbone.startswith("vgg16"), "model.backbone", self.backbone, needs)
        own = self.own_fields
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            _require(
                spec.name in own or value == spec.default,
                f"model.{spec.name}",
                value,
                f"{self.name}{f' on {self.backbone}' if self.name == 'fcn' else ''} has no such option; leave it out",
            )

    @property
    def own_fields(self) -> set[str]:
        """Those that the network has; the others keep their defaults, which say nothing of it."""
        return _MODEL_FIELDS["fcn on vgg16" if self._is_vgg_fcn else self.name]

    @property
    def _is_vgg_fcn(self) -> bool:
        return self.name == "fcn" and self.backbone.startswith("vgg16")

    @property
    def has_known_backbone(self) -> bool:
        """A ResNet or VGG16, which others have trained too."""
        return "backbone" in _MODEL_FIELDS[self.name]

    @property
    def has_aux_head(self) -> bool:
        """Whether it can have one: `loss.aux_weight` must be 0 for the others."""
        return self.name in ("pspnet", "fcn") and not self._is_vgg_fcn


_MODEL_FIELDS = {
    name: {"name", "dropout", "pretrained", *fields.split()}
    for name, fields in {
        "pspnet": "backbone stem bins pool reduce se_ratio dilations",
        "fcn": "backbone stem dilations",
        "fcn on vgg16": "backbone fcn_stride",
        "fcn_attention": "se_ratio downsample skips width",
        "enet": "",
        "unet": "width",
        "r2unet": "width recurrence",
        "adain": "backbone stem dilations style_depth",
    }.items()
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Cross entropy over the valid pixels of the global batch, plus the auxiliary head's."""

    aux_weight: float = 0.4
    """α of Zhao et al. 2017, section 3.2; 0 leaves the auxiliary head out."""
    class_weights: Literal["none", "inverse_sqrt", "median_frequency", "enet"] = "none"
    """From the manifest's pixel counts of the training conditions."""
    ohem_threshold: float | None = None
    """Only pixels whose true class is given less than this probability count (OHEM); None: all."""
    ohem_min_kept: float = 1 / 16
    """But at least this share of an image's valid pixels, the hardest."""
    dice_weight: float = 0.0
    """Of the Dice loss, beside the cross entropy of the main head."""
    lovasz_weight: float = 0.0
    """Of the Lovász-softmax loss (Berman et al. 2018), likewise."""
    terms: tuple[str, ...] = ()
    """Further losses beside the cross entropy of the main head, each as NAME or NAME=WEIGHT: a file of
    distseg/training/losses/terms, or your own function as module:name. Each is logged as train/NAME_loss."""

    def __post_init__(self) -> None:
        for name in ("aux_weight", "dice_weight", "lovasz_weight"):
            _require(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "must not be negative")
        _require(
            self.ohem_threshold is None or 0 < self.ohem_threshold <= 1,
            "loss.ohem_threshold",
            self.ohem_threshold,
            "is a probability in (0, 1]",
        )
        _require(0 <= self.ohem_min_kept <= 1, "loss.ohem_min_kept", self.ohem_min_kept, "is a share in [0, 1]")
        shown = [name.rpartition(":")[2] for name in self.term_weights]
        is_clear = len(set(shown)) == len(self.terms) and not {"aux", "kl", ""} & set(shown)
        _require(is_clear, "loss.terms", self.terms, "the names must differ from each other and from aux and kl")

    @property
    def term_weights(self) -> dict[str, float]:
        """`terms` by name: ('dice=0.5',) is {'dice': 0.5}. Raises ConfigError."""
        weights = {}
        for term in self.terms:
            name, _, weight = term.partition("=")
            try:
                weights[name] = float(weight or 1)
            except ValueError:
                weights[name] = math.nan
            is_weight = 0 <= weights[name] < math.inf
            _require(is_weight, "loss.terms", term, "give NAME=WEIGHT with a weight of at least 0, such as dice=0.5")
        return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """lr · (1 - step / max_steps)^poly_power each step (Zhao et al. 2017, section 5.1), after a linear warm-up."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    head_lr_scale: float = 10.0
    """Everything but the backbone learns this much faster (the authors' code: 10)."""
    poly_power: float = 0.9
    warmup_steps: int = 0
    max_steps: int = 30_000
    accumulate_steps: int = 1
    """Micro-batches per step: data.batch_size is cut into so many, each a global batch for batch norm."""
    clip_norm: float | None = None
    decay_norm_and_bias: bool = True
    """Weight decay on batch norm and biases, too, as in the PSPNet authors' code."""
    ema_decay: float | None = None
    """Evaluate an exponential moving average of the weights and batch norm statistics, whose decay rises to this in the
    beginning; None: the weights themselves."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, "optim.lr", self.lr, "must be positive")
        _require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "must be in [0, 1)")
        _require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "must not be negative")
        _require(self.head_lr_scale > 0, "optim.head_lr_scale", self.head_lr_scale, "must be positive")
        _require(self.poly_power >= 0, "optim.poly_power", self.poly_power, "must not be negative")
        _require(self.max_steps >= 1, "optim.max_steps", self.max_steps, "must be at least 1")
        _require(
            0 <= self.warmup_steps < self.max_steps, "optim.warmup_steps", self.warmup_steps, "must be below max_steps"
        )
        _require(self.accumulate_steps >= 1, "optim.accumulate_steps", self.accumulate_steps, "must be at least 1")
        _require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "must be positive")
        _require(
            self.ema_decay is None or 0 < self.ema_decay < 1, "optim.ema_decay", self.ema_decay, "must be in (0, 1)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which shards, which of their conditions, and how they become batches."""

    uri: str = ""
    """Directory or s3:// prefix made by `python -m distseg.pack`."""
    train_split: str = "train"
    val_split: str = "val"
    train_conditions: tuple[str, ...] = ()
    """Conditions to train on; () is every one of train_split."""
    val_conditions: tuple[str, ...] = ()
    """Conditions to evaluate on; () is every one of val_split; 'SPLIT/CONDITION' takes one from another split."""
    batch_size: int = 16
    """Global: the sum over all workers."""
    crop_px: tuple[int, int] = (472, 472)
    """Height and width of a training crop."""
    augment: bool = True
    sampling: Sampling = "each"
    """each: every sample once per epoch. condition: every condition as often as any other. class: every class as often
    as any other, by samples that show it and crops about one of its pixels."""
    mix: tuple[str, ...] = ()
    """Further data sets to train on, of the same classes; evaluation is on data.uri's alone."""
    mix_weights: tuple[float, ...] = ()
    """Shares of data.uri and of each of data.mix in every batch; (): in proportion to their numbers of samples."""
    on_bad_sample: Literal["fail", "skip"] = "fail"
    max_bad_samples: int = 100
    shuffle_window: int = 256
    num_threads: int = 2
    """Decoding threads per worker."""
    prefetch_batches: int = 4
    deadline_s: float = 300.0
    """How long a failing store is retried before training gives up."""
    cache_bytes: int = 8 << 30
    """Most bytes of S3's shards that a node keeps on disk for all its workers, in data.cache_dir; 0: none."""
    cache_dir: str = ""
    """"": a directory of the user's own among the system's temporary files."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "data.batch_size", self.batch_size, "must be at least 1")
        _require(min(self.crop_px) >= 32, "data.crop_px", self.crop_px, "both sides must be at least 32")
        uris = (self.uri, *self.mix)
        _require(all(self.mix), "data.mix", self.mix, "give directories or s3:// prefixes of packed data sets")
        _require(
            len(set(uris)) == len(uris), "data.mix", self.mix, "name each data set once; data.mix_weights says more"
        )
        weights = self.mix_weights
        _require(
            not weights or len(weights) == len(uris),
            "data.mix_weights",
            weights,
            f"give {len(uris)} weights: of data.uri and of each of data.mix; or none",
        )
        _require(
            all(0 < w < math.inf for w in weights), "data.mix_weights", weights, "each must be positive and finite"
        )
        _require(self.max_bad_samples >= 0, "data.max_bad_samples", self.max_bad_samples, "must not be negative")
        _require(self.shuffle_window >= 1, "data.shuffle_window", self.shuffle_window, "must be at least 1")
        _require(self.num_threads >= 1, "data.num_threads", self.num_threads, "must be at least 1")
        _require(self.prefetch_batches >= 1, "data.prefetch_batches", self.prefetch_batches, "must be at least 1")
        _require(self.deadline_s > 0, "data.deadline_s", self.deadline_s, "must be positive")
        _require(self.cache_bytes >= 0, "data.cache_bytes", self.cache_bytes, "must not be negative; 0 is no cache")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """The parts of the training augmentation (Zhao et al. 2017, section 5.1), used while data.augment is on."""

    mirror: bool = True
    scale: tuple[float, float] = (0.5, 2.0)
    rotate_deg: float = 10.0
    blur: float = 0.5
    """Probability of a Gaussian blur."""
    jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; 0 is off."""

    def __post_init__(self) -> None:
        _require(0 < self.scale[0] <= self.scale[1], "augment.scale", self.scale, "needs 0 < smallest <= largest")
        _require(0 <= self.rotate_deg <= 180, "augment.rotate_deg", self.rotate_deg, "must be in [0, 180]")
        _require(0 <= self.blur <= 1, "augment.blur", self.blur, "is a probability in [0, 1]")
        _require(0 <= self.jitter < 1, "augment.jitter", self.jitter, "must be in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleConfig:
    """Restyling by AdaIN, and the KL term between an image and its composite (Song et al. 2021, parts b and c).

    Also what the style network itself is trained with: its target conditions and the weight of its style losses.
    """

    network: str | None = None
    """A checkpoint of `distseg.stylize train`, or its run; None: no restyling."""
    conditions: tuple[str, ...] = ()
    """Target conditions: unlabelled images of the train split."""
    direction: Literal["to_target", "to_source"] = "to_target"
    """Restyle training images towards the targets, or at evaluation every image towards the training set."""
    probability: float = 0.5
    """Share of the training images that are restyled; with a KL term all are, beside their originals."""
    kl_weight: float = 0.0
    """Of the KL divergence between the segmentations of an image and of its composite."""
    strength: float = 1.0
    """Between the image's own style (0) and the target's (1)."""
    loss_weight: float = 10.0
    """λ of the style losses against the content loss, in training the style network."""

    def __post_init__(self) -> None:
        for name in ("probability", "strength"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"style.{name}", value, "must be in [0, 1]")
        for name in ("kl_weight", "loss_weight"):
            _require(getattr(self, name) >= 0, f"style.{name}", getattr(self, name), "must not be negative")
        if self.network is None:
            _require(self.kl_weight == 0, "style.kl_weight", self.kl_weight, "needs style.network, which restyles")
        elif self.direction == "to_target":
            _require(bool(self.conditions), "style.conditions", self.conditions, "name the conditions to restyle to")
        else:
            _require(self.kl_weight == 0, "style.kl_weight", self.kl_weight, "belongs to direction to_target")
            _require(not self.conditions, "style.conditions", self.conditions, "belong to direction to_target")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """What the run asks of the cluster."""

    num_workers: int = 1
    min_workers: int | None = None
    """Go on with as few as these when machines are lost, with more again as they come back; None: wait for all."""
    gpu: bool = False
    cpus_per_worker: int = 1
    max_failures: int = 3
    """How often lost workers are replaced before the run fails."""

    def __post_init__(self) -> None:
        _require(self.num_workers >= 1, "scaling.num_workers", self.num_workers, "must be at least 1")
        least = self.num_workers if self.min_workers is None else self.min_workers
        bounds = f"must be from 1 to scaling.num_workers = {self.num_workers}"
        _require(1 <= least <= self.num_workers, "scaling.min_workers", self.min_workers, bounds)
        _require(self.cpus_per_worker >= 1, "scaling.cpus_per_worker", self.cpus_per_worker, "must be at least 1")
        _require(self.max_failures >= 0, "scaling.max_failures", self.max_failures, "must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    uri: str = "runs/checkpoints"
    """Runs are kept under here, each in a folder of its name: a directory all nodes share, or an s3:// prefix."""
    every_steps: int = 0
    """Also save every so many steps; 0: only with each evaluation."""

    def __post_init__(self) -> None:
        _require(bool(self.uri), "checkpoint.uri", self.uri, "give a directory or an s3:// prefix")
        _require(self.every_steps >= 0, "checkpoint.every_steps", self.every_steps, "must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    every_steps: int = 0
    """Evaluate every so many steps; 0: only at the end."""
    overlays_per_condition: int = 2
    """Pictures made at each evaluation: so many images of each condition, always the same ones, and so many of its
    worst; 0: none."""

    def __post_init__(self) -> None:
        _require(self.every_steps >= 0, "evaluate.every_steps", self.every_steps, "must not be negative")
        _require(
            0 <= self.overlays_per_condition <= 8,
            "evaluate.overlays_per_condition",
            self.overlays_per_condition,
            "must be in [0, 8]",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    uri: str = ""
    """MLflow server; empty: MLFLOW_TRACKING_URI if set, else SQLite in ./runs."""
    experiment: str = "distseg"
    log_every_steps: int = 10
    log_model: bool = True
    """When the run has finished, log the network of its best checkpoint as an MLflow model."""
    register: str | None = None
    """Also register that model under this name; it gets the alias champion if it beats the present one."""
    objective: Champion = "val/mIoU"
    """What makes a champion."""

    def __post_init__(self) -> None:
        _require(bool(self.experiment), "tracking.experiment", self.experiment, "give the experiment a name")
        _require(self.log_every_steps >= 1, "tracking.log_every_steps", self.log_every_steps, "must be at least 1")
        name = self.register
        is_plain = name is None or (bool(name.strip()) and not set(name) & set("/:'"))
        _require(is_plain, "tracking.register", name, "give the model a name without quotes, '/' and ':'")
        _require(name is None or self.log_model, "tracking.register", name, "needs tracking.log_model True")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training, whole."""

    name: str = "run"
    """Begins the run's name in MLflow and in checkpoint.uri."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        name_is_plain = bool(self.name) and self.name.replace("-", "").replace("_", "").isalnum()
        _require(name_is_plain, "name", self.name, "use letters, digits, '-' and '_'")
        _require(self.seed >= 0, "seed", self.seed, "must not be negative")
        workers = range(self.scaling.min_workers or self.scaling.num_workers, self.scaling.num_workers + 1)
        check_divides(self.data.batch_size, workers, self.optim.accumulate_steps)
        _require(
            self.model.has_aux_head or self.loss.aux_weight == 0,
            "loss.aux_weight",
            self.loss.aux_weight,
            f"{self.model.name} has no auxiliary head; give 0",
        )
        if self.model.name == "adain":
            _require(bool(self.style.conditions), "style.conditions", (), "name the conditions to learn the style of")
            _require(self.style.network is None, "style.network", self.style.network, "is what is trained here")
            for name, unused in (("accumulate_steps", 1), ("clip_norm", None), ("ema_decay", None)):
                value = getattr(self.optim, name)
                _require(value == unused, f"optim.{name}", value, f"adain has no such option; give {unused}")
            for name, only in (("sampling", "each"), ("mix", ())):
                value = getattr(self.data, name)
                _require(value == only, f"data.{name}", value, f"adain has no such option; give {only}")
        elif self.style.network is None:
            _require(not self.style.conditions, "style.conditions", self.style.conditions, "needs style.network")

    @property
    def micro_batch_size(self) -> int:
        """Samples of one forward pass, over all workers."""
        return self.data.batch_size // self.optim.accumulate_steps


def check_divides(batch_size: int, num_workers: Sequence[int], accumulate_steps: int = 1) -> None:
    """Each worker gets the same whole number of samples in each micro-batch, with any of these numbers of workers.

    Raises ConfigError with sizes that do.
    """
    unit = math.lcm(*num_workers) * accumulate_steps
    below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
    nearest = " or ".join(str(size) for size in (below, above) if size)
    shares = f"{num_workers[-1]} workers" if len(num_workers) == 1 else f"{num_workers[0]} to {num_workers[-1]} workers"
    shares += f" x {accumulate_steps} accumulated steps" if accumulate_steps > 1 else ""
    _require(
        batch_size % unit == 0,
        "data.batch_size",
        batch_size,
        f"cannot be shared by {shares}; the nearest sizes that can are {nearest}",
    )


def _require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {value!r}: {remedy}")


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as JSON values (tuples become lists)."""
    return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(data: object) -> RunConfig:
    """The inverse of `to_dict`; absent fields take their defaults. Raises ConfigError naming the dotted field."""
    return cast(RunConfig, _build(RunConfig, data, ""))


def with_overrides(config: RunConfig, overrides: Mapping[str, object]) -> RunConfig:
    """A copy with dotted fields replaced, e.g. {'loss.aux_weight': 0.4}. Raises ConfigError naming the field."""
    data = to_dict(config)
    for dotted, value in overrides.items():
        *groups, leaf = dotted.split(".")
        node = data
        for group in groups:
            if not isinstance(node.get(group), dict):
                raise ConfigError(f"{dotted}: no such field{_suggest(group, node)}")
            node = node[group]
        if leaf not in node:
            raise ConfigError(f"{dotted}: no such field{_suggest(leaf, node)}")
        node[leaf] = list(value) if isinstance(value, tuple) else value
    return from_dict(data)


def dotted_fields(config: RunConfig) -> dict[str, object]:
    """{'model.backbone': 'resnet50', …}, in order."""

    def walk(node: dict[str, Any], prefix: str) -> dict[str, object]:
        flat: dict[str, object] = {}
        for key, value in node.items():
            flat |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return flat

    return walk(to_dict(config), "")


def _suggest(name: str, known: typing.Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _build(annotation: Any, value: Any, where: str) -> Any:
    """`value` (JSON) as the annotated type; `where` is the dotted field for the error."""
    if dataclasses.is_dataclass(annotation):
        return _build_group(cast(type, annotation), value, where)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return _build(inner, value, where)
    if origin is Literal:
        _require(value in args, where, value, f"choose from {', '.join(map(str, args))}{_maybe(value, args)}")
        return value
    if origin is tuple:
        _require(isinstance(value, list | tuple), where, value, "must be a list")
        item_types = [args[0]] * len(value) if args[-1] is Ellipsis else args
        _require(len(value) == len(item_types), where, value, f"must have {len(item_types)} values")
        return tuple(_build(t, v, where) for t, v in zip(item_types, value, strict=True))
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right_type = isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
    _require(right_type, where, value, f"must be of type {annotation.__name__}")
    return value


def _maybe(value: object, known: tuple[Any, ...]) -> str:
    close = difflib.get_close_matches(str(value), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _build_group(group: type, value: Any, where: str) -> Any:
    _require(isinstance(value, dict), where or "config", value, "must be an object with named fields")
    hints = typing.get_type_hints(group)
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in hints:
            raise ConfigError(f"{prefix}{name}: no such field{_suggest(name, hints)}")
    return group(**{name: _build(hints[name], item, f"{prefix}{name}") for name, item in value.items()})
