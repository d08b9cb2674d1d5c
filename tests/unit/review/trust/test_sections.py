"""What the page says of trust and of what to do next, from tables whose numbers are known."""

from dataclasses import replace
from typing import Any

import numpy as np

from distseg.evaluation.trust.counts import TrustCounts, num_counts
from distseg.evaluation.trust.readings import readings
from distseg.review import RunReview, comparison_page, model_card, run_page
from distseg.review.trust import believed, next_steps, trust_of_run
from tests.unit.reviews import HITS, LABELS, example


def reading(right: int, wrong: int, level: int = 200) -> dict[str, Any]:
    counts = TrustCounts.of_vector(np.zeros(num_counts(3), dtype=np.int64), 3)
    counts.confidence_2Q[:, level] = right, wrong
    counts.borders_2D[:, 0] = right // 2, wrong
    counts.borders_2D[0, 4] = right - right // 2
    counts.objects_S4[0] = 10, 4, 2, 1
    return readings(counts)


def review(trained_on: tuple[str, ...] = ("dawn",), **hits: int) -> RunReview:
    made = example(hits or HITS)
    table = made.table
    table["trust"] = reading(70, 30)
    for name, entry in table["conditions"].items():
        entry["trust"] = reading((hits or HITS)[name], 100 - (hits or HITS)[name])
    table["sites"] = {"a": table["conditions"]["dawn"], "b": table["conditions"]["night"]}
    config = {"data": {"train_conditions": list(trained_on)}}
    return RunReview(
        name="x", table=table, images=made.images, matrix_KK=made.matrix_KK, palette=LABELS.palette, config=config
    )


def test_the_section_has_calibration_and_errors_of_each_condition_and_site() -> None:
    found = trust_of_run(review())
    assert found is not None and found.sites is not None and found.confusions is not None
    assert [row[0] for row in found.conditions.rows] == ["night", "fog", "dawn", "all images together"]
    night = found.conditions.rows[0]
    assert night[1:4] == ("40.0 %", "83.5 %", "0.435") and night[5] == "60.0 %"
    assert [row[0] for row in found.sites.rows] == ["a", "b"]
    assert found.sentences[0].startswith("The network is more sure than right: mean confidence 0.84, right pixels 0.70")
    assert "100.0 % of the errors lie within 6 px of a border, where 65.0 % of the pixels are." in found.sentences
    assert found.objects.rows[0] == ("0 to 0.1 % of the image", "2", "50.0 %", "40.0 %")
    assert found.confusions.rows[0][:2] in [("road", "sign"), ("sign", "car"), ("car", "road")]


def test_a_comparison_says_whose_confidence_can_be_believed() -> None:
    runs = [review(), replace(review(), table={**review().table, "trust": reading(83, 17)})]
    said = "The confidence of b is the nearest to the truth (ECE 0.005). a is surer than right: 83.5 % and 70.0 %."
    assert believed(["a", "b"], runs) == said
    named = [replace(run, name=name) for run, name in zip(runs, "ab", strict=True)]
    assert said in comparison_page(named)
    assert believed(["a"], runs[:1]) == ""


def test_what_to_do_next_names_a_condition_and_a_class() -> None:
    condition, weakest = next_steps(review())
    assert condition.startswith("Label more images of night: 0.5") and "of which it had no labels." in condition
    assert weakest.startswith("Look at how ") and " % of it taken for " in weakest
    assert "of which it had some labels" in next_steps(review(("dawn", "night")))[0]


def test_a_loss_below_the_digits_that_are_shown_is_none_in_every_sentence() -> None:
    made = example({"dawn": 90, "fog": 90}, spread=0)
    counts_N3K = 10 * made.images.counts_N3K
    counts_N3K[20:, 2] -= 1  # fog has 899 right pixels of 1000
    table = dict(made.table)
    table["conditions"]["fog"]["classes"] = dict.fromkeys(table["classes"], 899 / 1101)
    run = RunReview(name="x", table=table, images=replace(made.images, counts_N3K=counts_N3K))
    assert run.intervals is not None and run.intervals.gap is not None and run.intervals.gap.excludes_0
    page = run_page(run)
    assert "Scores mIoU 0.82 at each of 2 conditions." in page and "no loss is seen" in page
    assert next_steps(run)[0] == "Label more images of any condition: none scores less than another."


def test_a_class_that_is_predicted_and_never_there_is_no_class_to_label() -> None:
    made = review()
    support, classes = {**made.table["support"], "sign": 0}, {**made.table["classes"], "sign": 0.0}
    table = {**made.table, "support": support, "classes": classes}
    run = replace(made, table=table)
    assert next_steps(run)[1].startswith(("Look at how road", "Look at how car"))
    assert "still the weakest of those that occur" in next_steps(run)[1]
    card = model_card(run)
    assert "Predicted, though not in the evaluated images: sign." in card
    assert "Found badly (IoU below 0.3): sign" not in card


def test_sure_and_right_that_look_alike_are_not_said_to_differ() -> None:
    made = review()
    counts = TrustCounts.of_vector(np.zeros(num_counts(3), dtype=np.int64), 3)
    counts.confidence_2Q[:, 239], counts.confidence_2Q[:, 120] = (49, 51), (102, 0)
    table = {**made.table, "trust": readings(counts)}
    found = trust_of_run(replace(made, table=table))
    assert found is not None
    assert found.sentences[0].startswith(
        "The network is as sure as it is right in the mean, but not at each confidence: mean confidence 0.75, right "
        "pixels 0.75 (ECE 0.5"
    )


def test_a_rare_class_is_to_be_sampled_more_often() -> None:
    made = review()
    table = dict(made.table) | {
        "support": {"road": 9990, "sign": 10, "car": 0},
        "classes": {"road": 0.9, "sign": 0.1, "car": None},
    }
    assert next_steps(replace(made, table=table))[1].startswith(
        "Sample images with sign more often (--data.sampling class): IoU 0.10 with 0.1 % of the pixels"
    )


def test_conditions_that_are_alike_are_not_told_apart() -> None:
    made = example({f"c{k}": 70 for k in range(9)}, spread=25, num_images=19)
    alike = next_steps(RunReview(name="x", table=made.table, images=made.images))[0]
    assert alike == "Label more images of any condition: that one is worse than another may be chance."


def test_a_single_condition_says_to_evaluate_on_others() -> None:
    made = example({"all": 80})
    steps = next_steps(RunReview(name="x", table=made.table, images=made.images))
    assert steps[0].startswith("Evaluate on several conditions")


def test_pages_have_the_section_only_where_it_was_counted() -> None:
    page = run_page(review())
    assert 'id="trust"' in page and "Can I trust it?" in page
    assert 'id="trust"' in comparison_page([review(), review()])
    made = example()
    assert 'id="trust"' not in run_page(RunReview(name="x", table=made.table))
