"""The papers' own runs.

Compute is that of the forward passes times three, at two operations per multiply-add. Hours are for 100 TFLOP/s
sustained: none of these has been run whole here. Give `--data.uri`; scale `scaling.num_workers`.
"""

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
    StyleConfig,
    model_config,
    with_overrides,
)

SYNTHIA_TARGETS = ("fall", "fog", "night", "spring", "summer", "sunset", "winter", "winter-night")


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
    return _zhao("pspnet-cityscapes", crop_px=713, max_steps=90_000, model=model_config())


def pspnet101_cityscapes() -> RunConfig:
    """PSPNet-101 (Zhao et al. 2017) on Cityscapes' fine annotations.

    Expected: the authors' code has 78.63 mIoU on val, 79.29 with scales and flips; the paper 78.4 on test. 4.5 EFLOP,
    13 hours.
    """
    return with_overrides(pspnet_cityscapes(), {"name": "pspnet101-cityscapes", "model.backbone": "resnet101"})


def pspnet_voc() -> RunConfig:
    """PSPNet-50 (Zhao et al. 2017) on VOC 2012 with SBD's annotations.

    Expected: the authors' code has 77.05 mIoU on val, 78.02 with scales and flips (the paper's 82.6 on test is
    PSPNet-101). 0.5 EFLOP, 1.3 hours.
    """
    return _zhao("pspnet-voc", crop_px=473, max_steps=30_000, model=model_config())


def pspnet_ade20k() -> RunConfig:
    """PSPNet-50 (Zhao et al. 2017) on ADE20K: bins 1, 2, 3, 6, average, reduced; auxiliary loss 0.4.

    Expected on val: 41.68 mIoU in the paper's table 1; the authors' code 41.89, 42.84 with scales and flips. 2.4 EFLOP,
    7 hours. Its ablations are `pspnet_ade20k_ablation_*`; depths 101, 152, 269 (43.81, with the deep stem) are
    `--model.backbone`.
    """
    return _zhao("pspnet-ade20k", crop_px=473, max_steps=150_000, model=model_config())


def pspnet_synthia_highway() -> RunConfig:
    """The PSPNet baseline of Song et al. 2021: SYNTHIA-SEQS' highway, trained on dawn, evaluated on all conditions.

    Pack the sequences of this site alone. Expected, mean over nine conditions: 64.6 mIoU. 0.01 EFLOP. The paper gives
    bins 1, 2, 3, 4, momentum 0.99, rate 0.001 and 1000 iterations, but neither batch nor crop: 8 of 480 here.
    """
    return RunConfig(
        name="pspnet-synthia-highway",
        model=model_config(bins=(1, 2, 3, 4), pretrained="imagenet"),
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
        model=model_config("adain", pretrained="imagenet"),
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
    return with_overrides(pspnet_synthia_highway(), {"name": "improved-pspnet-synthia-highway", "model.se_ratio": 16})


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
        model=model_config("fcn_attention", se_ratio=16),
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
        model=model_config("fcn", backbone="vgg16", pretrained="imagenet", dropout=0.5),
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
    return _mukherjee("enet-voc", model_config("enet"), batch_size=8, crop_px=380, max_steps=105_820)


def r2unet_cityscapes() -> RunConfig:
    """R2U-Net on Cityscapes as in Mukherjee & Bhattacharjee.

    Published: 33.10 to 33.65 mIoU on centre crops, so whole images do not compare. 56 base channels give the published
    30.0M parameters. 0.9 EFLOP, 2.4 hours.
    """
    model = model_config("r2unet", width=56 / 64)
    return _mukherjee("r2unet-cityscapes", model, batch_size=3, crop_px=512, max_steps=79_334)
