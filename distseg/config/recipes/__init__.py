"""Named runs: each function returns a RunConfig; its docstring says paper, data, expected score and cost.

A variant changes fields of another recipe. A user's own is any `module:function` that returns a RunConfig.
"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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

Recipe = Callable[[], RunConfig]


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
    scaled and jittered crops of 384x288, a Dice term, and an average of the weights is evaluated. 300 epochs are
    11,000 steps of 10 images: hours on a CPU; cut them into sittings with --resume.
    """
    return RunConfig(
        name="enet-camvid",
        model=ModelConfig(name="enet"),
        loss=LossConfig(aux_weight=0.0, class_weights="enet", dice_weight=1.0),
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
        data=DataConfig(batch_size=10, crop_px=(288, 384)),
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


def fcn_attention_town() -> RunConfig:
    """The FCN with attention (Shen & Sun 2022) at a quarter of VGG16's widths on `town`, for its ablations. Minutes."""
    config = town()
    model = ModelConfig(name="fcn_attention", width=0.25, se_ratio=16, dropout=0.0)
    return replace(config, name="fcn-attention-town", model=model, loss=replace(config.loss, aux_weight=0.0))


# ---- the papers' own. Compute is that of the forward passes times three, at two operations per multiply-add; hours are
# at 100 TFLOP/s sustained, since none of these has been run whole here. Give `--data.uri`; scale `scaling.num_workers`.


def _zhao(name: str, *, crop_px: int, max_steps: int, model: ModelConfig) -> RunConfig:
    """Zhao et al. 2017, section 5.1, and their code: SGD, poly, heads at 10 times the rate, batch 16, ImageNet."""
    return RunConfig(
        name=name,
        model=replace(model, pretrained="imagenet"),
        optim=OptimConfig(lr=0.01, momentum=0.9, weight_decay=1e-4, head_lr_scale=10.0, max_steps=max_steps),
        data=DataConfig(batch_size=16, crop_px=(crop_px, crop_px)),
        checkpoint=CheckpointConfig(every_steps=1000),
        evaluate=EvaluateConfig(every_steps=10_000),
    )


def pspnet_cityscapes() -> RunConfig:
    """PSPNet-50 (Zhao et al. 2017) on Cityscapes' fine annotations; torchvision's stem.

    Expected: the authors' code has 77.30 mIoU on val, 78.38 with scales and flips. 3.2 EFLOP, 9 hours; GPUs of 24 GB
    at 2 crops each.
    """
    return _zhao("pspnet-cityscapes", crop_px=713, max_steps=90_000, model=ModelConfig())


def pspnet101_cityscapes() -> RunConfig:
    """PSPNet-101 (Zhao et al. 2017) on Cityscapes' fine annotations.

    Expected: the authors' code has 78.63 mIoU on val, 79.29 with scales and flips; the paper 78.4 on test. 4.5 EFLOP,
    13 hours.
    """
    config = pspnet_cityscapes()
    return replace(config, name="pspnet101-cityscapes", model=replace(config.model, backbone="resnet101"))


def pspnet_voc() -> RunConfig:
    """PSPNet-50 (Zhao et al. 2017) on VOC 2012 with SBD's annotations.

    Expected: the authors' code has 77.05 mIoU on val, 78.02 with scales and flips (the paper's 82.6 on test is
    PSPNet-101). 0.5 EFLOP, 1.3 hours.
    """
    return _zhao("pspnet-voc", crop_px=473, max_steps=30_000, model=ModelConfig())


def pspnet_ade20k() -> RunConfig:
    """PSPNet-50 (Zhao et al. 2017) on ADE20K: bins 1, 2, 3, 6, average, reduced; auxiliary loss 0.4.

    Expected on val: 41.68 mIoU in the paper's table 1; the authors' code 41.89, 42.84 with scales and flips. 2.4 EFLOP,
    7 hours. Its ablations are `pspnet_ade20k_ablation_*`; depths 101, 152, 269 (43.81, with the deep stem) are
    `--model.backbone`.
    """
    return _zhao("pspnet-ade20k", crop_px=473, max_steps=150_000, model=ModelConfig())


def _ade20k_ablation(name: str, score: str, *, aux_weight: float = 0.4, augment: bool = True, **model: Any) -> Recipe:
    def recipe() -> RunConfig:
        config = pspnet_ade20k()
        return replace(
            config,
            name=name.replace("_", "-"),
            model=replace(config.model, **model),
            loss=LossConfig(aux_weight=aux_weight),
            data=replace(config.data, augment=augment),
        )

    recipe.__name__ = f"pspnet_ade20k_ablation_{name}"
    recipe.__doc__ = f"An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: {score}."
    return recipe


_BASELINE: dict[str, Any] = {"bins": ()}
ADE20K_ABLATIONS = (
    # Table 1, with the auxiliary loss; DR reduces.
    _ade20k_ablation("baseline", "37.23 / 78.01 (dilated FCN)", **_BASELINE),
    _ade20k_ablation("b1_max", "39.94 / 79.46", bins=(1,), pool="max", reduce=False),
    _ade20k_ablation("b1_avg", "40.07 / 79.52", bins=(1,), reduce=False),
    _ade20k_ablation("b1236_max", "40.18 / 79.45", pool="max", reduce=False),
    _ade20k_ablation("b1236_avg", "41.07 / 79.97", reduce=False),
    _ade20k_ablation("b1236_max_dr", "40.87 / 79.61", pool="max"),
    # Table 2 and the steps of table 4, on the baseline.
    _ade20k_ablation("plain", "34.28 (no augmentation, no auxiliary loss)", aux_weight=0.0, augment=False, **_BASELINE),
    _ade20k_ablation("aux_00", "35.82 / 77.07", aux_weight=0.0, **_BASELINE),
    _ade20k_ablation("aux_03", "37.01 / 77.87", aux_weight=0.3, **_BASELINE),
    _ade20k_ablation("aux_06", "37.09 / 77.84", aux_weight=0.6, **_BASELINE),
    _ade20k_ablation("aux_09", "36.99 / 77.87", aux_weight=0.9, **_BASELINE),
)

SYNTHIA_TARGETS = ("fall", "fog", "night", "spring", "summer", "sunset", "winter", "winter-night")


def pspnet_synthia_highway() -> RunConfig:
    """The PSPNet baseline of Song et al. 2021: SYNTHIA-SEQS' highway, trained on dawn, evaluated on all conditions.

    Pack the sequences of this site alone. Expected, mean over nine conditions: 64.6 mIoU. 0.01 EFLOP. The paper gives
    bins 1, 2, 3, 4, momentum 0.99, rate 0.001 and 1000 iterations, but neither batch nor crop: 8 of 480 here.
    """
    return RunConfig(
        name="pspnet-synthia-highway",
        model=ModelConfig(bins=(1, 2, 3, 4), pretrained="imagenet"),
        optim=OptimConfig(lr=0.001, momentum=0.99, head_lr_scale=1.0, max_steps=1000),
        data=DataConfig(batch_size=8, crop_px=(480, 480), train_conditions=("dawn",)),
        evaluate=EvaluateConfig(every_steps=250),
    )


def pspnet_synthia_new_york() -> RunConfig:
    """`pspnet_synthia_highway` for the sequences of New York. Expected, mean over nine conditions: 52.0 mIoU."""
    return replace(pspnet_synthia_highway(), name="pspnet-synthia-new-york")


def adain_synthia() -> RunConfig:
    """The AdaIN style network of Song et al. 2021: SYNTHIA's dawn in the styles of the other conditions.

    ResNet-50 encoder of ImageNet, styles exchanged at 1/8 of the resolution. The paper does not give its training:
    AdamW here.
    """
    return RunConfig(
        name="adain-synthia",
        model=ModelConfig(name="adain", pretrained="imagenet"),
        loss=LossConfig(aux_weight=0.0),
        style=StyleConfig(conditions=SYNTHIA_TARGETS),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.0, head_lr_scale=1.0, max_steps=10_000),
        data=DataConfig(batch_size=8, crop_px=(256, 256), train_conditions=("dawn",)),
        augment=AugmentConfig(scale=(0.5, 1.0), rotate_deg=0.0, blur=0.0),
        checkpoint=CheckpointConfig(every_steps=1000),
    )


def improved_pspnet_synthia_highway() -> RunConfig:
    """The improved PSPNet of Song et al. 2021 on SYNTHIA-SEQS' highway: SE, style transfer and KL term.

    Give `--style.network`, a run of `adain_synthia`, `--style.conditions` as there and `--style.kl_weight`; until then
    it is `pspnet_synthia_highway` with SE. Expected, mean over nine conditions: 69.2 mIoU. The paper gives neither SE
    ratio (16 here) nor KL weight. Each part is a switch: model.se_ratio, style.network, kl_weight, direction.
    """
    config = pspnet_synthia_highway()
    return replace(config, name="improved-pspnet-synthia-highway", model=replace(config.model, se_ratio=16))


def improved_pspnet_synthia_new_york() -> RunConfig:
    """`improved_pspnet_synthia_highway` for New York. Expected, mean over nine conditions: 56.4 mIoU."""
    return replace(improved_pspnet_synthia_highway(), name="improved-pspnet-synthia-new-york")


def fcn_attention_voc() -> RunConfig:
    """The FCN with attention (Shen & Sun 2022) on VOC 2012 with SBD's annotations.

    Published: mIoU 0.827, MPA 0.902. AdamW in place of an optimiser that the paper does not name. 50 epochs of 10,582
    images are 2067 steps of 256; 0.1 EFLOP, 20 minutes. Lower `--data.batch_size` or add workers to fit memory.
    """
    return RunConfig(
        name="fcn-attention-voc",
        model=ModelConfig(name="fcn_attention", se_ratio=16),
        loss=LossConfig(aux_weight=0.0),
        optim=OptimConfig(name="adamw", lr=1e-3, head_lr_scale=1.0, poly_power=0.95, max_steps=2067),
        data=DataConfig(batch_size=256, crop_px=(224, 224)),
        evaluate=EvaluateConfig(every_steps=500),
    )


def fcn8s_voc() -> RunConfig:
    """FCN-8s (Long et al. 2015) on VOC 2012 with SBD's annotations, VGG16 of ImageNet.

    Published: 62.2 mIoU on test. Deviation: fc6 and fc7 start random, so they learn 10 times as fast.
    """
    return RunConfig(
        name="fcn8s-voc",
        model=ModelConfig(name="fcn", backbone="vgg16", pretrained="imagenet", dropout=0.5),
        loss=LossConfig(aux_weight=0.0),
        optim=OptimConfig(lr=1e-3, momentum=0.9, weight_decay=5e-4, max_steps=30_000),
        data=DataConfig(batch_size=16, crop_px=(480, 480)),
        evaluate=EvaluateConfig(every_steps=5000),
    )


def _mukherjee(name: str, model: ModelConfig, *, batch_size: int, crop_px: int, max_steps: int) -> RunConfig:
    """Mukherjee & Bhattacharjee: SGD 0.01, 0.9, 1e-4, poly power 1, 80 epochs; mirror, scale, rotation, blur.

    Their poly formula is recursive, each step shrinking the rate before; here it is a function of the step.
    """
    return RunConfig(
        name=name,
        model=model,
        loss=LossConfig(aux_weight=0.4 if model.has_aux_head else 0.0),
        optim=OptimConfig(lr=0.01, head_lr_scale=1.0, poly_power=1.0, max_steps=max_steps),
        data=DataConfig(batch_size=batch_size, crop_px=(crop_px, crop_px)),
        evaluate=EvaluateConfig(every_steps=max_steps // 8),
    )


def enet_voc() -> RunConfig:
    """ENet on VOC 2012 with SBD's annotations as in Mukherjee & Bhattacharjee.

    Published: 27.20 mIoU without and 27.75 with augmentation (`--data.augment False`), on centre crops, so whole
    images do not compare. 0.01 EFLOP.
    """
    return _mukherjee("enet-voc", ModelConfig(name="enet"), batch_size=8, crop_px=380, max_steps=105_820)


def r2unet_cityscapes() -> RunConfig:
    """R2U-Net on Cityscapes as in Mukherjee & Bhattacharjee.

    Published: 33.10 to 33.65 mIoU on centre crops, so whole images do not compare. 56 base channels give the published
    30.0M parameters. 0.9 EFLOP, 2.4 hours.
    """
    model = ModelConfig(name="r2unet", width=56 / 64)
    return _mukherjee("r2unet-cityscapes", model, batch_size=3, crop_px=512, max_steps=79_334)


RECIPES: dict[str, Recipe] = {
    f.__name__: f
    for f in (
        town,
        pspnet_camvid,
        pspnet_camvid_day,
        enet_camvid,
        adain_town,
        fcn_attention_town,
        pspnet_cityscapes,
        pspnet101_cityscapes,
        pspnet_voc,
        pspnet_ade20k,
        *ADE20K_ABLATIONS,
        pspnet_synthia_highway,
        pspnet_synthia_new_york,
        adain_synthia,
        improved_pspnet_synthia_highway,
        improved_pspnet_synthia_new_york,
        fcn_attention_voc,
        fcn8s_voc,
        enet_voc,
        r2unet_cityscapes,
    )
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
