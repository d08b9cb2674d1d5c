"""Figures of `evaluation.trust`: is the network as often right as it is sure, and what is left if it may refuse."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distseg.review.figures import BLACK, BLUE, GREY, SERIES, SMALL_PT, TEXT_PT, TITLE_PT, label, page

Reading = Mapping[str, Any]


def reliability(of_all: Reading, by_condition: Mapping[str, Reading]) -> Figure:
    """Accuracy over confidence (Guo et al. 2017, figure 1) of all images, and below it how many pixels each bin has.

    Thin lines: the conditions of the least and the largest ECE.
    """
    figure = Figure(figsize=(5.2, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _plain(above)
    _plain(below)
    above.plot([0, 1], [0, 1], color=GREY, lw=1.0, ls=(0, (4, 3)), label="as right as it is sure")
    ranked = sorted(
        (name for name in by_condition if by_condition[name]["ece"] is not None), key=lambda n: by_condition[n]["ece"]
    )
    for name, (colour, marker) in zip(dict.fromkeys(ranked[-1:] + ranked[:1]), SERIES[1:], strict=False):
        if len(ranked) > 1:
            ece = by_condition[name]["ece"]
            _line(above, by_condition[name], colour, marker, f"{label(name)}: ECE {ece:.3f}", 1.0)
    _line(above, of_all, BLUE, "o", f"all images: ECE {of_all['ece']:.3f}", 2.2)
    above.set_ylabel("right pixels", fontsize=TEXT_PT)
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    above.legend(fontsize=SMALL_PT, frameon=False, loc="upper left")
    above.set_title("Is it as often right as it is sure?", fontsize=TITLE_PT, loc="left")
    bins = of_all["reliability"]
    width = 1 / len(bins)
    shares = [each["pixels"] / of_all["pixels"] for each in bins]
    below.bar([(k + 0.5) * width for k in range(len(bins))], shares, width=0.9 * width, color=BLUE)
    below.set_ylabel("share of pixels", fontsize=TEXT_PT)
    below.set_xlabel("confidence", fontsize=TEXT_PT)
    return figure


def _line(axes: Axes, reading: Reading, colour: str, marker: str, text: str, width: float) -> None:
    known = [each for each in reading["reliability"] if each["pixels"]]
    x, y = [each["confidence"] for each in known], [each["accuracy"] for each in known]
    axes.plot(x, y, marker, ls="-", color=colour, lw=width, ms=2.5 + width, label=text)


def risk_coverage(readings: Mapping[str, Reading]) -> Figure:
    """The share of errors among the most certain pixels, over their share of all; the last reading is thick."""
    figure, axes = page(5.2, 5.4)
    ranked = sorted(readings, key=lambda name: -(readings[name]["aurc"] or 0.0))
    shown = [name for name in ranked if name != list(readings)[-1]][: len(SERIES) - 1]
    for name, (colour, marker) in zip(shown, SERIES, strict=False):
        _risks(axes, readings[name], colour, marker, name, 1.0)
    last = list(readings)[-1]
    _risks(axes, readings[last], BLACK, "o", last, 2.2)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of pixels that are kept, the most certain first", fontsize=TEXT_PT)
    axes.set_ylabel("share of them that is wrong", fontsize=TEXT_PT)
    axes.legend(fontsize=SMALL_PT, frameon=False, loc="upper left")
    left_out = len(readings) - 1 - len(shown)
    of_all = f" (without the {left_out} best conditions)" if left_out > 0 else ""
    axes.set_title(f"What is left if it may refuse{of_all}", fontsize=TITLE_PT, loc="left")
    return figure


def _risks(axes: Axes, reading: Reading, colour: str, marker: str, name: str, width: float) -> None:
    points = [(coverage, risk) for coverage, risk in reading["risk_coverage"] if risk is not None]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(
            x,
            y,
            marker,
            ls="-",
            color=colour,
            lw=width,
            ms=2.5 + width,
            label=f"{label(name)}: AURC {reading['aurc']:.3f}",
        )


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=SMALL_PT)
    axes.grid(color="#E5E5E5", lw=0.8)
    axes.set_axisbelow(True)
