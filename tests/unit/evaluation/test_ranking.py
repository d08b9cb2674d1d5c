"""The one definition of worst condition, gap and order, and that whoever shows them agrees with it."""

import copy
from dataclasses import replace

import pytest

from distseg.cli import print_conditions
from distseg.evaluation import bootstrap_intervals, paired_bootstrap, rank_conditions
from distseg.review import RunReview, run_page
from distseg.review.comparison import Comparison
from distseg.review.summary import lost_classes, summary
from tests.unit.reviews import HITS, example


def test_ranking_is_worst_first_and_agrees_with_the_table() -> None:
    table = example().table
    s = rank_conditions(table)
    assert list(s.miou) == ["night", "fog", "dawn"]
    assert (s.worst, s.best, s.note) == (table["worst_condition"], "dawn", "")
    assert s.worst is not None and s.best is not None
    assert s.miou[s.worst] == pytest.approx(table["mIoU_worst"])
    assert s.miou[s.best] - s.miou[s.worst] == pytest.approx(table["mIoU_gap"])


def test_ranking_compares_classes_that_all_conditions_have() -> None:
    table = example(absent=(("fog", 1),)).table
    s = rank_conditions(table)
    assert s.classes == ("road", "car")
    assert s.note == "over the 2 classes that occur in every condition"
    assert s.miou["night"] == pytest.approx(table["mIoU_worst"])
    assert s.miou["dawn"] == pytest.approx(sum(table["conditions"]["dawn"]["classes"][n] for n in s.classes) / 2)


def test_ranking_without_a_common_class_is_over_each_ones_own() -> None:
    table = example(absent=(("dawn", 0), ("fog", 1), ("night", 2))).table
    s = rank_conditions(table)
    assert s.classes == ()
    assert s.miou["fog"] == table["conditions"]["fog"]["mIoU"]
    assert "compare with care" in s.note


def test_ranking_takes_only_classes_that_other_tables_have_too() -> None:
    assert rank_conditions(example().table, [example(absent=(("fog", 1),)).table]).classes == ("road", "car")


def test_without_a_common_class_nothing_is_called_the_worst_by_anybody() -> None:
    made = example(absent=(("dawn", 0), ("fog", 1), ("night", 2)))
    ranking, intervals = rank_conditions(made.table), bootstrap_intervals(made.images)
    assert (ranking.worst, ranking.best, ranking.miou_worst, ranking.miou_gap) == (None, None, None, None)
    assert [made.table[name] for name in ("worst_condition", "mIoU_worst", "mIoU_gap")] == [None, None, None]
    assert (intervals.gap, intervals.worst_share) == (None, {})
    assert list(ranking.miou) == ["night", "fog", "dawn"]
    text = summary(made.table, intervals)
    assert "at 3 conditions; none can be called the worst, as no class occurs in all." in text
    assert "works best" not in text and lost_classes(made.table) == []
    page = run_page(RunReview(name="x", table=made.table, images=made.images))
    assert "Worst condition" not in page and "compare with care" in page


def test_a_condition_of_void_alone_takes_no_part_for_anybody() -> None:
    void = example(absent=(("fog", 0), ("fog", 1), ("fog", 2)))
    without = example({"dawn": 90, "night": 40})
    ranking, intervals = rank_conditions(void.table), bootstrap_intervals(void.images)
    assert (ranking.order, ranking.void) == (("night", "dawn", "fog"), ("fog",))
    assert ranking.classes == ("road", "sign", "car") and ranking.is_all and ranking.note == ""
    assert void.table["worst_condition"] == "night" == ranking.worst
    assert ranking.miou_gap == void.table["mIoU_gap"] == pytest.approx(without.table["mIoU_gap"], abs=0.05)
    assert intervals.gap is not None and intervals.gap.value == pytest.approx(void.table["mIoU_gap"])


def test_nothing_but_void_has_no_ranking() -> None:
    ranking = rank_conditions(example({"fog": 80}, absent=(("fog", 0), ("fog", 1), ("fog", 2))).table)
    assert (ranking.miou, ranking.order, ranking.worst, ranking.is_compared) == ({}, ("fog",), None, False)


def test_the_terminal_shows_conditions_in_the_order_that_names_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    """By its own mIoU summer would be the worst: it shows a class that winter lacks, and misses it."""
    table = example({"summer": 90, "winter": 40}, absent=(("winter", 2),)).table
    table["conditions"]["summer"] |= {"mIoU": 0.1}
    assert rank_conditions(table).worst == "winter" == table["worst_condition"]
    print_conditions(table, "a run")
    rows = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows[:2] == ["winter", "summer"]


def test_the_gap_of_many_conditions_is_tested_between_the_best_and_the_worst_of_the_images() -> None:
    hits = {f"c{k}": 50 + 5 * k for k in range(9)}
    made = example(hits, spread=15)
    found = bootstrap_intervals(made.images)
    best, worst = found.conditions["c8"], found.conditions["c0"]
    assert found.gap is not None and best is not None and worst is not None
    assert found.gap.value == pytest.approx(best.value - worst.value) == pytest.approx(made.table["mIoU_gap"])
    assert found.gap.excludes_0 and found.gap.low < found.gap.value < found.gap.high
    assert list(found.worst_share) == sorted(hits) and sum(found.worst_share.values()) == pytest.approx(1)
    assert max(found.worst_share, key=found.worst_share.__getitem__) == "c0"


def test_scores_and_intervals_of_a_comparison_are_over_the_same_classes() -> None:
    """The second run finds no sign, and a third one, of other images, has no sign in fog: so signs do not count."""
    made = example()
    counts_N3K = made.images.counts_N3K.clone()
    counts_N3K[:, 2, 1] = 0
    blind = replace(made.images, counts_N3K=counts_N3K)
    table = copy.deepcopy(made.table)
    for entry in table["conditions"].values():
        entry["classes"]["sign"] = 0.0
    others = example(absent=(("fog", 1),), num_images=9)
    runs = [
        RunReview(name="base", table=made.table, images=made.images),
        RunReview(name="blind", table=table, images=blind),
        RunReview(name="others", table=others.table, images=others.images),
    ]
    compared = Comparison(runs)
    for condition in HITS:
        shown = compared.rankings[1].miou[condition] - compared.rankings[0].miou[condition]
        tested, own = compared.tested(1, condition), compared.intervals(1)
        assert tested is not None and tested.value == pytest.approx(shown) == 0
        assert own is not None and (interval := own.conditions[condition]) is not None
        assert interval.value == pytest.approx(compared.rankings[1].miou[condition])
    alone = paired_bootstrap(blind, made.images).conditions["dawn"]
    assert alone is not None and alone.value < -0.2  # where signs count
