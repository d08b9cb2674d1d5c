"""The sentences a reader reads first."""

import pytest

from distseg.evaluation import Interval, bootstrap_intervals
from distseg.review.summary import lost_classes, remarks, summary
from distseg.review.text import signed, span
from tests.unit.reviews import HITS, example


def test_summary_in_one_sentence() -> None:
    made = example(spread=0)
    # IoU from hits h of 100: h / (200 - h); 90 -> 0.82, 40 -> 0.25
    assert summary(made.table, bootstrap_intervals(made.images), ["dawn"]) == (
        "Trained on dawn: works best at dawn (mIoU 0.82) and loses 0.57 at night (0.25, the worst of 3 conditions); "
        "the loss is real, not chance (95 % interval 0.57 to 0.57)."
    )


def test_summary_says_when_chance_could_explain_the_loss() -> None:
    made = example({"dawn": 80, "fog": 80}, spread=15)
    intervals = bootstrap_intervals(made.images)
    assert "chance could explain the loss (95 % interval −0." in summary(made.table, intervals)
    assert "not sure" not in " ".join(remarks(made.table, intervals)), "it is said once"


def test_summary_when_nothing_is_lost() -> None:
    made = example({"dawn": 80, "fog": 80}, spread=0)
    assert summary(made.table, bootstrap_intervals(made.images)) == "Scores mIoU 0.67 at each of 2 conditions."


def test_summary_says_when_it_cannot_be_known() -> None:
    made = example(num_images=3)
    text = summary(made.table, bootstrap_intervals(made.images))
    assert text.endswith("whether chance explains the loss is unknown (night and dawn: 3 images, 8 needed).")
    assert "is unknown, since single images were not kept" in summary(made.table)


def test_summary_on_a_single_condition() -> None:
    made = example({"all": 90}, spread=0)
    assert summary(made.table) == "Scores mIoU 0.82 on 20 images (condition: all)."
    assert summary(made.table, bootstrap_intervals(made.images)).endswith(", 95 % interval 0.82 to 0.82.")
    assert remarks(made.table) == []
    absent = (("fog", 0), ("fog", 1), ("fog", 2))
    assert "mIoU 0.82 on 1 image (condition: dawn)" in summary(
        example({"dawn": 90, "fog": 80}, absent=absent, num_images=1, spread=0).table
    )


def test_summary_on_void_alone() -> None:
    table = example({"fog": 80}, absent=(("fog", 0), ("fog", 1), ("fog", 2))).table
    assert summary(table) == "Nothing was scored: all pixels are void."


def test_lost_classes_are_real_losses_greatest_first() -> None:
    table = example(spread=0).table
    table["conditions"]["night"]["classes"] |= {"road": 0.9, "sign": 0.0, "car": 0.5}
    lost = dict(lost_classes(table))
    assert list(lost) == ["sign", "car"]
    assert lost["sign"] == pytest.approx(0.82)


def test_numbers_as_text() -> None:
    assert [signed(value) for value in (0.123, -0.128, 0.001, -0.001)] == ["+0.12", "−0.13", "0.00", "0.00"]
    assert span(Interval(0.1, -0.001, 0.204)) == "0.00 to 0.20"
    assert span(Interval(0.1, -0.02, 0.2)) == "−0.02 to 0.20"


def test_loss_adds_up_as_shown() -> None:
    table = example(HITS, spread=0).table
    for name, miou in (("dawn", 0.5449), ("fog", 0.5), ("night", 0.4651)):
        table["conditions"][name]["classes"] = dict.fromkeys(table["classes"], miou)
    assert "(mIoU 0.54) and loses 0.07 at night (0.47," in summary(table)


def test_conditions_that_may_be_the_worst_as_well_are_named() -> None:
    made = example({"dawn": 90, "fog": 41, "night": 40}, spread=15)
    said = "Which condition is the worst is not sure: night cannot be told apart from fog."
    assert said in remarks(made.table, bootstrap_intervals(made.images))
    assert said not in remarks(example().table, bootstrap_intervals(example().images))


def test_a_condition_without_truth_is_named_as_left_out() -> None:
    made = example(absent=(("fog", 0), ("fog", 1), ("fog", 2)))
    assert "Left out, since all pixels there are void: fog." in remarks(made.table)
