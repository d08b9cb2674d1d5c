"""Runs on the procedural `town`, which ships with distseg: minutes on two cores."""

from dataclasses import replace

from distseg.config import (
    AdaptConfig,
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
    StyleConfig,
    model_config,
)

TOWN_URI = "runs/data/town"
NOT_DAWN = ("fall", "fog", "night", "spring", "summer", "sunset", "winter", "winter-night")


def town() -> RunConfig:
    """PSPNet-18 at a quarter of its width on the procedural `town`: the embedded default, which packs its own data.

    Sized for a few minutes on two cores of any kind. A quarter of the channels is a sixteenth of the work, so that
    there is time for more steps, at a higher learning rate; together they score what `pspnet_town` does in 240 steps.
    One worker with two threads: two workers would wait for each other as long as they compute, in so small a network.
    """
    full = pspnet_town()
    model = model_config(backbone="resnet18", dropout=0.0, width=0.25)
    optim = replace(full.optim, lr=8e-3, max_steps=480)
    return replace(full, name="town", model=model, optim=optim, scaling=ScalingConfig(num_workers=1, cpus_per_worker=2))


def pspnet_town() -> RunConfig:
    """PSPNet-18 at its full width on `town`: the network of the tables of the studies. Nine times the work.

    Less than three epochs, so frames are only mirrored, not scaled, and nothing is dropped out. AdamW, class weights
    and a Dice term instead of the paper's SGD, which starts too slowly.
    """
    return RunConfig(
        name="pspnet-town",
        model=model_config(backbone="resnet18", dropout=0.0),
        loss=LossConfig(class_weights="inverse_sqrt", dice_weight=1.0),
        optim=OptimConfig(name="adamw", lr=2e-3, weight_decay=1e-2, head_lr_scale=1.0, warmup_steps=20, max_steps=240),
        data=DataConfig(uri=TOWN_URI, batch_size=8, crop_px=(128, 192)),
        augment=AugmentConfig(scale=(1.0, 1.0), rotate_deg=0.0, blur=0.0),
        scaling=ScalingConfig(num_workers=2),
    )


def adain_town() -> RunConfig:
    """The AdaIN style network of Song et al. 2021 on `town`: dawn's frames in the styles of the other conditions.

    Give `--model.pretrained`: a run of `pspnet_town` trained on dawn, whose ResNet-18 is the encoder (the paper:
    ImageNet's ResNet-50). Styles are exchanged at 1/4 of the resolution, so that labels stay true to the small frames.
    Minutes.
    """
    return RunConfig(
        name="adain-town",
        model=model_config("adain", backbone="resnet18", style_depth=1),
        loss=LossConfig(aux_weight=0.0),
        style=StyleConfig(conditions=NOT_DAWN),
        optim=OptimConfig(name="adamw", lr=1e-3, weight_decay=0.0, head_lr_scale=1.0, warmup_steps=20, max_steps=400),
        data=DataConfig(uri=TOWN_URI, batch_size=8, crop_px=(128, 192), train_conditions=("dawn",)),
        augment=AugmentConfig(scale=(1.0, 1.0), rotate_deg=0.0, blur=0.0),
        scaling=ScalingConfig(num_workers=2),
    )


def adapt_town() -> RunConfig:
    """`pspnet_town` with labels of dawn alone, adapted to the other conditions by their unlabelled images.

    Photometric randomisation and Fourier adaptation; evaluate it with `--adapt batchnorm --adapt_conditions` and those.
    Three of four frames take over the light of another condition, so batches are of 16 frames instead of 8, and a step
    costs twice as much: with 8 it is dawn that loses. Self-training is off: `--adapt.weight 0.5 --optim.ema_decay
    0.97`.
    """
    config = pspnet_town()
    augment = replace(config.augment, jitter=0.3, gamma=1.0, temperature=0.2, noise=0.05, fog=0.6, rain=0.2)
    relit = AdaptConfig(conditions=NOT_DAWN, fourier=0.02, fourier_probability=0.75)
    adapt = replace(relit, start_step=100, threshold=0.9, jitter=0.2)
    data = replace(config.data, train_conditions=("dawn",), batch_size=16)
    return replace(config, name="adapt-town", data=data, augment=augment, adapt=adapt)


def fcn_attention_town() -> RunConfig:
    """The FCN with attention (Shen & Sun 2022) at a quarter of VGG16's widths on `town`, for its ablations. Minutes."""
    config = pspnet_town()
    model = model_config("fcn_attention", width=0.25, se_ratio=16, dropout=0.0)
    return replace(config, name="fcn-attention-town", model=model, loss=replace(config.loss, aux_weight=0.0))
