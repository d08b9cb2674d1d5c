"""Bootstrap intervals: what they hold, what they must not hang on, and what is refused."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from distseg.errors import DataError
from distseg.evaluation.bootstrap import MIN_UNITS, ImageCounts, bootstrap_intervals, compare_runs
from distseg.evaluation.metrics import class_counts
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
    assert found.rivals == ()


def test_equal_conditions_are_not_told_apart() -> None:
    found = bootstrap_intervals(example({"dawn": 80, "fog": 80}, spread=15).images)
    assert found.gap is not None
    assert not found.gap.excludes_0
    assert len(found.rivals) == 1


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
    found = bootstrap_intervals(example(num_images=MIN_UNITS - 1).images)
    assert found.conditions == dict.fromkeys(HITS)
    assert (found.pooled, found.gap, found.rivals) == (None, None, ())
    assert found.too_few == dict.fromkeys(HITS, "7 images")


def test_a_condition_of_void_alone_is_left_out() -> None:
    made = example(absent=(("fog", 0), ("fog", 1), ("fog", 2)))
    found = bootstrap_intervals(made.images)
    assert found.conditions["fog"] is None
    assert found.gap is not None
    assert (found.rivals, found.too_few) == ((), {})


def test_counts_survive_json() -> None:
    images = example().images
    for written in (images, replace(images, sequences=tuple(key[:9] for key in images.keys))):
        again = ImageCounts.from_json(json.loads(json.dumps(written.as_json())), "tables/images.json")
        assert (again.keys, again.conditions) == (written.keys, written.conditions)
        assert again.sequences == written.sequences and again.counts_N3K.equal(written.counts_N3K)
    before = {name: value for name, value in images.as_json().items() if name != "sequences"}
    assert ImageCounts.from_json(before, "tables/images.json").sequences == ()
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
    found = compare_runs([base.images, better.images])[1, 0]
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


def test_a_run_does_not_differ_from_itself_nor_one_way_more_than_the_other() -> None:
    images = example().images
    difference = compare_runs([images, images])[1, 0].worst
    assert difference is not None
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert not difference.excludes_0
    found = compare_runs([images, example({"dawn": 90, "fog": 83, "night": 44}).images])
    one, other = found[1, 0].conditions["fog"], found[0, 1].conditions["fog"]
    assert one is not None and other is not None
    assert (one.value, one.low, one.high) == (-other.value, -other.high, -other.low)


def test_a_condition_of_few_images_is_not_tested_and_the_others_are() -> None:
    few = example({"dawn": 90, "night": 40}, num_images=20)
    some = example({"fog": 80}, num_images=5)
    images = joined(few.images, some.images)
    found, pair = bootstrap_intervals(images), compare_runs([images, images])[0, 1]
    assert found.too_few == pair.too_few == {"fog": "5 images"}
    assert found.gap is not None and found.gap.excludes_0, "between dawn and night, which have enough"
    assert (found.conditions["fog"], pair.conditions["fog"], pair.pooled, pair.worst) == (None, None, None, None)
    assert pair.conditions["dawn"] is not None
    worst_is_small = joined(example({"dawn": 90, "fog": 80}).images, example({"night": 40}, num_images=5).images)
    assert bootstrap_intervals(worst_is_small).gap is None


def test_images_of_void_alone_do_not_count_as_images() -> None:
    images = example({"dawn": 90, "night": 40}, num_images=10).images
    counts_N3K = images.counts_N3K.clone()
    counts_N3K[:3] = 0
    found = bootstrap_intervals(replace(images, counts_N3K=counts_N3K))
    assert found.too_few == {"dawn": "7 images"} and found.gap is None


def test_frames_of_few_drives_say_nothing_and_of_many_they_are_drawn_together() -> None:
    """All frames of a drive are alike, so twenty frames of ten drives are ten photographs."""
    made = example({"dawn": 90, "night": 40}, spread=15, num_images=10).images
    twice = joined(made, replace(made, keys=tuple(f"{key}-again" for key in made.keys)))
    drives = tuple(key.removesuffix("-again") for key in twice.keys)
    alone, frames, sequences = (
        bootstrap_intervals(images).gap for images in (made, twice, replace(twice, sequences=drives))
    )
    assert alone is not None and frames is not None and sequences is not None
    assert (sequences.low, sequences.high) == pytest.approx((alone.low, alone.high))
    assert frames.high - frames.low < 0.85 * (sequences.high - sequences.low)
    one_drive = bootstrap_intervals(replace(twice, sequences=tuple(name[:9] for name in drives)))
    assert one_drive.gap is None and one_drive.too_few == {"dawn": "1 sequence", "night": "1 sequence"}


def joined(*parts: ImageCounts) -> ImageCounts:
    return ImageCounts.of(
        [key for part in parts for key in part.keys],
        [name for part in parts for name in part.conditions],
        torch.cat([part.counts_N3K for part in parts]),
    )


def test_paired_differences_need_the_same_images_labels_and_classes() -> None:
    images = example().images
    fewer = example({"dawn": 90, "fog": 80}).images
    with pytest.raises(DataError, match=r"not evaluated on the same images: val/night/000 \(night\) is of one only"):
        compare_runs([images, fewer])
    relabelled = replace(images, counts_N3K=images.counts_N3K + 1)
    with pytest.raises(DataError, match="different labels of val/dawn/000"):
        compare_runs([images, relabelled])
    with pytest.raises(DataError, match="predict 3 and 2 classes"):
        compare_runs([replace(images, counts_N3K=images.counts_N3K[..., :2]), images])


def test_a_thousand_resamples_take_seconds_not_minutes() -> None:
    """Measured: 0.06 s of processor time on two busy cores."""
    matrices_NKK = torch.randint(0, 1000, (200, 19, 19), generator=torch.Generator().manual_seed(0))
    images = ImageCounts.of([f"{i:03d}" for i in range(200)], ["all"] * 200, class_counts(matrices_NKK))
    start_s = time.process_time()
    bootstrap_intervals(images)
    assert time.process_time() - start_s < 2
