"""A run on data of one's own, sized by what was packed."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distseg.config import RunConfig
from distseg.config.recipes.on_camvid import pspnet_camvid
from distseg.errors import ConfigError

_MAX_CROP_PX, _MIN_SIDE_PX, _MULTIPLE_PX = 240 * 320, 32, 8
_EPOCHS, _MIN_STEPS, _MAX_STEPS = 40, 120, 3000


@dataclass(frozen=True, kw_only=True)
class PackedData:
    """What the size of a run follows from."""

    name: str
    splits: Sequence[str]
    num_train: int
    image_hw: tuple[int, int]  # largest height and largest width of a training image


def auto() -> RunConfig:
    """PSPNet-18 from random weights on any packed data: crop, batch, steps and splits are chosen by its manifest.

    Give `--data.uri`. Crops are as large as the images, up to the area of 240x320 pixels; 40 epochs, but 120 to 3,000
    steps: minutes for a few images, an hour or two for a thousand, on two cores. AdamW at 1e-3 and class weights as in
    `pspnet_camvid`. Every field can still be given, and `--print-config` shows what was chosen. (This function alone
    knows no data: `sizes` gives what follows from them.)
    """
    camvid = pspnet_camvid()
    augment, evaluate = replace(camvid.augment, scale=(0.75, 1.5)), replace(camvid.evaluate, every_steps=400)
    return replace(camvid, name="auto", augment=augment, evaluate=evaluate)


def sizes(data: PackedData, uri: str) -> dict[str, object]:
    """The fields of `auto` that follow from the data, by their dotted names.

    Raises ConfigError if there is no split to train on, or none to be evaluated on.
    """
    train, val = _splits(data, uri)
    batch_size = 8 if data.num_train >= 16 else 4
    max_steps = min(_MAX_STEPS, max(_MIN_STEPS, math.ceil(_EPOCHS * data.num_train / batch_size)))
    return {
        "name": re.sub(r"[^A-Za-z0-9]+", "-", data.name).strip("-") or "auto",
        "data.train_split": train,
        "data.val_split": val,
        "data.batch_size": batch_size,
        "data.crop_px": _crop(*data.image_hw),
        "optim.max_steps": max_steps,
        "optim.warmup_steps": min(50, max_steps // 10),
        "evaluate.every_steps": math.ceil(max_steps / 4),
    }


def _splits(data: PackedData, uri: str) -> tuple[str, str]:
    """The one to train on and the one to be evaluated on."""
    train = train_split(data.splits)
    others = [split for split in data.splits if split != train]
    if not others:
        raise ConfigError(
            f"{uri}: one split only, {train}: a second one is needed to be evaluated on; pack the data again with "
            "images in images/train and images/val, or with a column split in conditions.csv"
        )
    return train, next((split for split in ("val", "test") if split in others), others[0])


def train_split(splits: Sequence[str]) -> str:
    return "train" if "train" in splits else splits[0]


def _crop(height: int, width: int) -> tuple[int, int]:
    """The image's shape, no larger than it, and of a limited area."""
    scale = min(1.0, math.sqrt(_MAX_CROP_PX / (height * width)))
    down = (max(_MIN_SIDE_PX, int(side * scale) // _MULTIPLE_PX * _MULTIPLE_PX) for side in (height, width))
    crop_height, crop_width = down
    return crop_height, crop_width
