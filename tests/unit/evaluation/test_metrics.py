"""Scores of confusion matrices worked by hand, and equal to torchmetrics'."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_jaccard_index,
    multiclass_recall,
)

from distseg.evaluation.metrics import Scores, confusion_matrix, scores, summarise
from distseg.label_maps import IGNORE_INDEX


def matrix(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)


# Truth 10, 10, 0; predicted 11, 6, 3; hits 8, 6, 0. Class 2 is predicted without truth.
HAND = matrix([[8, 0, 2], [3, 6, 1], [0, 0, 0]])


def test_confusion_matrix_by_hand() -> None:
    label = torch.tensor([[[0, 0, 1], [1, 2, IGNORE_INDEX]]], dtype=torch.uint8)
    prediction = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    counted = confusion_matrix(prediction, label, 3)
    assert counted.dtype == torch.int64
    assert counted.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_scores_by_hand() -> None:
    s = scores(HAND)
    assert list(s.iou) == pytest.approx([8 / 13, 6 / 10, 0.0])
    assert s.mIoU == pytest.approx((8 / 13 + 6 / 10 + 0) / 3)
    assert pytest.approx(14 / 20) == s.PA
    assert s.MPA == s.sensitivity == pytest.approx((8 / 10 + 6 / 10) / 2)  # class 2 has no truth: no recall
    assert s.dice == s.f1 == pytest.approx((16 / 21 + 12 / 16 + 0) / 3)
    assert s.fwIoU == pytest.approx((10 * 8 / 13 + 10 * 6 / 10) / 20)
    assert s.support == (10, 10, 0)


def test_a_class_in_neither_is_left_out() -> None:
    padded = torch.zeros(5, 5, dtype=torch.int64)
    padded[:3, :3] = HAND
    wide, narrow = scores(padded), scores(HAND)
    assert wide.iou == (*narrow.iou, None, None)
    for name in ("mIoU", "PA", "MPA", "dice", "fwIoU"):
        assert getattr(wide, name) == getattr(narrow, name)


def test_truth_never_found_counts_as_zero() -> None:
    s = scores(matrix([[4, 0], [4, 0]]))
    assert s.iou == (0.5, 0.0)
    assert (s.mIoU, s.MPA) == (0.25, 0.5)


def test_nothing_counted_is_undefined() -> None:
    s = scores(torch.zeros(3, 3, dtype=torch.int64))
    assert all(getattr(s, f.name) is None for f in fields(Scores) if f.name not in ("iou", "support"))
    assert (s.iou, s.support) == ((None, None, None), (0, 0, 0))


def test_counts_beyond_float_precision_stay_exact() -> None:
    big = 2**53 + 1
    assert scores(matrix([[big, 0], [0, 1]])).support == (big, 1)


labelled = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.just(k),
        st.lists(
            st.tuples(st.integers(0, k - 1), st.integers(0, k - 1) | st.just(IGNORE_INDEX)), min_size=1, max_size=80
        ).filter(lambda pixels: any(truth != IGNORE_INDEX for _, truth in pixels)),
    )
)


@settings(max_examples=60, deadline=None)
@given(labelled)
def test_equals_torchmetrics(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_classes, pixels = case
    prediction = torch.tensor([p for p, _ in pixels]).view(1, 1, -1)
    label = torch.tensor([t for _, t in pixels]).view(1, 1, -1)
    counted = confusion_matrix(prediction, label.to(torch.uint8), num_classes)
    options = {"num_classes": num_classes, "ignore_index": IGNORE_INDEX}
    assert torch.equal(counted, multiclass_confusion_matrix(prediction, label, **options))  # type: ignore[arg-type]
    ours = scores(counted)
    per_class = multiclass_jaccard_index(prediction, label, average="none", **options)  # type: ignore[arg-type]
    assert [iou or 0.0 for iou in ours.iou] == pytest.approx(per_class.tolist(), abs=1e-6)
    seen = [k for k in range(num_classes) if counted[k].sum() + counted[:, k].sum()]
    assert ours.mIoU == pytest.approx(per_class[seen].mean().item(), abs=1e-6)
    accuracy = multiclass_accuracy(prediction, label, average="micro", **options)  # type: ignore[arg-type]
    assert pytest.approx(accuracy.item(), abs=1e-6) == ours.PA
    recall = multiclass_recall(prediction, label, average="none", **options)  # type: ignore[arg-type]
    with_truth = [k for k in range(num_classes) if counted[k].sum()]
    assert pytest.approx(recall[with_truth].mean().item(), abs=1e-6) == ours.MPA
    f1 = multiclass_f1_score(prediction, label, average="none", **options)  # type: ignore[arg-type]
    assert ours.dice == pytest.approx(f1[seen].mean().item(), abs=1e-6)


def test_matrices_of_parts_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(4, (5, 6, 7), generator=generator)
    label = torch.randint(4, (5, 6, 7), generator=generator)
    label[:, 0] = IGNORE_INDEX
    parts = [confusion_matrix(prediction[i], label[i], 4) for i in range(5)]
    assert torch.equal(torch.stack(parts).sum(0), confusion_matrix(prediction, label, 4))


def test_ids_outside_the_classes_are_refused() -> None:
    label = torch.zeros(1, 1, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"prediction ids \[255\] are outside the 3 classes"):
        confusion_matrix(torch.tensor([[[0, 255]]]), label, 3)  # void cannot be predicted
    with pytest.raises(ValueError, match=r"prediction ids \[-1\]"):
        confusion_matrix(torch.tensor([[[0, -1]]]), label, 3)
    with pytest.raises(ValueError, match=r"label ids \[7\]"):
        confusion_matrix(torch.zeros(1, 1, 2), label + torch.tensor([0, 7], dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_matrix(torch.zeros(1, 2, 1), label, 3)


def test_an_all_void_image_counts_nothing() -> None:
    void = torch.full((1, 2, 2), IGNORE_INDEX, dtype=torch.uint8)
    assert confusion_matrix(torch.ones(1, 2, 2), void, 3).sum() == 0


# --------------------------------------------------------------------------------------------------------- conditions


def test_summary_by_hand() -> None:
    # Class 2 has truth only in fog, where it is missed: it lowers fog's own mIoU but takes no part in the comparison.
    fog = matrix([[6, 2, 0], [0, 8, 0], [4, 0, 0]])  # IoU 6/12, 8/10, 0
    night = matrix([[5, 5, 0], [5, 5, 0], [0, 0, 0]])  # IoU 1/3, 1/3, none
    summary = summarise({"fog": fog, "night": night})
    assert summary.conditions["fog"].mIoU == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert summary.conditions["night"].mIoU == pytest.approx(1 / 3)
    assert summary.mIoU_mean_conditions == pytest.approx((1.3 / 3 + 1 / 3) / 2)
    assert summary.compared_classes == (0, 1)
    assert summary.worst_condition == "night"
    assert summary.mIoU_worst == pytest.approx(1 / 3)
    assert summary.mIoU_gap == pytest.approx(0.65 - 1 / 3)
    assert list(summary.pooled.iou) == pytest.approx([11 / 27, 13 / 25, 0.0])


def test_absent_classes_do_not_decide_which_condition_is_the_worst() -> None:
    # By their own mIoU, summer (0.45) is worse than winter (0.8), for a class that winter does not show.
    summer = matrix([[9, 1], [5, 0]])
    winter = matrix([[8, 0], [0, 0]])
    winter[0, 1] = 2
    summary = summarise({"summer": summer, "winter": winter})
    assert summary.conditions["winter"].mIoU == pytest.approx(0.4)  # class 1 predicted without truth: IoU 0
    assert summary.conditions["summer"].mIoU == pytest.approx(0.3)
    assert summary.worst_condition == "summer"
    assert summary.mIoU_worst == pytest.approx(0.6)
    assert summary.mIoU_gap == pytest.approx(0.2)


def test_one_condition_has_no_gap() -> None:
    summary = summarise({"all": HAND})
    assert summary.mIoU_gap == 0
    assert summary.worst_condition == "all"
    assert summary.mIoU_mean_conditions == summary.pooled.mIoU
    assert summary.mIoU_worst == pytest.approx((8 / 13 + 6 / 10) / 2)


def test_conditions_without_a_common_class_cannot_be_compared() -> None:
    summary = summarise({"a": matrix([[3, 0], [0, 0]]), "b": matrix([[0, 0], [0, 3]])})
    assert (summary.mIoU_worst, summary.mIoU_gap, summary.worst_condition) == (None, None, None)
    assert summary.mIoU_mean_conditions == 1
    with pytest.raises(ValueError, match="no condition"):
        summarise({})
