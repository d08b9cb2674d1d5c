"""Bootstrap intervals: what they hold, what they must not hang on, and what is refused."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from distseg.errors import DataError
from distseg.evaluation.bootstrap import (
    MIN_IMAGES,
    ImageCounts,
    bootstrap_intervals,
    class_counts,
    image_iou,
    paired_bootstrap,
)
from distseg.evaluation.ranking import rank_conditions
from tests.unit.reviews import HITS, example


def test_values_are_those_of_the_table() -> None:
    made = example(absent=(("fog", 1),))
    found = bootstrap_intervals(made.images)
    for name, value in rank_conditions(made.table).miou.items():
        interval = found.conditions[name]
        assert interval is not None
        assert interval.value == pytest.approx(value)
        assert interval.low < value < interval.high
    assert found.pooled is not None
    assert found.pooled.value == pytest.approx(made.table["mIoU"])


def test_gap_is_from_the_best_to_the_worst_condition() -> None:
    made = example()
    found = bootstrap_intervals(made.images)
    assert found.gap is not None
    assert found.gap.value == pytest.approx(made.table["mIoU_gap"])
    assert found.gap.excludes_0
    assert found.worst_share == {"dawn": 0, "fog": 0, "night": 1}


def test_equal_conditions_are_not_told_apart() -> None:
    found = bootstrap_intervals(example({"dawn": 80, "fog": 80}, spread=15).images)
    assert found.gap is not None
    assert not found.gap.excludes_0
    assert min(found.worst_share.values()) > 0.02


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Images of two kinds, half of each: IoU 0.9 and 0.5 of one class among as many wrong pixels of the other."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.tensor([[[90, 10], [0, 0]], [[50, 50], [0, 0]]])
    truth = 0.35  # class 0: (90 + 50) / 200; class 1, predicted without truth, 0
    num_covered = 0
    for trial in range(200):
        matrices_NKK = kinds[torch.randint(2, (40,), generator=generator)]
        images = ImageCounts.of([f"{i:03d}" for i in range(40)], ["all"] * 40, class_counts(matrices_NKK))
        interval = bootstrap_intervals(images, resamples=400, seed=trial).pooled
        assert interval is not None
        num_covered += interval.low <= truth <= interval.high
    assert 0.88 <= num_covered / 200 <= 0.99


def test_neither_order_of_images_nor_other_conditions_change_an_interval() -> None:
    made = example()
    counts_N3K = class_counts(torch.randint(0, 50, (60, 3, 3), generator=torch.Generator().manual_seed(1)))
    keys, conditions = list(made.images.keys), list(made.images.conditions)
    whole = bootstrap_intervals(ImageCounts.of(keys, conditions, counts_N3K))
    turned = bootstrap_intervals(ImageCounts.of(keys[::-1], conditions[::-1], counts_N3K.flip(0)))
    assert whole == turned
    is_fog = [name == "fog" for name in conditions]
    fog_keys = [key for key, chosen in zip(keys, is_fog, strict=True) if chosen]
    alone = bootstrap_intervals(ImageCounts.of(fog_keys, ["fog"] * len(fog_keys), counts_N3K[torch.tensor(is_fog)]))
    assert alone.conditions["fog"] == whole.conditions["fog"]
    assert bootstrap_intervals(ImageCounts.of(keys, conditions, counts_N3K), seed=1) != whole


def test_images_all_alike_leave_no_doubt() -> None:
    interval = bootstrap_intervals(example(spread=0).images).conditions["fog"]
    assert interval is not None
    assert interval.low == pytest.approx(interval.value) == pytest.approx(interval.high)


def test_too_few_images_get_no_interval() -> None:
    found = bootstrap_intervals(example(num_images=MIN_IMAGES - 1).images)
    assert found.conditions == dict.fromkeys(HITS)
    assert (found.pooled, found.gap, found.worst_share) == (None, None, {})


def test_a_condition_of_void_alone_is_left_out() -> None:
    made = example(absent=(("fog", 0), ("fog", 1), ("fog", 2)))
    found = bootstrap_intervals(made.images)
    assert found.conditions["fog"] is None
    assert found.gap is not None
    assert set(found.worst_share) == {"dawn", "night"}


def test_counts_and_ious_of_single_images_by_hand() -> None:
    matrices_NKK = torch.tensor([[[3, 1], [0, 4]], [[0, 0], [0, 0]], [[1, 3], [0, 4]], [[4, 0], [0, 4]]])
    counts_N3K = class_counts(matrices_NKK)
    assert counts_N3K[0].tolist() == [[4, 4], [3, 5], [3, 4]]
    iou_N = [image_iou(counts_3K) for counts_3K in counts_N3K]
    assert iou_N == [pytest.approx((3 / 4 + 4 / 5) / 2), None, pytest.approx((1 / 4 + 4 / 7) / 2), 1.0]


def test_the_iou_of_one_image_weighs_classes_by_their_pixels() -> None:
    matrix_KK = torch.tensor([[90, 0, 6], [4, 0, 0], [0, 0, 0]])  # 96 and 4 pixels; the third class is not there
    assert image_iou(class_counts(matrix_KK)) == pytest.approx(0.96 * 90 / 100)


def test_counts_survive_json() -> None:
    images = example().images
    again = ImageCounts.from_json(json.loads(json.dumps(images.as_json())), "tables/images.json")
    assert (again.keys, again.conditions) == (images.keys, images.conditions)
    assert again.counts_N3K.equal(images.counts_N3K)
    damaged: Any
    for damaged in ({}, [], {"keys": ["a"], "conditions": [], "counts": []}, {"counts": [[1]]}):
        with pytest.raises(DataError, match=r"tables/images\.json does not hold the counts of images; evaluate"):
            ImageCounts.from_json(damaged, "tables/images.json")


def test_no_image_and_an_image_counted_twice_are_refused() -> None:
    with pytest.raises(DataError, match="no image was evaluated"):
        ImageCounts.of([], [], torch.zeros(0, 3, 2, dtype=torch.int64))
    with pytest.raises(DataError, match="image a was evaluated twice"):
        ImageCounts.of(["a", "b", "a"], ["dawn"] * 3, torch.zeros(3, 3, 2, dtype=torch.int64))


def test_paired_difference_is_surer_than_two_intervals() -> None:
    """Every image 2 pixels better: far less than images differ, yet sure."""
    base, better = example(spread=15), example({name: hits + 2 for name, hits in HITS.items()}, spread=15)
    found = paired_bootstrap(better.images, base.images)
    first, second = (
        bootstrap_intervals(base.images).conditions["night"],
        bootstrap_intervals(better.images).conditions["night"],
    )
    assert first is not None and second is not None
    assert first.high > second.low  # the two intervals overlap
    for difference in (*found.conditions.values(), found.pooled, found.worst):
        assert difference is not None
        assert difference.value > 0
        assert difference.excludes_0
    assert found.pooled is not None
    assert found.pooled.value == pytest.approx(better.table["mIoU"] - base.table["mIoU"])


def test_a_run_does_not_differ_from_itself() -> None:
    images = example().images
    difference = paired_bootstrap(images, images).worst
    assert difference is not None
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert not difference.excludes_0


def test_paired_differences_need_the_same_images_labels_and_classes() -> None:
    images = example().images
    fewer = example({"dawn": 90, "fog": 80}).images
    with pytest.raises(DataError, match=r"not evaluated on the same images: val/night/000 \(night\) is of one only"):
        paired_bootstrap(images, fewer)
    relabelled = replace(images, counts_N3K=images.counts_N3K + 1)
    with pytest.raises(DataError, match="different labels of val/dawn/000"):
        paired_bootstrap(images, relabelled)
    with pytest.raises(DataError, match="predict 2 and 3 classes"):
        paired_bootstrap(replace(images, counts_N3K=images.counts_N3K[..., :2]), images)


def test_a_thousand_resamples_take_seconds_not_minutes() -> None:
    """Measured: 0.06 s of processor time on two busy cores."""
    matrices_NKK = torch.randint(0, 1000, (200, 19, 19), generator=torch.Generator().manual_seed(0))
    images = ImageCounts.of([f"{i:03d}" for i in range(200)], ["all"] * 200, class_counts(matrices_NKK))
    start_s = time.process_time()
    bootstrap_intervals(images)
    assert time.process_time() - start_s < 2
