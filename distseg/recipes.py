"""Named runs: each function returns a RunConfig; its docstring says paper, data, expected score and cost.

A variant changes fields of another recipe. A user's own is any `module:function` that returns a RunConfig.
"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import replace

from distseg.config import (
    AugmentConfig,
    DataConfig,
    EvaluateConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
)
from distseg.errors import ConfigError

TOWN_URI = "runs/data/town"


def town() -> RunConfig:
    """PSPNet-18 on the procedural `town`: the embedded default, which packs its own data.

    Sized for five minutes on two cores: about three epochs, so crops are cut from frames as they are, at most a little
    enlarged. AdamW and class weights instead of the paper's SGD, which starts too slowly.
    """
    return RunConfig(
        name="town",
        model=ModelConfig(backbone="resnet18"),
        loss=LossConfig(class_weights="inverse_sqrt"),
        optim=OptimConfig(name="adamw", lr=2e-3, weight_decay=1e-2, head_lr_scale=1.0, warmup_steps=20, max_steps=290),
        data=DataConfig(uri=TOWN_URI, batch_size=8, crop_px=(128, 192)),
        augment=AugmentConfig(scale=(1.0, 1.25), rotate_deg=0.0, blur=0.0),
        scaling=ScalingConfig(num_workers=2),
    )


def pspnet_camvid() -> RunConfig:
    """PSPNet-18 (Zhao et al. 2017) on CamVid in SegNet's 480x360 layout, from random weights.

    Give `--data.uri`. The paper has no CamVid table; public 11-class results from scratch at this size are 46–52
    mIoU on the test split (SegNet 46.3, ENet 52.1). Deviations: AdamW with class weights and a narrower augmentation,
    since there are 367 images and no ImageNet weights; with `--model.pretrained imagenet` prefer the paper's SGD.
    """
    return RunConfig(
        name="pspnet-camvid",
        model=ModelConfig(backbone="resnet18"),
        loss=LossConfig(class_weights="inverse_sqrt"),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=1e-2, head_lr_scale=1.0, warmup_steps=50, max_steps=1600),
        data=DataConfig(batch_size=8, crop_px=(240, 320)),
        augment=AugmentConfig(scale=(0.6, 1.6), rotate_deg=0.0, blur=0.0, jitter=0.2),
        scaling=ScalingConfig(num_workers=2),
        evaluate=EvaluateConfig(every_steps=200),
    )


def pspnet_camvid_day() -> RunConfig:
    """`pspnet_camvid` trained on the train split's day frames, evaluated on val's day and the train split's dusk."""
    config = pspnet_camvid()
    data = replace(config.data, train_conditions=("day",), val_conditions=("day", "train/dusk"))
    return replace(config, name="pspnet-camvid-day", data=data)


RECIPES: dict[str, Callable[[], RunConfig]] = {f.__name__: f for f in (town, pspnet_camvid, pspnet_camvid_day)}


def find(name: str) -> RunConfig:
    """The named recipe's config. Raises ConfigError with the nearest name."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(RECIPES)}"
        raise ConfigError(f"recipe {name!r} does not exist; {hint}")
    return RECIPES[name]()


def load(target: str) -> RunConfig:
    """The config that a user's own `module:function` returns. Raises ConfigError saying what is wrong with it."""
    module_name, _, function_name = target.partition(":")
    if not module_name or not function_name:
        raise ConfigError(f"--recipe {target!r}: give it as module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise ConfigError(f"--recipe {target!r}: cannot import {module_name} ({error})") from None
    except AttributeError:
        raise ConfigError(f"--recipe {target!r}: {module_name} has no function {function_name}") from None
    if not callable(function):
        raise ConfigError(f"--recipe {target!r}: {function_name} is of type {type(function).__name__}, not a function")
    config = function()
    if not isinstance(config, RunConfig):
        raise ConfigError(f"--recipe {target!r}: returned {type(config).__name__}, not a distseg.config.RunConfig")
    return config
