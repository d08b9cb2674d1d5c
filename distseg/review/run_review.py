"""What a review shows of one run, and the rows that its page, its description and its model card have alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

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
from distseg.review.text import ABSENT, loss, number, signed, span

if TYPE_CHECKING:
    import numpy.typing as npt

    from distseg.review.figures import History

# Files of a run that others ask for, by their names in MLflow; the page has the same below the run's directory.
CONDITIONS_PLOT = "plots/condition_miou.png"
MODEL_CARD = "report/model_card.md"
RUN_PAGE = "report/index.html"


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
        def shown(value: float | None, form: Callable[[float], str]) -> str:
            return "not recorded" if value is None else form(value)

        return [
            ("device", self.device or "not recorded"),
            ("duration, hours", shown(self.wall_hours, _hours)),
            ("GPU hours", shown(self.gpu_hours, _hours)),
            ("CPU core hours", shown(self.cpu_hours, _hours)),
            ("training images/s", shown(self.images_per_s, "{:.1f}".format)),
            ("time spent waiting for data", shown(self.data_wait_fraction, "{:.1%}".format)),
        ]

    @property
    def hours(self) -> tuple[float, str] | None:
        """Those that a reader is told first, and what they are of."""
        known = ((self.gpu_hours, "GPU hours"), (self.cpu_hours, "CPU core hours"), (self.wall_hours, "hours"))
        return next(((value, unit) for value, unit in known if value), None)

    def brief(self) -> str:
        return f"{_hours(self.hours[0])} {self.hours[1]}" if self.hours else "not recorded"


def _hours(value: float) -> str:
    """Two digits also of minutes: 0.073 and 0.077, not 0.07 and 0.08."""
    return f"{value:.2f}" if value == 0 or value >= 0.1 else f"{value:.2g}"


@dataclass(frozen=True, kw_only=True)
class RunReview:
    """Only the table is needed; what else is missing is said on the page, or left out."""

    name: str
    table: Table  # evaluation.as_table
    run: str = ""  # its name in full, where `name` is a shorter one
    config: Mapping[str, Any] = field(default_factory=dict)  # config.to_dict
    dataset: str = ""  # manifest.dataset
    data_digest: str = ""
    code_version: str = ""
    cost: Cost = field(default_factory=Cost)
    history: "History" = field(default_factory=dict)
    images: ImageCounts | None = None  # for intervals, and for comparing runs image by image
    matrix_KK: "npt.ArrayLike | None" = None  # int64: the pooled confusion matrix
    palette: Sequence[tuple[int, int, int]] = ()  # of the table's classes, as the panels have them
    overlays: Sequence[Overlay] = ()  # pictures of single images

    @property
    def trained_on(self) -> list[str]:
        """The conditions with labels in training; [] for all that are evaluated, or unknown."""
        named = list(self.config.get("data", {}).get("train_conditions", ()))
        had = list(self.table.get("trained_on", ()))  # unknown of runs of earlier versions
        return named or ([] if set(self.table["conditions"]) <= set(had) else had)

    def had_labels(self, condition: str) -> bool | None:
        """Whether there were labels of it in training; None: not known."""
        if self.trained_on:
            return condition in self.trained_on
        return True if "trained_on" in self.table else None

    @cached_property
    def ranking(self) -> ConditionRanking:
        return rank_conditions(self.table)

    @cached_property
    def intervals(self) -> Intervals | None:
        return bootstrap_intervals(self.images) if self.images is not None else None


def condition_rows(review: RunReview) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: conditions, worst first, with all that is known of each, and a row for all images.

    Columns in which nothing would stand are left out: intervals if there are none, distances to the best of one.
    """
    ranking, intervals = review.ranking, review.intervals
    has_own = bool(ranking.classes) and not ranking.is_all  # beside the mIoU by which conditions are compared
    compared = f"mIoU over {len(ranking.classes)} shared classes" if has_own else "mIoU"
    own = ("mIoU over its own classes",) if has_own else ()
    metrics = metrics_in("report", review.table)
    has_intervals = intervals is not None and bool(intervals.pooled or any(intervals.conditions.values()))
    between = (*(("95 % interval",) if has_intervals else ()), *(("to best",) if ranking.compares_several else ()))
    header = ("condition", "images", compared, *between, *own, *metrics)

    def row(name: str, entry: Table, miou: float | None, to_best: str, labelled: str) -> tuple[str, ...]:
        is_all_images = entry is review.table
        known = intervals and (intervals.pooled if is_all_images else intervals.conditions.get(name))
        if is_all_images and has_own:  # of all images, it is over all classes
            miou = known = None
        interval = (span(known, 3) if known else ABSENT,) if has_intervals else ()
        distance = (to_best,) if ranking.compares_several else ()
        first = (name, str(entry["num_images"]), number(miou), *interval, *distance)
        others = (*((number(entry["mIoU"]),) if has_own else ()), *(number(entry.get(metric)) for metric in metrics))
        weakest = weakest_class(entry)
        return (*first, *others, f"{weakest[0]} ({weakest[1]:.2f})" if weakest else ABSENT, labelled)

    rows = []
    for name, miou in ranking.miou.items():
        entry = review.table["conditions"][name]
        labelled = {True: "yes", False: "no", None: "unknown"}[review.had_labels(name)]
        rows.append(row(name, entry, miou, _to_best(ranking, name), labelled))
    rows.append(row("all images together", review.table, review.table["mIoU"], "", ""))
    return (*header, "weakest class", "labels in training"), rows


def _to_best(ranking: ConditionRanking, name: str) -> str:
    if ranking.best is None:
        return ABSENT
    return "best" if name == ranking.best else signed(-loss(ranking.miou[ranking.best], ranking.miou[name], 3), 3)


def data_line(review: RunReview) -> str:
    digest = f" {review.data_digest[:12]}" if review.data_digest else ""
    return f"{review.dataset or 'unnamed'}{digest}, {review.table['num_images']} images evaluated"


def provenance(review: RunReview, *, num_digits: int = 64) -> list[tuple[str, str]]:
    """What a run was made of. `num_digits`: of the digest of its data; 12 tell data sets apart."""
    data = review.config.get("data", {})
    return [
        ("run", review.run or review.name),
        ("data set", review.dataset or "unknown"),
        ("data digest", review.data_digest[:num_digits] or "unknown"),
        ("where", str(data.get("uri") or "unknown")),
        ("trained on", f"{data.get('train_split', 'unknown')}: {', '.join(review.trained_on) or 'all its conditions'}"),
        ("step of the scores", _step_of(review)),
        ("sites evaluated", ", ".join(review.table.get("sites", {})) or "unknown"),
        ("code version", review.code_version or "unknown"),
    ]


def _step_of(review: RunReview) -> str:
    """The best checkpoint need not be the last one, which is what the curves and MLflow's metrics end with."""
    max_steps = review.config.get("optim", {}).get("max_steps")
    return f"{review.table.get('step', 'unknown')}{f' of {max_steps}' if max_steps else ''}"
