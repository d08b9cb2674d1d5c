"""A run is one value: `RunConfig`. It is logged whole, stored in every checkpoint and tuned by dotted field."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from distseg.config.adaptation import AdaptConfig
from distseg.config.model import ModelConfig, model_config
from distseg.config.schema import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    Layout,
    LossConfig,
    OptimConfig,
    Precision,
    ScalingConfig,
    StyleConfig,
    TrackingConfig,
)
from distseg.metric_names import MIOU, TARGET, TARGET_AGREEMENT
from distseg.strict_json import require


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training, whole."""

    name: str = "run"
    """Begins the run's name in MLflow and in checkpoint.uri."""
    model: ModelConfig = field(default_factory=model_config)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    precision: Precision = "auto"
    """auto: bf16 where the device computes faster in it, else fp32. fp16, with a scaled loss: for GPUs without bf16."""
    layout: Layout = "auto"
    """Of images and weights in memory, in training. auto: channels_last, but contiguous on CPUs for networks that were
    measured to be faster so (of bottlenecks, in fp32)."""
    compile: bool = False

    def __post_init__(self) -> None:
        name_is_plain = bool(self.name) and self.name.replace("-", "").replace("_", "").isalnum()
        require(name_is_plain, "name", self.name, "use letters, digits, '-' and '_'")
        require(self.seed >= 0, "seed", self.seed, "must not be negative")
        workers = range(self.scaling.min_workers or self.scaling.num_workers, self.scaling.num_workers + 1)
        check_divides(self.data.batch_size, workers, self.optim.accumulate_steps)
        require(
            self.model.has_aux_head or self.loss.aux_weight == 0,
            "loss.aux_weight",
            self.loss.aux_weight,
            f"{self.model.name} has no auxiliary head; give 0",
        )
        if not self.model.is_style_network and self.style.network is None:
            require(not self.style.conditions, "style.conditions", self.style.conditions, "needs style.network")
        if self.adapt.weight is not None:
            require(self.optim.ema_decay is not None, "optim.ema_decay", None, "adapt.weight needs it: the teacher's")
        require(
            not (self.model.is_style_network and self.adapt.conditions),
            "adapt.conditions",
            self.adapt.conditions,
            f"{self.model.name} segments nothing; leave them out",
        )
        self._check_best_by()
        require(
            not (self.compile and self.model.checkpointing),
            "model.checkpointing",
            self.model.checkpointing,
            "does not go with compile = True; leave one of them out",
        )
        self.model.check_run(self)

    def _check_best_by(self) -> None:
        best_by = self.checkpoint.best_by
        segments = best_by == MIOU or not self.model.is_style_network
        require(segments, "checkpoint.best_by", best_by, f"{self.model.name} segments nothing; leave it out")
        if not best_by.startswith(TARGET):
            return
        targets, num_images = self.evaluate.targets or self.adapt.conditions, self.evaluate.target_images
        needs = "needs evaluate.targets, the conditions it is measured on, or adapt.conditions"
        require(bool(targets) and num_images > 0, "checkpoint.best_by", best_by, needs)
        has_average = best_by != TARGET_AGREEMENT or self.optim.ema_decay is not None
        require(has_average, "checkpoint.best_by", best_by, "needs optim.ema_decay, the average to agree with")

    @property
    def micro_batch_size(self) -> int:
        """Samples of one forward pass, over all workers."""
        return self.data.batch_size // self.optim.accumulate_steps


def check_divides(batch_size: int, num_workers: Sequence[int], accumulate_steps: int = 1) -> None:
    """Each worker gets the same whole number of samples in each micro-batch, with any of these numbers of workers.

    Raises ConfigError with sizes that do, and with other numbers of workers for this size.
    """
    unit = math.lcm(*num_workers) * accumulate_steps
    below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
    nearest = " or ".join(str(size) for size in (below, above) if size)
    shares = f"{num_workers[-1]} workers" if len(num_workers) == 1 else f"{num_workers[0]} to {num_workers[-1]} workers"
    shares += f" x {accumulate_steps} accumulated steps" if accumulate_steps > 1 else ""
    others = ""
    if len(num_workers) == 1:
        fit = [n for n in range(1, batch_size + 1) if batch_size % (n * accumulate_steps) == 0]
        around = [*[n for n in fit if n < num_workers[0]][-1:], *[n for n in fit if n > num_workers[0]][:1]]
        others = f", and {batch_size} by {' or '.join(map(str, around))} (scaling.num_workers)" if around else ""
    require(
        batch_size % unit == 0,
        "data.batch_size",
        batch_size,
        f"cannot be shared by {shares}; the nearest sizes that can are {nearest}{others}",
    )
