"""The names under which metrics are logged, each written once. Part of the MLflow contract: changing one breaks users.

The part before the last slash is the section of MLflow's charts. Values are fractions, not percent.
"""

from typing import Final, Literal

TRAIN_LOSS: Final = "train/loss"
TRAIN_AUX_LOSS: Final = "train/aux_loss"
TRAIN_KL_LOSS: Final = "train/kl_loss"
TRAIN_MIXED_LOSS: Final = "train/mixed_loss"
TRAIN_MASKED_LOSS: Final = "train/masked_loss"
TRAIN_PSEUDO_QUALITY: Final = "train/pseudo_quality"
TRAIN_CONTENT_LOSS: Final = "train/content_loss"
TRAIN_STYLE_LOSS: Final = "train/style_loss"
LEARNING_RATE: Final = "train/lr"
IMAGES_PER_S: Final = "train/images_per_s"
DATA_WAIT_FRACTION: Final = "train/data_wait_fraction"
RESUMED_AT: Final = "train/resumed_at"

MIOU: Final = "val/mIoU"
MIOU_MEAN_CONDITIONS: Final = "val/mIoU_mean_conditions"
MIOU_WORST: Final = "val/mIoU_worst"
MIOU_GAP: Final = "val/mIoU_gap"

EVALUATION: Final = "val/"
"""Begins the name of every metric of an evaluation that labels are needed for."""
TARGET: Final = "target/"
"""Begins the name of every figure of an evaluation on images without labels; more is better."""
TARGET_AGREEMENT: Final = "target/agreement"

Champion = Literal["val/mIoU", "val/mIoU_mean_conditions", "val/mIoU_worst"]
"""What makes the champion among the registered models."""

BEST_BY: Final = (
    MIOU,
    MIOU_MEAN_CONDITIONS,
    MIOU_WORST,
    "target/certainty",
    "target/information",
    TARGET_AGREEMENT,
    "target/class_ratios",
)
"""What the best checkpoint of a run can be chosen by, beside the mIoU of one condition; more is better."""


def is_of_evaluation(name: str) -> bool:
    return name.startswith((EVALUATION, TARGET))


def target(name: str) -> str:
    """'certainty' -> 'target/certainty'."""
    return f"{TARGET}{name}"


def loss_term(name: str) -> str:
    """'dice' -> 'train/dice_loss', of a term of loss.terms."""
    return f"train/{name}_loss"


def evaluation(name: str) -> str:
    """'PA' -> 'val/PA'."""
    return f"{EVALUATION}{name}"


def condition_miou(condition: str) -> str:
    """'night' -> 'val/mIoU/night'."""
    return f"{MIOU}/{condition}"


def condition_of(name: str) -> str | None:
    """'val/mIoU/night' -> 'night'; None for every other name."""
    prefix = condition_miou("")
    return name.removeprefix(prefix) if name.startswith(prefix) else None


def of_condition(name: str, condition: str) -> str:
    """'kappa', 'night' -> 'val/kappa/night'."""
    return f"{EVALUATION}{name}/{condition}"


def class_iou(class_name: str) -> str:
    """'road' -> 'val/IoU/road'."""
    return f"val/IoU/{class_name}"
