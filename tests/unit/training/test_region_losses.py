"""OHEM, Dice, Lovász-softmax and KL: by hand, against their definitions, over valid pixels only."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distseg.config import LossConfig
from distseg.label_maps import IGNORE_INDEX
from distseg.models import Logits
from distseg.training.losses import SegmentationLoss, hard_pixels, kl_consistency, valid_weight
from distseg.training.losses.terms.dice import dice_loss
from distseg.training.losses.terms.lovasz import lovasz_softmax
from tests.unit.training.test_losses import random_case, resized

VOID = IGNORE_INDEX


def of_probabilities(probability_KN: list[list[float]]) -> Tensor:
    """Logits (1, K, 1, N) whose softmax is given."""
    return torch.tensor(probability_KN, dtype=torch.float64).log()[None, :, None, :]


def labels_of(*ids: int) -> Tensor:
    return torch.tensor(ids, dtype=torch.uint8)[None, None]


def test_hard_pixels_by_hand() -> None:
    logits = of_probabilities([[0.9, 0.6, 0.2, 0.5], [0.1, 0.4, 0.8, 0.5]])
    labels = labels_of(0, 0, 0, VOID)
    kept = [hard_pixels(logits, labels, threshold, share).flatten().tolist() for threshold, share in CASES]
    assert kept == [[VOID, 0, 0, VOID], [VOID, VOID, 0, VOID], [VOID, 0, 0, VOID], [0, 0, 0, VOID]]


CASES = [(0.7, 0.0), (0.3, 1 / 3), (0.3, 0.5), (0.3, 1.0)]  # (threshold, least share of the 3 valid pixels)


def test_hard_pixels_of_an_image_without_labels_are_none() -> None:
    logits = of_probabilities([[0.5, 0.5], [0.5, 0.5]])
    assert (hard_pixels(logits, labels_of(VOID, VOID), 0.7, 0.5) == VOID).all()


def test_dice_by_hand() -> None:
    # Class 0: 2 · 0.8 / (0.8 + 0.3 + 1), class 1: 2 · 0.7 / (0.2 + 0.7 + 1), class 2 has no truth; pixel 2 is void.
    logits = of_probabilities([[0.8, 0.3, 0.1], [0.2, 0.7, 0.1], [1e-12, 1e-12, 0.8]])
    expected = 1 - (1.6 / 2.1 + 1.4 / 1.9) / 2
    assert dice_loss(logits, labels_of(0, 1, VOID)).item() == pytest.approx(expected, abs=1e-9)


def test_lovasz_is_the_jaccard_loss_where_predictions_are_certain() -> None:
    # Truth 0 0 1 1, predicted 0 1 1 1: Jaccard 1/2 of class 0, 2/3 of class 1.
    logits = of_probabilities([[1, 1e-12, 1e-12, 1e-12], [1e-12, 1, 1, 1]])
    expected = (1 / 2 + 1 / 3) / 2
    assert lovasz_softmax(logits, labels_of(0, 0, 1, 1)).item() == pytest.approx(expected, abs=1e-9)


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    logits, labels = random_case(0)
    logits = resized(logits, labels)
    log_p = logits.log_softmax(1)
    assert lovasz_softmax(log_p, labels).item() == pytest.approx(lovasz_by_definition(logits, labels), rel=1e-9)


def lovasz_by_definition(logits: Tensor, labels: Tensor) -> float:
    """Σ of sorted errors times the growth of the set function M -> |M| / |truth ∪ M| (Berman et al. 2018, eq. 4, 8)."""
    images = []
    for probability, label in zip(logits.softmax(1), labels, strict=True):
        classes = []
        for k in set(label[label != VOID].tolist()):
            valid = [i for i, y in enumerate(label.flatten().tolist()) if y != VOID]
            truth = {i for i in valid if label.flatten()[i] == k}
            error = {i: abs((i in truth) - probability[k].flatten()[i].item()) for i in valid}
            wrong: set[int] = set()
            before = loss = 0.0
            for i in sorted(valid, key=lambda i: -error[i]):
                wrong.add(i)
                now = len(wrong) / len(truth | wrong)
                loss += error[i] * (now - before)
                before = now
            classes.append(loss)
        images.append(sum(classes) / len(classes))
    return sum(images) / len(images)


REGION_LOSSES: dict[str, LossConfig] = {
    "dice": LossConfig(dice_weight=1.0),
    "lovasz": LossConfig(lovasz_weight=1.0),
    "ohem": LossConfig(ohem_threshold=0.7),
}


@pytest.mark.parametrize("config", REGION_LOSSES.values(), ids=REGION_LOSSES.keys())
def test_void_pixels_change_nothing_and_learn_nothing(config: LossConfig) -> None:
    logits, labels = random_case(1)
    logits = resized(logits, labels).requires_grad_()
    loss = SegmentationLoss(config)(Logits(logits, None), labels, normaliser=valid_weight(labels)).total
    loss.backward()
    void_B1HW = (labels == VOID)[:, None].expand_as(logits)
    assert logits.grad is not None and logits.grad[void_B1HW].abs().max() == 0
    assert logits.grad.abs().sum() > 0
    other = torch.where(void_B1HW, torch.randn_like(logits), logits)
    again = SegmentationLoss(config)(Logits(other, None), labels, normaliser=valid_weight(labels)).total
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("config", REGION_LOSSES.values(), ids=REGION_LOSSES.keys())
def test_all_void_is_zero(config: LossConfig) -> None:
    logits, labels = random_case(2)
    logits.requires_grad_()
    void = torch.full_like(labels, VOID)
    loss = SegmentationLoss(config)(Logits(logits, None), void, normaliser=0.0).total
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and logits.grad.abs().max() == 0


@pytest.mark.parametrize("loss", [dice_loss, lovasz_softmax])
def test_a_perfect_prediction_costs_nothing(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    _, labels = random_case(3)
    truth = F.one_hot(torch.where(labels == VOID, 0, labels).long(), 5).permute(0, 3, 1, 2)
    assert loss((truth * 60.0).log_softmax(1), labels).item() == pytest.approx(0, abs=1e-9)


def test_kl_by_hand() -> None:
    p, q = [0.5, 0.5], [0.25, 0.75]
    first, second = of_probabilities([[p[0]], [p[1]]]), of_probabilities([[q[0]], [q[1]]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_consistency(first, second, num_pixels=1).item() == pytest.approx(expected)
    assert kl_consistency(first, first, num_pixels=1).item() == 0
