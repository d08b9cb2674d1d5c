"""What figures show. How they look was judged by eye; here: the right numbers, at the right place, without warnings."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from distseg.evaluation.bootstrap import bootstrap_intervals
from distseg.review import figures
from tests.unit.reviews import LABELS, example

WIDE_IN = 10.0


def texts(figure: Figure) -> list[str]:
    """All that is to be read. Draws the figure; checks that it fits a page, cuts nothing off, has no small print."""
    figure.savefig(io.BytesIO(), format="png")
    assert figure.get_figwidth() <= WIDE_IN
    drawn = figure.get_tightbbox()  # in inches
    assert min(drawn.x0, drawn.y0) >= -0.01
    assert drawn.x1 <= figure.get_figwidth() + 0.01
    assert drawn.y1 <= figure.get_figheight() + 0.01
    found = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
    assert min(float(text.get_fontsize()) for text in found) >= 8
    return [text.get_text() for text in found]


def row_names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_condition_bars_begin_with_the_worst_and_say_what_is_lost() -> None:
    made = example()
    found = texts(figures.condition_bars(made.table, bootstrap_intervals(made.images).conditions))
    figure = figures.condition_bars(made.table)
    assert row_names(figure) == ["night (20 images)", "fog (20 images)", "dawn (20 images)"]
    best, worst = (made.table["conditions"][name]["mIoU"] for name in ("dawn", "night"))
    assert {f"{best:.2f}", f"{worst:.2f}", f"−{round(best, 2) - round(worst, 2):.2f}", "best"} <= set(found)
    assert f"all images together: {made.table['mIoU']:.2f}" in found
    assert "mIoU; whiskers: 95 % interval (bootstrap over images)" in found


def test_bars_of_conditions_with_other_classes_say_over_which_they_compare() -> None:
    found = texts(figures.condition_bars(example(absent=(("fog", 1),)).table))
    assert "mIoU over the 2 classes that occur in every condition" in found


@pytest.mark.parametrize("hits", [{"all": 70}, {f"condition-{k}": 50 + k for k in range(30)}])
def test_bars_and_heat_map_of_one_and_of_many_conditions(hits: dict[str, int]) -> None:
    made = example(hits)
    assert len(row_names(figures.condition_bars(made.table))) == len(hits)
    texts(figures.condition_bars(made.table, bootstrap_intervals(made.images).conditions))
    texts(figures.condition_by_class(made.table))


def test_condition_by_class_hatches_a_class_that_is_not_there() -> None:
    figure = figures.condition_by_class(example(absent=(("fog", 1),)).table)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list(LABELS.classes)
    (hatched,) = figure.axes[0].patches
    assert hatched.get_hatch() == "////"
    assert hatched.get_path().get_extents(hatched.get_patch_transform()).bounds == (0.5, 0.5, 1, 1)
    assert "hatched: the class is neither in these images nor predicted there" in texts(figure)


def test_condition_by_class_of_150_classes_shows_those_that_differ_most() -> None:
    classes = {f"class {k}": k / 200 for k in range(150)}
    dawn: dict[str, Any] = {"num_images": 9, "mIoU": 0.4, "classes": classes, "support": dict.fromkeys(classes, 5)}
    changed = {"classes": classes | {"class 7": 0.9, "class 8": None}, "support": dawn["support"] | {"class 8": 0}}
    night = dawn | changed
    table = {"conditions": {"dawn": dawn, "night": night}, "classes": classes}
    figure = figures.condition_by_class(table | {"mIoU": 0.4})
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "class 7" in names
    assert len(names) == figures.MAX_CLASSES
    assert any("the 20 of 150 classes that differ most" in text for text in texts(figure))


def test_confusion_is_in_percent_of_the_truth() -> None:
    figure = figures.confusion([[90, 10, 0], [0, 1, 0], [0, 0, 0]], LABELS.classes)
    found = texts(figure)
    assert {"90", "10", "100", "hatched: no such pixels in the truth"} <= set(found)
    assert len(figure.axes[0].patches) == 3  # the row of a class without truth


@pytest.mark.parametrize("num_classes", [11, 19, 150])
def test_confusion_fits_a_page(num_classes: int) -> None:
    matrix_KK = np.eye(num_classes, dtype=np.int64) * 60
    matrix_KK[3, 9] = 40
    figure = figures.confusion(torch.from_numpy(matrix_KK), [f"a class named {k}" for k in range(num_classes)])
    found = texts(figure)
    assert "40" in found
    assert {"a class named 3", "a class named 9"} <= set(found)
    assert ("other classes" in found) == (num_classes == 150)


def test_curves_leave_out_what_is_not_finite_or_not_there() -> None:
    figure = figures.curves({"train/loss": [(2, 1.0), (1, 2.0), (3, float("nan"))], "val/mIoU": [(3, 0.5)]})
    loss, score = figure.axes
    (line,) = loss.lines
    assert np.asarray(line.get_xydata()).tolist() == [[1, 2.0], [2, 1.0]]
    assert "all images: 0.50 at the end" in texts(figure)
    assert len(score.lines) == 1
    texts(figures.curves({}))


def test_curves_smooth_a_long_loss() -> None:
    figure = figures.curves({"train/loss": [(step, 1 / step) for step in range(1, 201)]})
    assert {"as logged", "mean of the last 8"} <= set(texts(figure))


def test_runs_by_condition() -> None:
    scores = {"base": {"night": 0.3, "dawn": 0.8}, "costs $5 and $6": {"dawn": 0.9}}
    figure = figures.runs_by_condition(scores, {"base": bootstrap_intervals(example().images).conditions})
    assert row_names(figure) == ["night", "dawn"]
    of_second_only = figures.runs_by_condition({"base": {"dawn": 0.8}, "other": {"night": 0.3, "dawn": 0.9}})
    assert row_names(of_second_only) == ["dawn", "night"]
    assert {"base", r"costs \$5 and \$6"} <= set(texts(figure))
    with pytest.raises(ValueError, match="8 runs in one figure"):
        figures.runs_by_condition({str(k): {"dawn": 0.5} for k in range(8)})


def test_signs_that_the_font_lacks_cost_one_line_for_all_figures(caplog: pytest.LogCaptureFixture) -> None:
    figures._tell_of_missing_signs.cache_clear()
    for _ in range(2):
        figure = Figure()
        figure.text(0, 0, "木は森")
        figures.as_png(figure, dpi=20)
    assert [line for line in caplog.messages if "font.family lacks" in line] == caplog.messages
    assert len(caplog.messages) == 1
