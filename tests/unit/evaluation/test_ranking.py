"""The one definition of worst condition, gap and order, and that whoever shows them agrees with it."""

import copy
import re
from dataclasses import replace

import pytest

from distseg.cli import print_conditions
from distseg.evaluation import bootstrap_intervals, compare_runs, rank_conditions
from distseg.review import RunReview, run_page
from distseg.review.summary import lost_classes, summary
from distseg.review.tested_runs import Comparison
from tests.unit.reviews import HITS, example


def test_ranking_is_worst_first_and_agrees_with_the_table() -> None:
    table = example().table
    s = rank_conditions(table)
    assert list(s.miou) == ["night", "fog", "dawn"]
    assert (s.worst, s.best, s.note) == (table["worst_condition"], "dawn", "")
    assert s.worst is not None and s.best is not None
    assert s.miou[s.worst] == pytest.approx(table["mIoU_worst"])
    assert s.miou[s.best] - s.miou[s.worst] == pytest.approx(table["mIoU_gap"])


def test_of_equal_conditions_the_first_by_name_is_the_worst() -> None:
    table = example().table
    table["conditions"] = dict.fromkeys(("winter", "fog", "night"), table["conditions"]["fog"])
    assert rank_conditions(table).order == ("fog", "night", "winter")


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
    assert (intervals.gap, intervals.rivals) == (None, ())
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
    assert (ranking.miou, ranking.order, ranking.worst, ranking.compares_several) == ({}, ("fog",), None, False)


def test_the_terminal_shows_conditions_in_the_order_that_names_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    """By its own mIoU summer would be the worst: it shows a class that winter lacks, and misses it."""
    table = example({"summer": 90, "winter": 40}, absent=(("winter", 2),)).table
    table["conditions"]["summer"] |= {"mIoU": 0.1}
    assert rank_conditions(table).worst == "winter" == table["worst_condition"]
    print_conditions(table, "a run")
    rows = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows[:2] == ["winter", "summer"]


def test_the_terminal_shows_the_number_that_it_orders_by(capsys: pytest.CaptureFixture[str]) -> None:
    table = example({"summer": 90, "winter": 40}, absent=(("winter", 2),)).table
    table["conditions"]["summer"] |= {"mIoU": 0.1}
    print_conditions(table, "a run")
    shown = capsys.readouterr().out
    header, *rows = [re.split("[│┃]", line)[1:-1] for line in shown.splitlines() if line.startswith(("│", "┃"))]
    assert [name.strip() for name in header][:4] == ["condition", "images", "mIoU, 2 shared", "mIoU"]
    worst, best = (float(cells[2]) for cells in rows[:2])
    assert worst == pytest.approx(table["mIoU_worst"], abs=1e-4) and worst < best
    assert "worst first, by mIoU over the 2 classes that occur in every condition\n" in shown
    print_conditions(example().table, "another")
    shown = capsys.readouterr().out
    assert "worst first, by mIoU\n" in shown and "shared" not in shown


def test_the_terminal_names_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_conditions(example(absent=(("fog", 0), ("fog", 1), ("fog", 2))).table, "a run")
    shown = capsys.readouterr().out
    assert "without truth, all void, so left out of worst and gap: fog\n" in shown
    assert "   worst night 0." in shown
    print_conditions(example({"a": 90, "b": 40}, absent=(("a", 0), ("a", 1), ("b", 2))).table, "no common class")
    assert "   worst none   gap -\n" in capsys.readouterr().out


def test_a_single_condition_has_one_number_also_beside_one_of_void() -> None:
    """A class that is predicted and not there counts, with IoU 0, in mIoU; with one condition also in the worst."""
    made = example({"all": 80}, absent=(("all", 2),))
    table = copy.deepcopy(made.table)
    table["conditions"]["all"] |= {"mIoU": 0.2073, "classes": table["classes"] | {"car": 0.0}}
    void = {"fog": table["conditions"]["all"] | {"support": dict.fromkeys(table["classes"], 0), "mIoU": None}}
    for conditions in (table["conditions"], table["conditions"] | void):
        ranking = rank_conditions(table | {"conditions": conditions})
        assert (ranking.worst, ranking.miou_worst, ranking.miou_gap) == ("all", 0.2073, 0)
        assert ranking.note == "" and not ranking.compares_several
    counts_N3K = made.images.counts_N3K.clone()
    counts_N3K[:, 1, 2] = 9
    found = bootstrap_intervals(replace(made.images, counts_N3K=counts_N3K))
    alone, pooled = found.conditions["all"], found.pooled
    assert alone is not None and pooled is not None and alone.value == pytest.approx(pooled.value)


def test_the_gap_of_many_conditions_is_tested_between_the_best_and_the_worst_of_the_images() -> None:
    hits = {f"c{k}": 50 + 5 * k for k in range(9)}
    made = example(hits, spread=15)
    found = bootstrap_intervals(made.images)
    best, worst = found.conditions["c8"], found.conditions["c0"]
    assert found.gap is not None and best is not None and worst is not None
    assert found.gap.value == pytest.approx(best.value - worst.value) == pytest.approx(made.table["mIoU_gap"])
    assert found.gap.excludes_0 and found.gap.low < found.gap.value < found.gap.high
    assert "c1" in found.rivals and "c8" not in found.rivals


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
    alone = compare_runs([blind, made.images])[0, 1].conditions["dawn"]
    assert alone is not None and alone.value < -0.2  # where signs count


def test_groups_of_runs_on_different_images_keep_one_error_rate_together() -> None:
    """Two runs on some images and two on others: both pairs are tested at 97.5 %, so the page at 95 %."""
    made = [example({"dawn": hits, "fog": 70}, spread=20, num_images=num) for num in (12, 13) for hits in (70, 72)]
    runs = [RunReview(name=f"r{k}", table=each.table, images=each.images) for k, each in enumerate(made)]
    alone, both = Comparison(runs[:2]).pair(1, 0), Comparison(runs).pair(1, 0)
    assert not isinstance(alone, str) and not isinstance(both, str)
    narrow, wide = alone.pooled, both.pooled
    assert narrow is not None and wide is not None and wide.value == narrow.value and wide.low < narrow.low
    again = compare_runs([made[1].images, made[0].images], level=0.975)[0, 1].pooled
    assert again == wide
