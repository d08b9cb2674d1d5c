"""Pictures of an evaluation: `evaluation.as_table`'s table, matrices and histories in, figures out.

Figures are made without pyplot, so any thread may draw them; they are white, at most 10 inches wide (a page), with text
of 8 points and more. Colours are safe for the colour-blind (cividis; Okabe & Ito's); nothing is said by colour alone.
Void, and classes that are not there, are hatched grey.
"""

import functools
import io
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from distseg import metric_names
from distseg.evaluation import Interval, Table, rank_conditions
from distseg.review.text import loss, signed

log = logging.getLogger(__name__)

# Okabe & Ito 2008, "Color Universal Design"
BLACK, BLUE, VERMILION, GREEN, SKY, PURPLE, ORANGE = (
    "#000000", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#E69F00",
)  # fmt: skip
SERIES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"), (BLACK, "X"))
GREY = "#767676"

SMALL_PT, TEXT_PT, TITLE_PT = 8, 9, 11
MAX_CLASSES = 20  # that fit a page with a number in each cell

IntArray = npt.NDArray[np.int64]
History = Mapping[str, Sequence[tuple[int, float]]]  # metric -> (step, value), as MLflow keeps it


# ---- conditions


def condition_bars(table: Table, intervals: Mapping[str, Interval | None] | None = None) -> Figure:
    """mIoU of each condition, worst first, what it lacks to the best, and the averages; whiskers are the intervals."""
    ranking = rank_conditions(table)
    names = list(ranking.miou)
    best = max(ranking.miou.values(), default=0.0)
    figure, axes = page(8.0, 1.5 + 0.36 * max(len(names), 2))
    rows = range(len(names))
    colours = [VERMILION if name == ranking.worst and ranking.compares_several else BLUE for name in names]
    axes.barh(rows, [best] * len(names), color="#ECECEC", height=0.62)  # what is lost
    axes.barh(rows, list(ranking.miou.values()), color=colours, height=0.62)
    known = {name: found for name in names if (found := (intervals or {}).get(name))}
    for row, name in enumerate(names):
        if name in known:
            _whisker(axes, known[name], row, BLACK)
        gap = "best" if name == ranking.best else signed(-loss(best, ranking.miou[name]))
        for x, text in ((1.02, f"{ranking.miou[name]:.2f}"), (1.11, gap if ranking.compares_several else "")):
            weight = "bold" if name in (ranking.worst, ranking.best) else "normal"
            axes.text(x, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=TEXT_PT, weight=weight)
    if len(names) > 1:
        for x, text in ((1.02, "mIoU"), (1.11, "to best" if ranking.compares_several else "")):
            axes.text(x, -0.75, text, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL_PT, color=GREY)
        of = " (all classes)" if ranking.note else ""
        pooled, mean = table["mIoU"], table["mIoU_mean_conditions"]
        axes.axvline(pooled, color=BLACK, lw=1.2, label=f"all images together{of}: {pooled:.2f}")
        axes.axvline(mean, color=BLACK, lw=1.2, ls=(0, (4, 3)), label=f"mean of conditions{of}: {mean:.2f}")
        figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL_PT, frameon=False)
    axes.set_yticks(rows, [_with_support(name, table) for name in names], fontsize=TEXT_PT)
    axes.set_ylim(len(names) - 0.4, -1.1)
    axes.set_xlim(0, min(1.0, 1.06 * max([best, 1e-3, *(i.high for i in known.values())])))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="white", lw=0.8, alpha=0.6)
    axes.set_xlabel(_axis_label("mIoU", ranking.note, bool(known)), fontsize=TEXT_PT)
    axes.set_title("mIoU per condition, worst first", fontsize=TITLE_PT, loc="left")
    return figure


def runs_by_condition(
    runs: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Interval | None]] | None = None
) -> Figure:
    """Runs beside each other: run -> condition -> mIoU. The first run's conditions come first. At most 7 runs."""
    if len(runs) > len(SERIES):
        raise ValueError(f"{len(runs)} runs in one figure: at most {len(SERIES)} can be told apart")
    names = list(dict.fromkeys(name for scores in runs.values() for name in scores))
    figure, axes = page(8.0, 1.3 + len(names) * (0.2 + 0.13 * len(runs)))
    for number, ((run, scores), (colour, marker)) in enumerate(zip(runs.items(), SERIES, strict=False)):
        offset = 0.62 * ((number + 0.5) / len(runs) - 0.5)
        known = [(row + offset, name) for row, name in enumerate(names) if name in scores]
        for y, name in known:
            interval = (intervals or {}).get(run, {}).get(name)
            if interval:
                _whisker(axes, interval, y, colour)
        axes.plot(
            [scores[name] for _, name in known],
            [y for y, _ in known],
            marker,
            color=colour,
            ms=6,
            label=label(run, 50),
            zorder=3,
        )
    for row in range(0, len(names), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", lw=0)
    axes.set_yticks(range(len(names)), [*map(label, names)], fontsize=TEXT_PT)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        _axis_label("mIoU", "", any(i for found in (intervals or {}).values() for i in found.values())),
        fontsize=TEXT_PT,
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL_PT, frameon=False)
    axes.set_title("mIoU per condition", fontsize=TITLE_PT, loc="left")
    return figure


def condition_by_class(table: Table) -> Figure:
    """IoU of each class (columns) at each condition (rows, worst first), a number in each cell.

    Of more than MAX_CLASSES classes it shows those that differ most between conditions (with one: the lowest).
    """
    conditions = [*rank_conditions(table).miou]
    iou_CK = np.array(
        [[np.nan if v is None else v for v in table["conditions"][c]["classes"].values()] for c in conditions],
        dtype=np.float64,
    ).reshape(len(conditions), len(table["classes"]))
    chosen = _most_telling(iou_CK)
    names = [name for k, name in enumerate(table["classes"]) if k in chosen]
    iou_CK = iou_CK[:, sorted(chosen)]
    cell_w = min(0.62, 8.0 / max(len(names), 1))
    figure, axes = page(max(4.5, 1.8 + cell_w * len(names)), 1.7 + 0.34 * len(conditions))
    _cells(axes, iou_CK, colormaps["cividis"], lambda v: f"{v:.2f}"[int(v < 0.995) :], PowerNorm(1.0, 0.0, 1.0))
    axes.set_yticks(range(len(conditions)), [_with_support(c, table) for c in conditions], fontsize=TEXT_PT)
    axes.set_xticks(
        range(len(names)), [*map(label, names)], fontsize=TEXT_PT, rotation=40, ha="right", rotation_mode="anchor"
    )
    of_all = (
        f", the {len(names)} of {len(table['classes'])} classes that differ most"
        if len(chosen) < len(table["classes"])
        else ""
    )
    axes.set_title(f"IoU per condition and class{of_all}", fontsize=TITLE_PT, loc="left")
    if np.isnan(iou_CK).any():
        figure.supxlabel(
            "hatched: the class is neither in these images nor predicted there", fontsize=SMALL_PT, color=GREY
        )
    return figure


def _most_telling(iou_CK: npt.NDArray[np.float64]) -> set[int]:
    num_classes = iou_CK.shape[1]
    if num_classes <= MAX_CLASSES:
        return set(range(num_classes))
    is_known_K = ~np.isnan(iou_CK).all(0)
    filled_CK = np.where(np.isnan(iou_CK), np.nanmean(iou_CK), iou_CK)
    spread_K = np.ptp(filled_CK, axis=0) if len(iou_CK) > 1 else -filled_CK[0]
    return set(np.argsort(np.where(is_known_K, -spread_K, np.inf), kind="stable")[:MAX_CLASSES].tolist())


# ---- confusions


def confusion(matrix_KK: npt.ArrayLike, classes: Sequence[str]) -> Figure:
    """What each class (row) was taken for (columns), in percent of its pixels; a row without truth is hatched.

    Of more than MAX_CLASSES classes it shows those of the greatest confusions, and the rest as one column.
    """
    counts_KK = np.asarray(matrix_KK, dtype=np.int64)
    truth_K = counts_KK.sum(1)
    with np.errstate(invalid="ignore"):
        share_KK = 100 * counts_KK / truth_K[:, None]  # 0 / 0 is NaN: hatched
    chosen = _most_confused(share_KK)
    share_kk, names = share_KK[np.ix_(chosen, chosen)], [classes[k] for k in chosen]
    columns = names
    if len(chosen) < len(classes):
        rest_k = 100 - share_kk.sum(1)
        share_kk, columns = np.column_stack([share_kk, rest_k]), [*names, "other classes"]
    side = 0.38 * max(len(columns), 4)
    figure, axes = page(2.0 + side, 1.9 + 0.82 * side)
    _cells(axes, share_kk, colormaps["cividis"], lambda v: f"{v:.0f}" if v >= 0.5 else "", PowerNorm(0.5, 0, 100))
    axes.set_xticks(
        range(len(columns)), [*map(label, columns)], fontsize=TEXT_PT, rotation=40, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(names)), [*map(label, names)], fontsize=TEXT_PT)
    axes.set_xlabel("predicted as", fontsize=TEXT_PT)
    axes.set_ylabel("truth", fontsize=TEXT_PT)
    of_all = f", the {len(names)} most confused of {len(classes)} classes" if len(chosen) < len(classes) else ""
    axes.set_title(f"Confusions in % of the true pixels{of_all}", fontsize=TITLE_PT, loc="left")
    if (truth_K[chosen] == 0).any():
        figure.supxlabel("hatched: no such pixels in the truth", fontsize=SMALL_PT, color=GREY)
    return figure


def _most_confused(share_KK: npt.NDArray[np.float64]) -> list[int]:
    num_classes = len(share_KK)
    if num_classes <= MAX_CLASSES:
        return list(range(num_classes))
    wrong_KK = np.nan_to_num(share_KK, nan=-1.0)
    np.fill_diagonal(wrong_KK, -1.0)
    chosen: dict[int, None] = {}
    for pair in np.argsort(-wrong_KK, axis=None, kind="stable"):
        both = [int(k) for k in np.unravel_index(pair, wrong_KK.shape) if int(k) not in chosen]
        if len(chosen) + len(both) > MAX_CLASSES:
            break
        chosen |= dict.fromkeys(both)
    return sorted(chosen)


# ---- training


def curves(history: History) -> Figure:
    """The loss above the mIoU of evaluations, over optimiser steps; what is missing or not finite is left out."""
    loss_points = _finite(history.get(metric_names.TRAIN_LOSS, ()))
    scores = {name: _finite(history.get(metric, ())) for name, metric in _SCORES.items()}
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, name in ((above, metric_names.TRAIN_LOSS), (below, "mIoU on held-out images")):
        _plain(axes)
        axes.grid(color="#E5E5E5", lw=0.8)
        axes.set_title(name, fontsize=TEXT_PT, loc="left")
    if loss_points:
        steps, values = zip(*loss_points, strict=True)
        above.plot(steps, values, ".-" if len(values) < 3 else "-", color=SKY, lw=1.0, label="as logged")
        window = len(values) // 25
        if window > 1:
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            above.plot(steps[window - 1 :], smooth, color=BLUE, lw=2.0, label=f"mean of the last {window}")
            above.legend(fontsize=SMALL_PT, frameon=False)
    for (name, points), (colour, marker) in zip(scores.items(), SERIES, strict=False):
        if points:
            steps, values = zip(*points, strict=True)
            below.plot(
                steps, values, marker, ls="-", color=colour, ms=4.5, label=f"{name}: {values[-1]:.2f} at the end"
            )
            below.legend(fontsize=SMALL_PT, frameon=False, loc="lower right")
    highest = max((value for points in scores.values() for _, value in points), default=0.0)
    below.set_ylim(0, 1.1 * highest or 1.0)  # else the markers of the highest are cut
    below.set_xlabel("optimiser steps", fontsize=TEXT_PT)
    return figure


_SCORES = {"all images": metric_names.MIOU, "worst condition": metric_names.MIOU_WORST}


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return sorted((step, value) for step, value in points if math.isfinite(value))


# ---- what figures have in common


def as_png(figure: Figure, *, dpi: int) -> bytes:
    """Draws it once. `Figure.savefig` draws a figure that has a layout twice, the first time for the layout alone."""
    figure.set_dpi(dpi)
    figure.set_facecolor("white")
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:  # one for each sign that the font lacks
        warnings.simplefilter("always")
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    for each in caught:
        if "missing from" in str(each.message):
            _tell_of_missing_signs()
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return buffer.getvalue()


@functools.cache
def _tell_of_missing_signs() -> None:
    log.warning(
        "figures show a box for signs of names that matplotlib's font.family lacks; its fallbacks may have them"
    )


def page(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(min(width, 10.0), height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=SMALL_PT)
    axes.set_axisbelow(True)


def label(name: str, length: int = 28) -> str:
    """As plain text of bounded length: a $ would begin a formula."""
    short = name if len(name) <= length else f"{name[: length - 1]}…"
    return short.replace("$", r"\$")


def _whisker(axes: Axes, interval: Interval, y: float, colour: str) -> None:
    axes.plot([interval.low, interval.high], [y, y], "-|", color=colour, lw=1.6, ms=8, mew=1.6, zorder=3)


def _with_support(condition: str, table: Table) -> str:
    num_images = table["conditions"][condition]["num_images"]
    return f"{label(condition)} ({num_images} image{'' if num_images == 1 else 's'})"


def _axis_label(name: str, note: str, has_intervals: bool) -> str:
    parts = [
        f"{name}{' ' + note if note else ''}",
        "whiskers: 95 % interval (bootstrap over images)" if has_intervals else "",
    ]
    return "; ".join(part for part in parts if part)


def _cells(
    axes: Axes, values: npt.NDArray[np.float64], colours: Colormap, text: Callable[[float], str], norm: PowerNorm
) -> None:
    """A heat map with a number in each cell, light on dark and dark on light; NaN is hatched."""
    axes.imshow(values, cmap=colours, norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if math.isnan(value):
            place = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(place, 1, 1, facecolor="#DDDDDD", edgecolor="#9A9A9A", hatch="////", lw=0))
        elif shown := text(float(value)):
            red, green, blue, _ = colours(norm(value))
            ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.46 else "white"
            axes.text(column, row, shown, ha="center", va="center", fontsize=SMALL_PT, color=ink)
    axes.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.0)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
