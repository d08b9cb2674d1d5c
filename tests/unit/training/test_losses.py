"""Cross entropy over the valid pixels of the global batch, by hand and against PyTorch's own."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distseg.config import LossConfig
from distseg.label_maps import IGNORE_INDEX
from distseg.models import Logits
from distseg.training.losses import (
    SegmentationLoss,
    class_weights,
    cross_entropy_sum,
    valid_weight,
)
from distseg.training.losses.batch import looked_up

LN2 = math.log(2)


def random_case(seed: int, height: int = 13, width: int = 17) -> tuple[Tensor, Tensor]:
    """logits (3, 5, 4, 6) in fp64 and uint8 labels (3, height, width), a fifth of them void."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, 4, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (3, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE_INDEX
    return logits, labels.to(torch.uint8)


def resized(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(logits, tuple(labels.shape[1:]), mode="bilinear", align_corners=False)


def test_by_hand() -> None:
    # Pixel 0: two equal logits, -log(1/2). Pixel 1: logits 0 and ln 3, class 1, -log(3/4). Pixel 2 is void.
    logits = torch.tensor([[[[0.0, 0.0, 9.0]], [[0.0, math.log(3), -9.0]]]])
    labels = torch.tensor([[[0, 1, IGNORE_INDEX]]], dtype=torch.uint8)
    loss_sum, weight_sum = cross_entropy_sum(logits, labels)
    assert loss_sum.item() == pytest.approx(LN2 + math.log(4 / 3))
    assert weight_sum.item() == 2
    loss_sum, weight_sum = cross_entropy_sum(logits, labels, torch.tensor([0.5, 3.0]))
    assert loss_sum.item() == pytest.approx(0.5 * LN2 + 3 * math.log(4 / 3))
    assert weight_sum.item() == 3.5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(1, 40), width=st.integers(1, 40), weighted=st.booleans())
def test_equals_pytorchs_mean(seed: int, height: int, width: int, weighted: bool) -> None:
    logits, labels = random_case(seed, height, width)
    labels[0, 0, 0] = 1
    weights = torch.tensor([0.5, 1.0, 2.0, 0.1, 4.0], dtype=torch.float64) if weighted else None
    loss_sum, weight_sum = cross_entropy_sum(logits, labels, weights)
    expected = F.cross_entropy(resized(logits, labels), labels.long(), weight=weights, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(loss_sum / weight_sum, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(valid_weight(labels, weights), weight_sum)
    if weights is not None:  # as on GPUs
        torch.testing.assert_close(looked_up(labels, weights, IGNORE_INDEX).sum(), weight_sum)


@pytest.mark.parametrize("sizes", [((4, 6), (13, 17)), ((16, 24), (128, 192)), ((5, 5), (5, 5)), ((9, 13), (3, 4))])
def test_gradient_equals_interpolation_and_cross_entropy(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    (h, w), (height, width) = sizes
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (2, height, width), generator=generator, dtype=torch.uint8)
    ours = torch.randn(2, 5, h, w, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    cross_entropy_sum(ours, labels)[0].backward()
    F.cross_entropy(resized(theirs, labels), labels.long(), reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_computed_in_fp32_or_fp64(given_dtype: torch.dtype, dtype: torch.dtype) -> None:
    logits, labels = random_case(0)
    logits = logits.to(given_dtype)
    loss_sum, weight_sum = cross_entropy_sum(logits, labels)
    assert loss_sum.dtype == weight_sum.dtype == dtype
    expected, _ = cross_entropy_sum(logits.double(), labels)
    assert loss_sum.item() == pytest.approx(expected.item(), rel=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cross_entropy_sum(logits, labels)[0], loss_sum)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    assert torch.equal(cross_entropy_sum(channels_last, labels)[0], loss_sum)


def test_labels_of_any_integer_type_are_left_alone() -> None:
    logits, labels = random_case(0)
    before = labels.clone()
    loss_sum, _ = cross_entropy_sum(logits, labels)
    assert torch.equal(labels, before)
    assert torch.equal(cross_entropy_sum(logits, labels.long())[0], loss_sum)


def test_all_void_is_zero_with_zero_gradients() -> None:
    main, labels = random_case(0)
    aux = main.clone().requires_grad_()
    main.requires_grad_()
    void = torch.full_like(labels, IGNORE_INDEX)
    parts = SegmentationLoss(LossConfig())(Logits(main, aux), void, normaliser=valid_weight(void))
    parts.total.backward()
    assert [part.item() for part in (parts.total, parts.main, parts.aux)] == [0, 0, 0]
    for logits in (main, aux):
        assert logits.grad is not None and torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_label_outside_the_classes_is_an_error() -> None:
    logits, labels = random_case(0)
    labels[0, 0, 0] = 5
    with pytest.raises(IndexError, match="Target 5 is out of bounds"):
        cross_entropy_sum(logits, labels)


def test_auxiliary_loss_is_weighted() -> None:
    main, labels = random_case(0)
    aux, _ = random_case(1)
    count = valid_weight(labels)
    loss = SegmentationLoss(LossConfig())
    parts = loss(Logits(main, aux), labels, normaliser=count)
    assert parts.main.item() == pytest.approx((cross_entropy_sum(main, labels)[0] / count).item())
    assert parts.aux.item() == pytest.approx((cross_entropy_sum(aux, labels)[0] / count).item())
    assert parts.total.item() == pytest.approx(parts.main.item() + 0.4 * parts.aux.item())
    alone = loss(Logits(main, None), labels, normaliser=float(count))
    assert alone.total.item() == alone.main.item() == pytest.approx(parts.main.item())
    assert alone.aux.item() == 0


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 0.1, 4.0])])
def test_shares_of_a_batch_add_up_to_the_whole(weights: Tensor | None) -> None:
    logits, labels = random_case(2)
    labels[1] = IGNORE_INDEX  # a rank without any valid pixel
    labels[2, :9] = IGNORE_INDEX  # and one with few: the mean of the ranks' means would differ
    normaliser = valid_weight(labels, weights)
    loss = SegmentationLoss(LossConfig(), weights)
    whole = loss(Logits(logits, None), labels, normaliser=normaliser)
    shares = [loss(Logits(logits[i : i + 1], None), labels[i : i + 1], normaliser=normaliser).total for i in range(3)]
    torch.testing.assert_close(torch.stack(shares).sum(), whole.total, rtol=1e-12, atol=0)
    expected = F.cross_entropy(
        resized(logits, labels),
        labels.long(),
        weight=None if weights is None else weights.double(),
        ignore_index=IGNORE_INDEX,
    )
    torch.testing.assert_close(whole.total, expected, rtol=1e-12, atol=0)


# ----------------------------------------------------------------------------------------------------- class weights


def test_class_weights_by_hand() -> None:
    counts = [64, 16, 0, 20]  # shares 0.64, 0.16, 0, 0.2
    inverse = [1 / 0.8, 1 / 0.4, 0.0, 1 / math.sqrt(0.2)]
    scale = 0.64 * inverse[0] + 0.16 * inverse[1] + 0.2 * inverse[3]  # the average pixel weighs 1
    assert class_weights(counts, "inverse_sqrt").tolist() == pytest.approx([w / scale for w in inverse])
    # 1/p averages to the number of classes present, so the weights are 1 / (3p): ratios of medians as published.
    median = [1 / (3 * 0.64), 1 / (3 * 0.16), 0.0, 1 / (3 * 0.2)]
    assert class_weights(counts, "median_frequency").tolist() == pytest.approx(median)
    enet = [1 / math.log(1.02 + p) for p in (0.64, 0.16, 0.0, 0.2)]
    assert class_weights(counts, "enet").tolist() == pytest.approx(enet)


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=30).filter(any))
def test_class_weights_are_finite_and_favour_the_rare(counts: list[int]) -> None:
    for kind in ("inverse_sqrt", "median_frequency", "enet"):
        weights = class_weights(counts, kind)
        assert weights.isfinite().all() and (weights >= 0).all()
        present = sorted((count, weight) for count, weight in zip(counts, weights.tolist(), strict=True) if count)
        ordered = [weight for _, weight in present]
        assert all(a >= b * (1 - 1e-6) for a, b in pairwise(ordered))


@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1]])
def test_class_weights_need_pixels(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="pixel counts"):
        class_weights(counts, "enet")
