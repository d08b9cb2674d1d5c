"""Runs on CamVid in SegNet's layout (367 + 101 + 233 images of 480x360, 11 classes): hours on a CPU."""

from dataclasses import replace

from distseg.config import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EvaluateConfig,
    LossConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
    model_config,
)


def pspnet_camvid() -> RunConfig:
    """PSPNet-18 (Zhao et al. 2017) on CamVid in SegNet's 480x360 layout, from random weights.

    Give `--data.uri`. The paper has no CamVid table; public 11-class results from scratch at this size are 46–52
    mIoU on the test split (SegNet 46.3, ENet 52.1). Deviations: AdamW with class weights and a narrower augmentation,
    since there are 367 images and no ImageNet weights; with `--model.pretrained imagenet` prefer the paper's SGD.
    """
    return RunConfig(
        name="pspnet-camvid",
        model=model_config(backbone="resnet18"),
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
        model=model_config("enet"),
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
