"""What an evaluation says, in words and plain numbers: which condition is worst, by how much, and is it sure.

A `table` is `inference.as_table`'s. Figures, pages and descriptions take ranks and losses from here, so that no two of
them disagree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distseg.evaluation import MIN_IMAGES, Interval, Intervals

Table = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The conditions of an evaluation beside each other."""

    miou: dict[str, float]  # condition -> mIoU over `classes`, worst first; without conditions that are all void
    classes: tuple[str, ...]  # that have truth in every condition; (): there are none, each is scored over its own
    is_all: bool  # whether that is every class that any condition has truth of: then it is the conditions' own mIoU

    @property
    def worst(self) -> str:
        return next(iter(self.miou))

    @property
    def best(self) -> str:
        return next(reversed(self.miou))

    @property
    def note(self) -> str:
        """What is to be said beside the numbers; mostly nothing."""
        if self.is_all:
            return ""
        if not self.classes:
            return "over each condition's own classes, as none occurs in all: compare with care"
        return f"over the {len(self.classes)} classes that occur in every condition"


def standing(table: Table, others: Sequence[Table] = ()) -> Standing:
    """Of `table`'s conditions, over the classes that also have truth in every condition of `others`."""
    entries = [entry for t in (table, *others) for entry in t["conditions"].values()]
    with_truth = [{name for name, pixels in entry["support"].items() if pixels} for entry in entries]
    shared = set.intersection(*with_truth)
    # A class predicted in a condition without its truth counts there as 0, so its own mIoU is not that of `shared`.
    defined = {name for entry in entries for name, iou in entry["classes"].items() if iou is not None}
    classes = tuple(name for name in table["classes"] if name in shared)
    scores = {name: _mean_iou(entry, classes) for name, entry in table["conditions"].items()}
    known = {name: value for name, value in scores.items() if value is not None}
    return Standing(
        miou=dict(sorted(known.items(), key=lambda item: item[1])), classes=classes, is_all=shared == defined
    )


def _mean_iou(entry: Table, classes: Sequence[str]) -> float | None:
    if not classes:
        return None if entry["mIoU"] is None else float(entry["mIoU"])
    return float(sum(entry["classes"][name] for name in classes) / len(classes))


def loss(best: float, value: float, digits: int = 2) -> float:
    """As a reader subtracts it from what is shown, so that the numbers of a line add up."""
    return round(round(best, digits) - round(value, digits), digits)


def signed(value: float, digits: int = 2) -> str:
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def span(interval: Interval, digits: int = 2) -> str:
    low, high = (f"{'−' if round(x, digits) < 0 else ''}{abs(x):.{digits}f}" for x in (interval.low, interval.high))
    return f"{low} to {high}"


def verdict(table: Table, intervals: Intervals | None = None, trained_on: Sequence[str] = ()) -> str:
    """One sentence: where it works, what it loses where, and whether chance could explain that."""
    s = standing(table)
    trained = f"Trained on {_listed(trained_on)}: " if trained_on else ""
    if not s.miou:
        return _sentence(f"{trained}nothing was scored: all pixels are void")
    if len(s.miou) == 1:
        pooled = intervals.pooled if intervals else None
        sure = f", 95 % interval {span(pooled)}" if pooled else ""
        return _sentence(
            f"{trained}scores mIoU {s.miou[s.best]:.2f} on {table['num_images']} images (condition: {s.best}){sure}"
        )
    lost = loss(s.miou[s.best], s.miou[s.worst])
    if not lost:
        return _sentence(f"{trained}works alike at all {len(s.miou)} conditions (mIoU {s.miou[s.worst]:.2f})")
    return _sentence(
        f"{trained}works best at {s.best} (mIoU {s.miou[s.best]:.2f}) and loses {lost:.2f} at {s.worst} "
        f"({s.miou[s.worst]:.2f}, the worst of {len(s.miou)} conditions); {_how_sure(intervals)}"
    )


def _how_sure(intervals: Intervals | None) -> str:
    if intervals is None:
        return "whether chance explains the loss is unknown, since single images were not kept"
    if intervals.gap is None:
        return f"too few images to tell whether chance explains the loss (at least {MIN_IMAGES} per condition)"
    if intervals.gap.excludes_0:
        return f"the loss is real, not chance (95 % interval {span(intervals.gap)})"
    return f"chance could explain the loss (95 % interval {span(intervals.gap)})"


def remarks(table: Table, intervals: Intervals | None = None) -> list[str]:
    """What follows the verdict, a sentence each: the averages, the rivals of the worst condition, the classes lost."""
    s = standing(table)
    found = []
    if len(s.miou) > 1:
        of_all = table["mIoU_mean_conditions"]
        found.append(
            f"Mean of the conditions {of_all:.2f}, all {table['num_images']} images together {table['mIoU']:.2f}."
        )
    if s.note and len(s.miou) > 1:
        found.append(f"Conditions are compared {s.note}.")
    shares = sorted((intervals.worst_share if intervals else {}).items(), key=lambda item: -item[1])
    if shares and shares[0][1] < 0.95:
        named = [f"{name} in {share:.0%}" for name, share in shares if share >= 0.05]
        found.append(f"Which condition is the worst is not sure: among resampled images it is {_listed(named)}.")
    if lost := lost_classes(table):
        found.append(
            f"At {s.worst}, against {s.best}, most is lost in {_listed([f'{n} ({signed(-x)})' for n, x in lost])}."
        )
    return found


def lost_classes(table: Table, count: int = 3) -> list[tuple[str, float]]:
    """(class, IoU lost from the best to the worst condition), greatest first; only real losses."""
    s = standing(table)
    if len(s.miou) < 2:
        return []
    best, worst = (table["conditions"][name]["classes"] for name in (s.best, s.worst))
    lost = [(name, loss(best[name], worst[name])) for name in s.classes]
    return [item for item in sorted(lost, key=lambda item: -item[1])[:count] if item[1] > 0]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
