"""A run, or several beside each other, for a person to read: Markdown and single HTML files.

    run_markdown      the description of an MLflow run, its summary in the first line
    run_page          report/index.html
    model_card        what a registered model is good for, and what not

An HTML page is one file that needs nothing else: style inline, pictures as data: URIs, no script and no link to
elsewhere. It follows the reader's light or dark setting, prints, and escapes whatever comes from outside.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from distseg.evaluation import (
    ConditionRanking,
    ImageCounts,
    Intervals,
    Overlay,
    Table,
    bootstrap_intervals,
    metrics_in,
    rank_conditions,
    weakest_class,
)
from distseg.review.gallery import images_of_run
from distseg.review.markup import document, html_table, markdown_table, md, p, picture, section
from distseg.review.summary import loss, remarks, signed, span, summary

if TYPE_CHECKING:
    from distseg.review import figures

ABSENT = "–"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """None: not recorded."""

    device: str = ""  # as "2 x NVIDIA H100" or "2 CPU cores"
    wall_hours: float | None = None
    gpu_hours: float | None = None
    cpu_hours: float | None = None  # of all cores reserved
    images_per_s: float | None = None  # of all ranks
    data_wait_fraction: float | None = None  # of the time that ranks wait for data

    def rows(self) -> list[tuple[str, str]]:
        def shown(value: float | None, form: str) -> str:
            return "not recorded" if value is None else form.format(value)

        return [
            ("device", self.device or "not recorded"),
            ("duration, hours", shown(self.wall_hours, "{:.2f}")),
            ("GPU hours", shown(self.gpu_hours, "{:.2f}")),
            ("CPU core hours", shown(self.cpu_hours, "{:.2f}")),
            ("training images/s", shown(self.images_per_s, "{:.1f}")),
            ("time spent waiting for data", shown(self.data_wait_fraction, "{:.1%}")),
        ]

    def brief(self) -> str:
        hours = ((self.gpu_hours, "GPU hours"), (self.cpu_hours, "CPU core hours"), (self.wall_hours, "hours"))
        return next((f"{value:.2f} {unit}" for value, unit in hours if value), "not recorded")


@dataclass(frozen=True, kw_only=True)
class RunReview:
    """What a review shows of a run. Only the table is needed; what else is missing is said or left out."""

    name: str
    table: Table  # inference.as_table
    run: str = ""  # its name in full, where `name` is a shorter one
    config: Mapping[str, Any] = field(default_factory=dict)  # config.to_dict
    dataset: str = ""  # manifest.dataset
    data_digest: str = ""
    code_version: str = ""
    cost: Cost = field(default_factory=Cost)
    history: "figures.History" = field(default_factory=dict)
    images: ImageCounts | None = None  # for intervals, and for comparing runs image by image
    matrix_KK: npt.ArrayLike | None = None  # int64: the pooled confusion matrix
    palette: Sequence[tuple[int, int, int]] = ()  # of the table's classes, as the panels have them
    overlays: Sequence[Overlay] = ()  # pictures of single images

    @property
    def trained_on(self) -> list[str]:
        """Conditions; [] for all, or unknown."""
        return list(self.config.get("data", {}).get("train_conditions", ()))

    @cached_property
    def intervals(self) -> Intervals | None:
        return bootstrap_intervals(self.images) if self.images is not None else None


# ---- one run


def run_markdown(review: RunReview, *, figure_url: str = "", links: Mapping[str, str] | None = None) -> str:
    """`figure_url`: of the conditions plot, as `get-artifact?path=plots/condition_miou.png&run_uuid=ID`;
    `links`: text -> URL."""
    intervals = review.intervals
    parts = [
        md(summary(review.table, intervals, review.trained_on)),
        md(" ".join(remarks(review.table, intervals))),
        f"![mIoU per condition]({figure_url})" if figure_url else "",
        markdown_table(*_conditions(review, intervals)),
        md(f"Cost: {review.cost.brief()}. Data: {_data(review)}. Code: {review.code_version or 'unknown'}."),
        " · ".join(f"[{md(text)}]({url})" for text, url in (links or {}).items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def run_page(review: RunReview) -> str:
    from distseg.review import figures  # here, as it takes half a second that every process of a training would pay

    intervals = review.intervals
    ranking = rank_conditions(review.table)
    known = intervals.conditions if intervals else None
    classes = list(review.table["classes"])
    sections = [
        section(
            "Conditions",
            picture(figures.condition_bars(review.table, known), "bar chart: mIoU of each condition, worst first"),
            html_table(*_conditions(review, intervals), strong=(0,) if len(ranking.miou) > 1 else ()),
        ),
        section(
            "Classes",
            picture(figures.condition_by_class(review.table), "heat map: IoU of each class at each condition"),
        ),
        section(
            "Confusions",
            picture(figures.confusion(review.matrix_KK, classes), "heat map: what each class was taken for"),
        )
        if review.matrix_KK is not None
        else "",
        section("Training", picture(figures.curves(review.history), "curves: training loss; mIoU of evaluations"))
        if any(review.history.values())
        else "",
        section("Cost", html_table(("", ""), review.cost.rows())),
        images_of_run(review.overlays, ranking.miou, classes, review.palette),
        section("Data and code", html_table(("", ""), provenance(review)), _config(review)),
        section("How to read this", *(p(text) for text in METHOD)),
    ]
    answers = _answers(review, ranking, intervals)
    text = summary(review.table, intervals, review.trained_on)
    return document(review.name, text, [*remarks(review.table, intervals)], answers, sections)


def _answers(review: RunReview, ranking: ConditionRanking, intervals: Intervals | None) -> list[tuple[str, str]]:
    """What a reader asks first."""
    if ranking.best is None or ranking.worst is None or len(ranking.miou) < 2:
        (score,) = ranking.miou.values() if len(ranking.miou) == 1 else (review.table["mIoU"],)
        return [("mIoU", number(score, 2)), ("Images", str(review.table["num_images"])), ("Cost", review.cost.brief())]
    best, worst = ranking.miou[ranking.best], ranking.miou[ranking.worst]
    gap = intervals.gap if intervals else None
    sure = "unknown" if gap is None else f"{'yes' if gap.excludes_0 else 'no'}: {span(gap)} (95 %)"
    return [
        ("Worst condition", f"{ranking.worst}: {worst:.2f}"),
        ("Loss against the best", f"{loss(best, worst):.2f} ({ranking.best}: {best:.2f})"),
        ("Is the loss sure?", sure),
        ("Cost", review.cost.brief()),
    ]


_Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header, rows


def _conditions(review: RunReview, intervals: Intervals | None) -> _Rows:
    """Conditions, worst first, with all that is known of each, and a row for all images."""
    ranking = rank_conditions(review.table)
    own = () if ranking.is_all else ("mIoU over its own classes",)
    added = metrics_in("report")
    header = ("condition", "images", "mIoU", "95 % interval", "to best", *own, *added)
    header = (*header, "weakest class", "labels in training")

    def row(name: str, entry: Table, miou: float | None, to_best: str, own: str, labelled: str) -> tuple[str, ...]:
        known = intervals and (intervals.pooled if entry is review.table else intervals.conditions.get(name))
        first = (name, str(entry["num_images"]), number(miou), span(known, 3) if known else ABSENT, to_best)
        others = (*(() if ranking.is_all else (own,)), *(number(entry.get(metric)) for metric in added))
        return (*first, *others, _weakest(entry), labelled)

    rows = []
    for name, miou in ranking.miou.items():
        entry = review.table["conditions"][name]
        labelled = "yes" if not review.trained_on or name in review.trained_on else "no"
        to_best = "best" if name == ranking.best else ABSENT
        if ranking.best is not None and name != ranking.best:
            to_best = signed(-loss(ranking.miou[ranking.best], miou, 3), 3)
        rows.append(row(name, entry, miou, to_best, number(entry["mIoU"]), labelled if review.config else "unknown"))
    rows.append(row("all images together", review.table, review.table["mIoU"], "", "", ""))
    return header, rows


def number(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _weakest(entry: Table) -> str:
    found = weakest_class(entry)
    return f"{found[0]} ({found[1]:.2f})" if found else ABSENT


def _data(review: RunReview) -> str:
    of = f" {review.data_digest[:12]}" if review.data_digest else ""
    return f"{review.dataset or 'unnamed'}{of}, {review.table['num_images']} images evaluated"


def provenance(review: RunReview) -> list[tuple[str, str]]:
    data = review.config.get("data", {})
    return [
        ("run", review.run or review.name),
        ("data set", review.dataset or "unknown"),
        ("data digest", review.data_digest or "unknown"),
        ("where", str(data.get("uri") or "unknown")),
        ("trained on", f"{data.get('train_split', 'unknown')}: {', '.join(review.trained_on) or 'all its conditions'}"),
        ("sites evaluated", ", ".join(review.table.get("sites", {})) or "unknown"),
        ("code version", review.code_version or "unknown"),
    ]


def _config(review: RunReview) -> str:
    if not review.config:
        return ""
    text = json.dumps(review.config, indent=2, default=str)
    return f"<details><summary>The whole configuration</summary><pre>{escape(text)}</pre></details>"


METHOD = (
    "mIoU is the mean over classes of intersection over union, from one confusion matrix of all pixels of a condition; "
    "1 is perfect. Void pixels are not counted. A class that is in neither truth nor prediction is left out.",
    "The 95 % intervals are percentile bootstraps (Efron & Tibshirani 1993): the images of a condition are drawn with "
    "replacement 1000 times. They say how much the choice of test images matters. They do not cover another seed of "
    "the training, and are too narrow where images resemble each other, as frames of one drive do.",
)


# ---- a model


def model_card(review: RunReview) -> str:
    """Markdown: what the model was trained on, what it scores where, and what must not be expected of it."""
    intervals = review.intervals
    ranking = rank_conditions(review.table)
    model, data = review.config.get("model", {}), review.config.get("data", {})
    facts = [
        ("network", " on ".join(str(model[name]) for name in ("name", "backbone") if model.get(name)) or "unknown"),
        ("input", "uint8 RGB images of any size"),
        (
            "output",
            f"a class id per pixel: {', '.join(f'{k} {name}' for k, name in enumerate(review.table['classes']))}",
        ),
        *provenance(review),
        (
            "evaluated on",
            f"{data.get('val_split', 'unknown')}: {review.table['num_images']} images of {', '.join(ranking.miou)}",
        ),
        ("cost of training", review.cost.brief()),
    ]
    parts = [
        f"# {md(review.name)}",
        md(" ".join([summary(review.table, intervals, review.trained_on), *remarks(review.table, intervals)])),
        "## Data and network",
        markdown_table(("", ""), facts),
        "## mIoU per condition",
        markdown_table(*_conditions(review, intervals)),
        "## Limits",
        "\n".join(f"- {md(limit)}" for limit in _limits(review, ranking)),
    ]
    return "\n\n".join(parts) + "\n"


def _limits(review: RunReview, ranking: ConditionRanking) -> list[str]:
    weak = [name for name, iou in review.table["classes"].items() if iou is not None and iou < 0.3]
    unknown = [name for name, iou in review.table["classes"].items() if iou is None]
    unlabelled = [name for name in ranking.miou if review.trained_on and name not in review.trained_on]
    said = [
        f"Scores hold for images like these ({_data(review)}); other cameras, places and weather were not tested.",
        f"Trained without labels of {', '.join(unlabelled)}." if unlabelled else "",
        f"Found badly (IoU below 0.3): {', '.join(weak)}." if weak else "",
        f"Neither in the evaluated images nor predicted, so untested: {', '.join(unknown)}." if unknown else "",
        "Every pixel gets a class: what belongs to none of them (void) gets a wrong one, and no confidence is told.",
        "The intervals cover the choice of test images, not another seed of the training.",
        "Made for comparing networks; not tested for use in a vehicle.",
    ]
    return [text for text in said if text]
