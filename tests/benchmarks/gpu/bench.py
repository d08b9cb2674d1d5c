"""What the sections share: sizes, the device, configurations, and a record of what a training logs."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from distseg import evaluation
from distseg.config import RunConfig, options_class, recipes
from distseg.training.checkpoint import Checkpoint

NUM_STEPS = 10  # of an equality


@dataclass(frozen=True)
class Sizes:
    """How large the sections are."""

    town: tuple[int, int]  # frames of train and val
    large_frames: tuple[int, int]  # the same, for reader and evaluation
    large_px: tuple[int, int]
    crop_px: tuple[int, int]
    batch_size: int
    num_steps: int  # timed ones
    town_steps: int
    matrix: int  # side of the matrices whose product gives the peak

    @classmethod
    def full(cls) -> "Sizes":
        return cls((720, 180), (64, 32), (720, 1280), (713, 713), 16, 20, 480, 8192)

    @classmethod
    def small(cls) -> "Sizes":
        return cls((18, 18), (8, 4), (96, 128), (65, 65), 2, 2, 4, 256)


@dataclass
class Recorder:
    """A `Reporter` that remembers what was logged, and writes nothing."""

    logged: dict[int, dict[str, float]] = field(default_factory=dict)

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        self.logged.setdefault(step, {}).update(metrics)

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None: ...

    def pending_records(self) -> list[dict[str, Any]]:
        return []

    def save(self, step: int, checkpoint: Checkpoint | None, metrics: dict[str, float]) -> None: ...

    def of(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in sorted(self.logged.items()) if name in metrics]


@dataclass(frozen=True)
class Bench:
    device: torch.device
    sizes: Sizes
    town_uri: str
    large_uri: str
    camvid_uri: str | None

    @property
    def is_small(self) -> bool:
        return self.sizes == Sizes.small()

    @property
    def backbone(self) -> str:
        return "resnet18" if self.is_small else "resnet50"

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @property
    def precision(self) -> str:
        return evaluation.resolve_precision("auto", self.device)

    def config(self, network: str, **changes: Any) -> RunConfig:
        """A short training on `town`, of which nothing depends on the machine."""
        variants = options_class(network).variants().values()
        chosen = next(config for config in variants if not config.is_style_network)
        base = recipes.find("town")
        return replace(
            base,
            name=network.replace("_", "-"),
            model=chosen,
            loss=replace(base.loss, aux_weight=0.4 if network == "pspnet" else 0.0),
            data=replace(base.data, uri=self.town_uri, batch_size=4, crop_px=(64, 64), num_threads=2),
            optim=replace(base.optim, name="sgd", lr=1e-3, warmup_steps=0, max_steps=NUM_STEPS),
            evaluate=replace(base.evaluate, every_steps=0),
            tracking=replace(base.tracking, log_every_steps=1),
            **changes,
        )
