"""Scores of confusion matrices worked by hand, and equal to torchmetrics'."""

from collections.abc import Callable, Sequence
from typing import Any

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

from distseg import metric_names
from distseg.data import LabelSpace
from distseg.evaluation import (
    ConfusionMatrix,
    Metric,
    as_metrics,
    as_table,
    metrics,
    rank_conditions,
)
from distseg.evaluation.metrics import confusion_matrix, count_pairs, scores
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
    assert list(s.iou_K) == pytest.approx([8 / 13, 6 / 10, 0.0])
    assert s["mIoU"] == pytest.approx((8 / 13 + 6 / 10 + 0) / 3)
    assert pytest.approx(14 / 20) == s["PA"]
    assert s["MPA"] == s["sensitivity"] == pytest.approx((8 / 10 + 6 / 10) / 2)  # class 2 has no truth: no recall
    assert s["dice"] == s["f1"] == pytest.approx((16 / 21 + 12 / 16 + 0) / 3)
    assert s["fwIoU"] == pytest.approx((10 * 8 / 13 + 10 * 6 / 10) / 20)
    assert s.support_K == (10, 10, 0)


def test_a_class_in_neither_is_left_out() -> None:
    padded = torch.zeros(5, 5, dtype=torch.int64)
    padded[:3, :3] = HAND
    wide, narrow = scores(padded), scores(HAND)
    assert wide.iou_K == (*narrow.iou_K, None, None)
    for name in ("mIoU", "PA", "MPA", "dice", "fwIoU"):
        assert wide[name] == narrow[name]


def test_truth_never_found_counts_as_zero() -> None:
    s = scores(matrix([[4, 0], [4, 0]]))
    assert s.iou_K == (0.5, 0.0)
    assert (s["mIoU"], s["MPA"]) == (0.25, 0.5)


def test_nothing_counted_is_undefined() -> None:
    s = scores(torch.zeros(3, 3, dtype=torch.int64))
    assert all(value is None for value in s.values.values())
    assert (s.iou_K, s.support_K) == ((None, None, None), (0, 0, 0))


def test_counts_beyond_float_precision_stay_exact() -> None:
    big = 2**53 + 1
    assert scores(matrix([[big, 0], [0, 1]])).support_K == (big, 1)


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
    assert [iou or 0.0 for iou in ours.iou_K] == pytest.approx(per_class.tolist(), abs=1e-6)
    seen = [k for k in range(num_classes) if counted[k].sum() + counted[:, k].sum()]
    assert ours["mIoU"] == pytest.approx(per_class[seen].mean().item(), abs=1e-6)
    accuracy = multiclass_accuracy(prediction, label, average="micro", **options)  # type: ignore[arg-type]
    assert pytest.approx(accuracy.item(), abs=1e-6) == ours["PA"]
    recall = multiclass_recall(prediction, label, average="none", **options)  # type: ignore[arg-type]
    with_truth = [k for k in range(num_classes) if counted[k].sum()]
    assert pytest.approx(recall[with_truth].mean().item(), abs=1e-6) == ours["MPA"]
    f1 = multiclass_f1_score(prediction, label, average="none", **options)  # type: ignore[arg-type]
    assert ours["dice"] == pytest.approx(f1[seen].mean().item(), abs=1e-6)


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


def test_void_has_any_number() -> None:
    label, prediction = torch.tensor([[[0, 1, -1, 2]]]), torch.tensor([[[0, 2, 1, 2]]])
    expected = [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert confusion_matrix(prediction, label, 3, ignore_index=-1).tolist() == expected
    assert confusion_matrix(prediction, label % 256, 3).tolist() == expected
    with pytest.raises(ValueError, match=r"label ids \[255\]"):
        confusion_matrix(prediction, (label % 256).to(torch.uint8), 3, ignore_index=0)


@pytest.mark.parametrize("num_classes", [127, 128, 255])
def test_many_classes_are_counted_in_a_wider_type(num_classes: int) -> None:
    label = torch.arange(num_classes, dtype=torch.uint8).view(1, 1, -1)
    assert torch.equal(confusion_matrix(label.long(), label, num_classes), torch.eye(num_classes, dtype=torch.int64))


def test_an_all_void_image_counts_nothing() -> None:
    void = torch.full((1, 2, 2), IGNORE_INDEX, dtype=torch.uint8)
    assert confusion_matrix(torch.ones(1, 2, 2), void, 3).sum() == 0


def batch(num_classes: int) -> tuple[Tensor, Tensor]:
    """Predictions and labels of four images, void among them."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(num_classes, (4, 9, 11), generator=generator)
    label = torch.randint(num_classes + 1, (4, 9, 11), generator=generator)
    return prediction, label.masked_fill(label == num_classes, IGNORE_INDEX).to(torch.uint8)


@pytest.mark.parametrize("num_classes", [3, 200])
@pytest.mark.parametrize("count", [metrics._bincounts, metrics._scattered_counts], ids=["of a CPU", "of a GPU"])
def test_images_counted_together_are_counted_as_each_alone(
    num_classes: int, count: Callable[[Tensor, int], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction, label = batch(num_classes)
    alone = [confusion_matrix(prediction[i], label[i], num_classes) for i in range(4)]
    monkeypatch.setattr(metrics, "_bincounts", count)
    together = count_pairs(prediction, label, num_classes).to_cpu().matrices()
    assert together.dtype == torch.int64
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("wrong", [3, 255, -1, 100_000])
@pytest.mark.parametrize("count", [metrics._bincounts, metrics._scattered_counts], ids=["of a CPU", "of a GPU"])
def test_a_wrong_id_is_found_when_the_counts_are_looked_at(
    wrong: int, count: Callable[[Tensor, int], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_bincounts", count)
    prediction, label = batch(3)
    prediction[2, 3, 4] = wrong
    counts = count_pairs(prediction, label, 3)
    with pytest.raises(ValueError, match=rf"prediction ids \[{wrong}\] are outside the 3 classes"):
        counts.matrices()
    prediction[2, 3, 4], label[1, 2, 3] = 0, 7
    counts = count_pairs(prediction, label, 3)
    with pytest.raises(ValueError, match=r"label ids \[7\] are outside the 3 classes"):
        counts.matrices()


# --------------------------------------------------------------------------------------------------------- conditions


def table_of(matrices: dict[str, Tensor], own: Sequence[Metric] = ()) -> dict[str, Any]:
    num_classes = len(next(iter(matrices.values()), HAND))
    classes = ("road", "sign", "car")[:num_classes]
    labels = LabelSpace(name="few", classes=classes, palette=((0, 0, 0),) * num_classes)
    counted = ConfusionMatrix.empty([(name, "town") for name in matrices], num_classes)
    for g, (name, _) in enumerate(counted.groups):
        counted.matrices_GKK[g] = matrices[name]
        counted.num_images_G[g] = 1
    return as_table(counted, labels, own)


def test_summary_by_hand() -> None:
    # Class 2 has truth only in fog, where it is missed: it lowers fog's own mIoU but takes no part in the comparison.
    fog = matrix([[6, 2, 0], [0, 8, 0], [4, 0, 0]])  # IoU 6/12, 8/10, 0
    night = matrix([[5, 5, 0], [5, 5, 0], [0, 0, 0]])  # IoU 1/3, 1/3, none
    table = table_of({"fog": fog, "night": night})
    assert table["conditions"]["fog"]["mIoU"] == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert table["conditions"]["night"]["mIoU"] == pytest.approx(1 / 3)
    assert table["mIoU_mean_conditions"] == pytest.approx((1.3 / 3 + 1 / 3) / 2)
    assert rank_conditions(table).classes == ("road", "sign")
    assert table["worst_condition"] == "night"
    assert table["mIoU_worst"] == pytest.approx(1 / 3)
    assert table["mIoU_gap"] == pytest.approx(0.65 - 1 / 3)
    assert list(table["classes"].values()) == pytest.approx([11 / 27, 13 / 25, 0.0])


def test_absent_classes_do_not_decide_which_condition_is_the_worst() -> None:
    # By their own mIoU, summer (0.45) is worse than winter (0.8), for a class that winter does not show.
    summer = matrix([[9, 1], [5, 0]])
    winter = matrix([[8, 0], [0, 0]])
    winter[0, 1] = 2
    table = table_of({"summer": summer, "winter": winter})
    assert table["conditions"]["winter"]["mIoU"] == pytest.approx(0.4)  # class 1 predicted without truth: IoU 0
    assert table["conditions"]["summer"]["mIoU"] == pytest.approx(0.3)
    assert table["worst_condition"] == "summer"
    assert table["mIoU_worst"] == pytest.approx(0.6)
    assert table["mIoU_gap"] == pytest.approx(0.2)


def test_one_condition_has_no_gap() -> None:
    table = table_of({"all": HAND})
    assert table["mIoU_gap"] == 0
    assert table["worst_condition"] == "all"
    assert table["mIoU_mean_conditions"] == table["mIoU"]
    assert table["mIoU_worst"] == table["mIoU"] == pytest.approx((8 / 13 + 6 / 10 + 0) / 3), "one number, one meaning"


def test_conditions_without_a_common_class_cannot_be_compared() -> None:
    table = table_of({"a": matrix([[3, 0], [0, 0]]), "b": matrix([[0, 0], [0, 3]])})
    assert (table["mIoU_worst"], table["mIoU_gap"], table["worst_condition"]) == (None, None, None)
    assert table["mIoU_mean_conditions"] == 1
    with pytest.raises(ValueError, match="no condition"):
        table_of({})


# -------------------------------------------------------------------------------------------------------------- tables


def test_names_and_order_of_the_table_and_of_mlflow_are_those_of_the_contract() -> None:
    table = table_of({"fog": HAND, "night": HAND})
    shared = ["PA", "MPA", "dice", "f1", "sensitivity", "fwIoU", "classes", "support"]
    compared = ["mIoU_mean_conditions", "mIoU_worst", "mIoU_gap"]
    assert list(table) == ["num_images", "mIoU", *compared, *shared, "conditions", "sites", "worst_condition"]
    assert list(table["conditions"]["fog"]) == ["num_images", "mIoU", *shared]
    assert table["f1"] == table["dice"] and table["sensitivity"] == table["MPA"]
    pooled = [metric_names.MIOU, metric_names.MIOU_MEAN_CONDITIONS, metric_names.MIOU_WORST, metric_names.MIOU_GAP]
    of_each = ["val/mIoU/fog", "val/mIoU/night", "val/IoU/road", "val/IoU/sign", "val/IoU/car"]
    assert list(as_metrics(table)) == [*pooled, "val/PA", "val/MPA", *of_each]


def test_counts_and_ious_of_single_images_by_hand() -> None:
    matrices_NKK = torch.tensor([[[3, 1], [0, 4]], [[0, 0], [0, 0]], [[1, 3], [0, 4]], [[4, 0], [0, 4]]])
    counts_N3K = metrics.class_counts(matrices_NKK)
    assert counts_N3K[0].tolist() == [[4, 4], [3, 5], [3, 4]]
    iou_N = [metrics.image_iou(counts_3K) for counts_3K in counts_N3K]
    assert iou_N == [pytest.approx((3 / 4 + 4 / 5) / 2), None, pytest.approx((1 / 4 + 4 / 7) / 2), 1.0]


def test_the_iou_of_one_image_weighs_classes_by_their_pixels() -> None:
    matrix_KK = torch.tensor([[90, 0, 6], [4, 0, 0], [0, 0, 0]])  # 96 and 4 pixels; the third class is not there
    assert metrics.image_iou(metrics.class_counts(matrix_KK)) == pytest.approx(0.96 * 90 / 100)
