"""The ablations of `pspnet_ade20k`: Zhao et al. 2017, tables 1 (bins, pooling, reduction), 2 and 4 (auxiliary loss)."""

from dataclasses import replace
from typing import Any

from distseg.config import RunConfig, model_config
from distseg.config.recipes.papers import pspnet_ade20k


def _ablation(name: str, *, aux_weight: float = 0.4, augment: bool = True, **options: Any) -> RunConfig:
    config = pspnet_ade20k()
    return replace(
        config,
        name=name,
        model=model_config(pretrained="imagenet", **options),
        loss=replace(config.loss, aux_weight=aux_weight),
        data=replace(config.data, augment=augment),
    )


# ---- table 1, with the auxiliary loss


def pspnet_ade20k_ablation_baseline() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 37.23 / 78.01 (dilated FCN)."""
    return _ablation("baseline", bins=())


def pspnet_ade20k_ablation_b1_max() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 39.94 / 79.46."""
    return _ablation("b1-max", bins=(1,), pool="max", reduce=False)


def pspnet_ade20k_ablation_b1_avg() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 40.07 / 79.52."""
    return _ablation("b1-avg", bins=(1,), reduce=False)


def pspnet_ade20k_ablation_b1236_max() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 40.18 / 79.45."""
    return _ablation("b1236-max", pool="max", reduce=False)


def pspnet_ade20k_ablation_b1236_avg() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 41.07 / 79.97."""
    return _ablation("b1236-avg", reduce=False)


def pspnet_ade20k_ablation_b1236_max_dr() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 40.87 / 79.61."""
    return _ablation("b1236-max-dr", pool="max")


# ---- table 2, and the steps of table 4, on the baseline


def pspnet_ade20k_ablation_plain() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 34.28 (no augmentation, no aux loss)."""
    return _ablation("plain", aux_weight=0.0, augment=False, bins=())


def pspnet_ade20k_ablation_aux_00() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 35.82 / 77.07."""
    return _ablation("aux-00", aux_weight=0.0, bins=())


def pspnet_ade20k_ablation_aux_03() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 37.01 / 77.87."""
    return _ablation("aux-03", aux_weight=0.3, bins=())


def pspnet_ade20k_ablation_aux_06() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 37.09 / 77.84."""
    return _ablation("aux-06", aux_weight=0.6, bins=())


def pspnet_ade20k_ablation_aux_09() -> RunConfig:
    """An ablation of `pspnet_ade20k`; expected on val, mIoU / pixel accuracy: 36.99 / 77.87."""
    return _ablation("aux-09", aux_weight=0.9, bins=())
