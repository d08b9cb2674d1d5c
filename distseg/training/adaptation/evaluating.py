"""Evaluates a network condition by condition, adapted to each by images of it."""

import copy
from collections.abc import Callable, Sequence
from typing import Literal

from distseg import evaluation
from distseg.config import MAX_MEGAPIXELS
from distseg.data.shards import Manifest, Shard
from distseg.errors import ConfigError
from distseg.evaluation import WHOLE_IMAGE, ConfusionMatrix, InferenceConfig, World
from distseg.models import SegmentationModel
from distseg.training.adaptation.statistics import recalibrate_on_, spread_by_size
from distseg.training.adaptation.tent import tent_on_


def evaluate_by_condition(
    model: SegmentationModel,
    manifest: Manifest,
    shards: Sequence[Shard],
    world: World,
    num_images: int,
    *,
    how: Literal["batchnorm", "tent"] = "batchnorm",
    adapted: Sequence[str] = (),
    keep: float = 0.0,
    precision: str,
    inference: InferenceConfig = WHOLE_IMAGE,
    num_threads: int = 2,
    max_megapixels: float = MAX_MEGAPIXELS,
    cache_bytes: int = 0,
    cache_dir: str = "",
    progress: Callable[[int], None] | None = None,
) -> ConfusionMatrix:
    """As `evaluation.evaluate_shards`; before each condition the model adapts to up to `num_images` of its images.

    `how`: batch norm's statistics alone, or Tent, see there. `adapted`: the conditions to adapt to, by default all;
    others are evaluated as the model is given, which suits those it was trained on with labels. `keep`, of batchnorm:
    the share of the training's statistics that stays, see `recalibrate_`. Each begins with the weights as given. Labels
    are used for scoring alone. Leaves the model as it is for the last condition. Raises ConfigError naming a condition
    that has too few images or is not evaluated, or if the network has no batch norm.
    """
    conditions = sorted({shard.condition for shard in shards})
    _check_evaluated(adapted, conditions)
    before = copy.deepcopy(model.state_dict())
    counted = ConfusionMatrix.empty((), manifest.label_space.num_classes)
    for condition in conditions:
        own = [shard for shard in shards if shard.condition == condition]
        model.load_state_dict(before)
        if not adapted or condition in adapted:
            try:
                images = spread_by_size(
                    manifest, own, num_images, num_threads=num_threads, max_megapixels=max_megapixels
                )
                if how == "tent":
                    tent_on_(model, images, device=world.device, precision=precision)
                else:
                    recalibrate_on_(model, images, device=world.device, precision=precision, keep=keep)
            except ConfigError as error:
                raise ConfigError(f"--adapt {how}, condition {condition}: {error}") from None
        scored = evaluation.evaluate_shards(
            model,
            manifest,
            own,
            world,
            precision=precision,
            inference=inference,
            num_threads=num_threads,
            max_megapixels=max_megapixels,
            cache_bytes=cache_bytes,
            cache_dir=cache_dir,
            progress=_after(len(counted.images) // world.size, progress),
        )
        counted = counted.joined(scored)
    return counted


def _check_evaluated(adapted: Sequence[str], conditions: Sequence[str]) -> None:
    for name in adapted:
        if name not in conditions:
            raise ConfigError(f"--adapt_conditions {name}: is not evaluated; choose from {', '.join(conditions)}")


def _after(num_before: int, progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    return None if progress is None else lambda num_done: progress(num_before + num_done)
