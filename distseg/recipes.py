"""Named runs: each function returns a RunConfig; its docstring says paper, data, expected score and cost.

A variant changes fields of another recipe. A user's own is any `module:function` that returns a RunConfig.
"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import replace

from distseg.config import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
    StyleConfig,
)
from distseg.errors import ConfigError

TOWN_URI = "runs/data/town"


def town() -> RunConfig:
    """PSPNet-18 on the procedural `town`: the embedded default, which packs its own data.

    Sized for four minutes on two cores: less than three epochs, so frames are only mirrored, not scaled, and nothing is
    dropped out. AdamW, class weights and a Dice term instead of the paper's SGD, which starts too slowly.
    """
    return RunConfig(
        name="town",
        model=ModelConfig(backbone="resnet18", dropout=0.0),
        loss=LossConfig(class_weights="inverse_sqrt", dice_weight=1.0),
        optim=OptimConfig(name="adamw", lr=2e-3, weight_decay=1e-2, head_lr_scale=1.0, warmup_steps=20, max_steps=240),
        data=DataConfig(uri=TOWN_URI, batch_size=8, crop_px=(128, 192)),
        augment=AugmentConfig(scale=(1.0, 1.0), rotate_deg=0.0, blur=0.0),
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


def enet_camvid() -> RunConfig:
    """ENet (Paszke et al. 2016) on CamVid in SegNet's 480x360 layout, from random weights.

    Give `--data.uri`. Published: 51.3 mIoU on the test split (11 classes); a public re-implementation 52.1 after 300
    epochs. Deviations: encoder and decoder are trained together, AdamW with the poly rate instead of Adam with steps,
    scaled and jittered crops, and an average of the weights is evaluated. 300 epochs are 11,000 steps of 10 images:
    hours on a CPU; cut them into sittings with --resume.
    """
    return RunConfig(
        name="enet-camvid",
        model=ModelConfig(name="enet"),
        loss=LossConfig(aux_weight=0.0, class_weights="enet"),
        optim=OptimConfig(
            name="adamw",
            lr=2e-3,
            weight_decay=1e-2,
            head_lr_scale=1.0,
            warmup_steps=100,
            max_steps=11_000,
            decay_norm_and_bias=False,
            ema_decay=0.999,
        ),
        data=DataConfig(batch_size=10, crop_px=(360, 480)),
        augment=AugmentConfig(scale=(0.75, 1.5), rotate_deg=0.0, blur=0.0, jitter=0.3),
        scaling=ScalingConfig(num_workers=2),
        checkpoint=CheckpointConfig(every_steps=250),
        evaluate=EvaluateConfig(every_steps=1000),
    )


def adain_town() -> RunConfig:
    """The AdaIN style network of Song et al. 2021 on `town`: dawn's frames in the styles of the other conditions.

    Give `--model.pretrained`: a run of `town` trained on dawn, whose ResNet-18 is the encoder (the paper: ImageNet's
    ResNet-50). Styles are exchanged at 1/4 of the resolution, so that labels stay true to the small frames. Minutes.
    """
    conditions = ("fall", "fog", "night", "spring", "summer", "sunset", "winter", "winter-night")
    return RunConfig(
        name="adain-town",
        model=ModelConfig(name="adain", backbone="resnet18", style_depth=1),
        loss=LossConfig(aux_weight=0.0),
        style=StyleConfig(conditions=conditions),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.0, head_lr_scale=1.0, warmup_steps=20, max_steps=400),
        data=DataConfig(uri=TOWN_URI, batch_size=8, crop_px=(128, 192), train_conditions=("dawn",)),
        augment=AugmentConfig(scale=(1.0, 1.0), rotate_deg=0.0, blur=0.0),
        scaling=ScalingConfig(num_workers=2),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    f.__name__: f for f in (town, pspnet_camvid, pspnet_camvid_day, enet_camvid, adain_town)
}


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
