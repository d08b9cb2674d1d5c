"""The groups of a run's configuration, one per concern; the network's own is in `model`, the whole in `run`.

Each group checks itself when it is made and raises ConfigError. None means off, () means all or none as its field says.
What depends on data or machines (does the condition exist, are there GPUs) is checked later, before training.
"""

import math
from dataclasses import dataclass
from typing import Literal

from distseg.metric_names import BEST_BY, MIOU, Champion, condition_of
from distseg.strict_json import require

Precision = Literal["auto", "bf16", "fp16", "fp32", "fp64", "tf32"]
Layout = Literal["auto", "channels_last", "contiguous"]
Sampling = Literal["each", "condition", "class"]
MAX_MEGAPIXELS = 100.0
"""Of an image, in every program, unless it is told otherwise: 300 MB when decoded."""
MOST = 10**9
"""Of steps, of samples in a batch, and the like: above it a number is a mistake, or meant to exhaust the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Cross entropy over the valid pixels of the global batch, plus the auxiliary head's."""

    aux_weight: float = 0.4
    """α of Zhao et al. 2017, section 3.2; 0 leaves the auxiliary head out."""
    class_weights: Literal["none", "inverse_sqrt", "median_frequency", "enet"] = "none"
    """Computed from the manifest's pixel counts of the training conditions."""
    ohem_threshold: float | None = None
    """Only pixels whose true class is given less than this probability count (OHEM); None: all."""
    ohem_min_kept: float = 1 / 16
    """But at least this share of an image's valid pixels counts: the hardest."""
    dice_weight: float = 0.0
    """Weight of the Dice loss, which is added to the cross entropy of the main head."""
    lovasz_weight: float = 0.0
    """Weight of the Lovász-softmax loss (Berman et al. 2018), added likewise."""
    terms: tuple[str, ...] = ()
    """Further losses beside the cross entropy of the main head, each as NAME or NAME=WEIGHT: a file of
    distseg/training/losses/terms, or your own function as module:name. Each is logged as train/NAME_loss."""

    def __post_init__(self) -> None:
        for name in ("aux_weight", "dice_weight", "lovasz_weight"):
            require(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "must not be negative")
        require(
            self.ohem_threshold is None or 0 < self.ohem_threshold <= 1,
            "loss.ohem_threshold",
            self.ohem_threshold,
            "is a probability in (0, 1]",
        )
        require(0 <= self.ohem_min_kept <= 1, "loss.ohem_min_kept", self.ohem_min_kept, "is a share in [0, 1]")
        shown = [name.rpartition(":")[2] for name in self.term_weights]
        is_clear = len(set(shown)) == len(self.terms) and not {"aux", "kl", ""} & set(shown)
        require(is_clear, "loss.terms", self.terms, "the names must differ from each other and from aux and kl")

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
            require(is_weight, "loss.terms", term, "give NAME=WEIGHT with a weight of at least 0, such as dice=0.5")
        return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimiser, and its learning rate, which falls each step after a linear warm-up."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    """The highest rate, of the backbone."""
    momentum: float = 0.9
    """Of sgd; β1 of adamw."""
    weight_decay: float = 1e-4
    head_lr_scale: float = 10.0
    """Everything but the backbone learns this much faster (the authors' code: 10)."""
    schedule: Literal["poly", "cosine"] = "poly"
    """lr · (1 - step / max_steps)^poly_power (Zhao et al. 2017, section 5.1), or half of
    lr · (1 + cos(π · step / max_steps)) (Loshchilov & Hutter 2017, without restarts)."""
    poly_power: float = 0.9
    """Of poly; 0 is a constant rate."""
    warmup_steps: int = 0
    """In these first steps the rate rises linearly."""
    max_steps: int = 30_000
    """Where training ends, and where the rate reaches 0."""
    accumulate_steps: int = 1
    """Micro-batches per step: data.batch_size is cut into this many. Batch norm sees one at a time, over all ranks."""
    clip_norm: float | None = None
    """Gradients are scaled down to this norm, of all parameters together; None: never."""
    decay_norm_and_bias: bool = True
    """Weight decay on batch norm and biases, too, as in the PSPNet authors' code."""
    ema_decay: float | None = None
    """Evaluate an exponential moving average of the weights and batch norm statistics, whose decay rises to this in the
    beginning; None: the weights themselves."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "must be positive")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "must be in [0, 1)")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "must not be negative")
        require(self.head_lr_scale > 0, "optim.head_lr_scale", self.head_lr_scale, "must be positive")
        require(self.poly_power >= 0, "optim.poly_power", self.poly_power, "must not be negative")
        require(1 <= self.max_steps <= MOST, "optim.max_steps", self.max_steps, "must be at least 1")
        require(
            0 <= self.warmup_steps < self.max_steps, "optim.warmup_steps", self.warmup_steps, "must be below max_steps"
        )
        require(
            1 <= self.accumulate_steps <= MOST, "optim.accumulate_steps", self.accumulate_steps, "must be at least 1"
        )
        require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "must be positive")
        require(
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
    """fail: stop, and name it. skip: a neighbour takes its place, all of it void. Evaluations always stop."""
    max_bad_samples: int = 100
    """A worker that has skipped more than this stops."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger images are refused by their header, before they are decoded."""
    shuffle_window: int = 256
    num_threads: int = 2
    """Decoding threads per worker."""
    prefetch_batches: int = 4
    deadline_s: float = 300.0
    """How long a failing store is retried before training gives up."""
    cache_bytes: int = 8 << 30
    """The most bytes of remote shards that a node keeps on disk, for all its workers, in data.cache_dir; 0: none."""
    cache_dir: str = ""
    """Empty: a directory of this user among the system's temporary files."""

    def __post_init__(self) -> None:
        require(1 <= self.batch_size <= MOST, "data.batch_size", self.batch_size, "must be at least 1")
        require(min(self.crop_px) >= 32, "data.crop_px", self.crop_px, "both sides must be at least 32")
        require(max(self.crop_px) <= 16384, "data.crop_px", self.crop_px, "both sides must be at most 16384")
        uris = (self.uri, *self.mix)
        require(all(self.mix), "data.mix", self.mix, "give directories or s3:// prefixes of packed data sets")
        require(
            len(set(uris)) == len(uris), "data.mix", self.mix, "name each data set once; data.mix_weights says more"
        )
        weights = self.mix_weights
        require(
            not weights or len(weights) == len(uris),
            "data.mix_weights",
            weights,
            f"give {len(uris)} weights: of data.uri and of each of data.mix; or none",
        )
        require(all(0 < w < math.inf for w in weights), "data.mix_weights", weights, "each must be positive and finite")
        require(self.max_bad_samples >= 0, "data.max_bad_samples", self.max_bad_samples, "must not be negative")
        require(self.max_megapixels > 0, "data.max_megapixels", self.max_megapixels, "must be positive")
        require(1 <= self.shuffle_window <= MOST, "data.shuffle_window", self.shuffle_window, "must be at least 1")
        require(1 <= self.num_threads <= 1024, "data.num_threads", self.num_threads, "must be from 1 to 1024")
        require(1 <= self.prefetch_batches <= 4096, "data.prefetch_batches", self.prefetch_batches, "is from 1 to 4096")
        require(0 < self.deadline_s <= 1e7, "data.deadline_s", self.deadline_s, "must be positive, and below 1e7")
        require(self.cache_bytes >= 0, "data.cache_bytes", self.cache_bytes, "must not be negative; 0 is no cache")


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
    gamma: float = 0.0
    """Photometric randomisation, as the four below: each in half of the crops, at most this strong; 0 is off. Colours
    to the power of 1 + gamma, or its inverse: darker or lighter, up to 2 is sensible."""
    temperature: float = 0.0
    """Red is raised and blue lowered by this share, or the other way round."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, as a share of white."""
    fog: float = 0.0
    """Share of grey at the upper edge of the image, falling to none at the lower one."""
    rain: float = 0.0
    """Density of rain streaks; at 1 every hundredth pixel begins one."""

    def __post_init__(self) -> None:
        require(0 < self.scale[0] <= self.scale[1], "augment.scale", self.scale, "needs 0 < smallest <= largest")
        require(0 <= self.rotate_deg <= 180, "augment.rotate_deg", self.rotate_deg, "must be in [0, 180]")
        require(0 <= self.blur <= 1, "augment.blur", self.blur, "is a probability in [0, 1]")
        require(0 <= self.jitter < 1, "augment.jitter", self.jitter, "must be in [0, 1)")
        require(0 <= self.gamma <= 9, "augment.gamma", self.gamma, "must be in [0, 9]")
        require(0 <= self.temperature < 1, "augment.temperature", self.temperature, "must be in [0, 1)")
        for name in ("noise", "fog", "rain"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name}", value, "must be in [0, 1]")


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
    """Weight of the KL divergence between the segmentations of an image and of its composite."""
    strength: float = 1.0
    """Between the image's own style (0) and the target's (1)."""
    loss_weight: float = 10.0
    """λ of the style losses against the content loss, in training the style network."""

    def __post_init__(self) -> None:
        for name in ("probability", "strength"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"style.{name}", value, "must be in [0, 1]")
        for name in ("kl_weight", "loss_weight"):
            require(getattr(self, name) >= 0, f"style.{name}", getattr(self, name), "must not be negative")
        if self.network is None:
            require(self.kl_weight == 0, "style.kl_weight", self.kl_weight, "needs style.network, which restyles")
        elif self.direction == "to_target":
            require(bool(self.conditions), "style.conditions", self.conditions, "name the conditions to restyle to")
        else:
            require(self.kl_weight == 0, "style.kl_weight", self.kl_weight, "belongs to direction to_target")
            require(not self.conditions, "style.conditions", self.conditions, "belong to direction to_target")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """What the run asks of the cluster."""

    num_workers: int = 1
    min_workers: int | None = None
    """When machines are lost, go on with at least this many, and with more again as they come back. None: wait for all
    of them."""
    gpu: bool = False
    cpus_per_worker: int = 1
    max_failures: int = 3
    """How often lost workers are replaced before the run fails."""

    def __post_init__(self) -> None:
        require(1 <= self.num_workers <= 4096, "scaling.num_workers", self.num_workers, "must be from 1 to 4096")
        least = self.num_workers if self.min_workers is None else self.min_workers
        bounds = f"must be from 1 to scaling.num_workers = {self.num_workers}"
        require(1 <= least <= self.num_workers, "scaling.min_workers", self.min_workers, bounds)
        require(self.cpus_per_worker >= 1, "scaling.cpus_per_worker", self.cpus_per_worker, "must be at least 1")
        require(self.max_failures >= 0, "scaling.max_failures", self.max_failures, "must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    uri: str = "runs/checkpoints"
    """Runs are kept under here, each in a folder of its name: a directory all nodes share, or an s3:// prefix."""
    every_steps: int = 0
    """Steps between checkpoints, beside the one with each evaluation; 0: only that."""
    best_by: str = MIOU
    """What makes the best checkpoint, which is kept, reported and used where a run is named: a score of labelled images
    (val/mIoU, val/mIoU_mean_conditions, val/mIoU_worst, or val/mIoU/CONDITION), or a figure of images of the target
    conditions without labels (evaluate.targets): target/certainty, information, agreement or class_ratios."""

    def __post_init__(self) -> None:
        require(bool(self.uri), "checkpoint.uri", self.uri, "give a directory or an s3:// prefix")
        require(self.every_steps >= 0, "checkpoint.every_steps", self.every_steps, "must not be negative")
        is_known = self.best_by in BEST_BY or bool(condition_of(self.best_by))
        choices = f"choose from {', '.join(BEST_BY)} and {MIOU}/CONDITION"
        require(is_known, "checkpoint.best_by", self.best_by, choices)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    every_steps: int = 0
    """Steps between evaluations; 0: one at the end."""
    overlays_per_condition: int = 2
    """Pictures made at each evaluation: this many images of each condition, always the same ones, and this many of its
    worst; 0: none."""
    metrics: tuple[str, ...] = ()
    """Further metrics, each your own function of distseg.evaluation.PixelCounts as module:name. Each is logged as
    val/NAME and val/NAME/CONDITION and stands in the tables beside mIoU."""
    targets: tuple[str, ...] = ()
    """Conditions of data.train_split, or SPLIT/CONDITION, on whose images target/certainty and its like are measured,
    without their labels. None: adapt.conditions, if there are any."""
    target_images: int = 64
    """How many of their images, evenly spread; 0: none."""

    def __post_init__(self) -> None:
        require(self.target_images >= 0, "evaluate.target_images", self.target_images, "must not be negative")
        require(self.every_steps >= 0, "evaluate.every_steps", self.every_steps, "must not be negative")
        require(
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
    objective: Champion = MIOU
    """What makes a champion."""

    def __post_init__(self) -> None:
        require(bool(self.experiment), "tracking.experiment", self.experiment, "give the experiment a name")
        require(self.log_every_steps >= 1, "tracking.log_every_steps", self.log_every_steps, "must be at least 1")
        name = self.register
        is_plain = name is None or (bool(name.strip()) and not set(name) & set("/:'"))
        require(is_plain, "tracking.register", name, "give the model a name without quotes, '/' and ':'")
        require(name is None or self.log_model, "tracking.register", name, "needs tracking.log_model True")
