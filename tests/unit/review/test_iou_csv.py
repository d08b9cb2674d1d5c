"""`report compare --csv`: what other programs get of a comparison."""

import csv
import io

from distseg.review import RunReview, iou_csv
from tests.unit.reviews import example


def test_other_programs_get_the_iou_of_each_run_condition_and_class() -> None:
    table = example({"day": 30, "night": 20}).table
    classes = list(table["classes"])
    without = {**table["conditions"]["night"], "classes": dict.fromkeys(classes)}
    runs = [
        RunReview(name="a, b", table=table),
        RunReview(name="other", table={**table, "conditions": {"night": without}}),
    ]
    found = list(csv.DictReader(io.StringIO(iou_csv(runs))))
    assert [row["class"] for row in found[: len(classes)]] == classes
    conditions = [row["condition"] for row in found if row["run"] == "other"]
    assert conditions == ["all images"] * len(classes) + ["night"] * len(classes)
    for row in (row for row in found if row["run"] == "a, b"):
        entry = table if row["condition"] == "all images" else table["conditions"][row["condition"]]
        assert float(row["iou"]) == entry["classes"][row["class"]]
        assert int(row["pixels"]) == entry["support"][row["class"]]
    assert {row["iou"] for row in found if (row["run"], row["condition"]) == ("other", "night")} == {""}


def test_runs_of_one_name_are_told_apart() -> None:
    runs = [RunReview(name="one", table=example({"day": 30}).table)] * 2
    found = {row["run"] for row in csv.DictReader(io.StringIO(iou_csv(runs)))}
    assert found == {"one [1]", "one [2]"}
