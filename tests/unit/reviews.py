"""An evaluation of three conditions and three classes, made of small matrices, for the tests of what reviews it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distseg.data.sample import LabelSpace
from distseg.evaluation import ConfusionMatrix, ImageCounts, as_table
from distseg.evaluation.metrics import class_counts

LABELS = LabelSpace(name="three", classes=("road", "sign", "car"), palette=((128, 64, 128), (220, 220, 0), (0, 0, 142)))
HITS = {"dawn": 90, "fog": 80, "night": 40}


@dataclass(frozen=True)
class Example:
    table: dict[str, Any]
    images: ImageCounts
    matrix_KK: Tensor


def example(
    hits: Mapping[str, int] | None = None,
    *,
    num_images: int = 20,
    spread: int = 5,
    absent: tuple[tuple[str, int], ...] = (),
) -> Example:
    """In each image each class has 100 pixels, of which `hits`, give or take up to `spread`, are right; the others are
    taken for the next class. `absent`: a class that a condition has neither in truth nor in predictions."""
    generator = torch.Generator().manual_seed(0)
    keys, conditions, matrices = [], [], []
    for condition, mean in (hits or HITS).items():
        for number in range(num_images):
            right = mean + int(torch.randint(-spread, spread + 1, (), generator=generator))
            matrix_KK = right * torch.eye(3, dtype=torch.int64)
            matrix_KK += (100 - right) * torch.eye(3, dtype=torch.int64).roll(1, 1)
            for absent_condition, k in absent:
                if absent_condition == condition:
                    matrix_KK[k] = 0
                    matrix_KK[:, k] = 0
            keys.append(f"val/{condition}/{number:03d}")
            conditions.append(condition)
            matrices.append(matrix_KK)
    counted = ConfusionMatrix.empty([(name, "town") for name in (hits or HITS)], 3)
    for condition, matrix_KK in zip(conditions, matrices, strict=True):
        g = counted.groups.index((condition, "town"))
        counted.matrices_GKK[g] += matrix_KK
        counted.num_images_G[g] += 1
    return Example(
        table=as_table(counted, LABELS),
        images=ImageCounts.of(keys, conditions, class_counts(torch.stack(matrices))),
        matrix_KK=counted.matrices_GKK.sum(0),
    )
