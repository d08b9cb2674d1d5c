"""Which condition is the worst, by how much, and in which order conditions are shown: the one definition of all three.

Conditions are compared by the mean IoU over the classes that have truth in every condition; else a class that one of
them lacks would decide. A condition without any truth (all its pixels are void) takes no part. Where no class has truth
in all conditions, each is shown with the mean over its own classes, and none is called the best or the worst. A single
condition is compared with nothing: its score is its own mIoU, as `metrics` defines it. How many images a condition has
does not matter here: how sure a score is, is for `bootstrap` to say.

Tables, MLflow's metrics, intervals, figures and pages all take it from here. It needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Table = Mapping[str, Any]  # of `as_table`
Class = TypeVar("Class")


@dataclass(frozen=True, kw_only=True)
class ConditionRanking:
    """The conditions of an evaluation beside each other."""

    miou: dict[str, float]  # condition -> mIoU over `classes`, worst first; without the conditions that are all void
    classes: tuple[str, ...]  # that have truth in every condition; (): `miou` is over each one's own
    is_all: bool  # `miou` is the conditions' own mIoU: they have the same classes, or there is only one condition
    void: tuple[str, ...]  # conditions without truth

    @property
    def order(self) -> tuple[str, ...]:
        """All conditions as tables show them: worst first, those without truth last."""
        return (*self.miou, *self.void)

    @property
    def has_worst(self) -> bool:
        """Whether there is a worst condition. If there is only one condition, it is the worst."""
        return len(self.miou) == 1 or bool(self.miou and self.classes)

    @property
    def compares_several(self) -> bool:
        """Whether there are at least two conditions, of which one is the best and one the worst."""
        return self.has_worst and len(self.miou) > 1

    @property
    def worst(self) -> str | None:
        return next(iter(self.miou)) if self.has_worst else None

    @property
    def best(self) -> str | None:
        return next(reversed(self.miou)) if self.has_worst else None

    @property
    def miou_worst(self) -> float | None:
        return min(self.miou.values()) if self.has_worst else None

    @property
    def miou_gap(self) -> float | None:
        """Best minus worst condition."""
        return max(self.miou.values()) - min(self.miou.values()) if self.has_worst else None

    @property
    def note(self) -> str:
        """Over which classes `miou` is, where it is not the conditions' own mIoU; else nothing."""
        if self.is_all:
            return ""
        if not self.classes:
            return "over each condition's own classes, as none occurs in all: compare with care"
        if len(self.classes) == 1:
            return f"over the one class that occurs in every condition ({self.classes[0]})"
        return f"over the {len(self.classes)} classes that occur in every condition"


def rank_conditions(table: Table, others: Sequence[Table] = ()) -> ConditionRanking:
    """Of `table`'s conditions, over the classes that also have truth in every condition of the tables `others`."""
    entries = [(name, entry) for t in (table, *others) for name, entry in t["conditions"].items() if _has_truth(entry)]
    is_alone = len({name for name, _ in entries}) == 1
    shared = set() if is_alone else shared_classes(entry["support"] for _, entry in entries)
    # A class that is predicted where it has no truth has IoU 0 there. A condition's own mIoU counts it, this does not.
    found = {name for _, entry in entries for name, iou in entry["classes"].items() if iou is not None}
    classes = tuple(name for name in table["classes"] if name in shared)
    miou = worst_first({name: _mean_iou(entry, classes) for name, entry in table["conditions"].items()})
    void = tuple(name for name in table["conditions"] if name not in miou)
    return ConditionRanking(miou=miou, classes=classes, is_all=is_alone or shared == found, void=void)


def shared_classes(supports: Iterable[Mapping[Class, int]]) -> set[Class]:
    """The classes that have truth in every condition which has any. `supports`: class -> pixels, of each condition."""
    with_truth = [{name for name, num_pixels in support.items() if num_pixels} for support in supports]
    scored = [names for names in with_truth if names]
    return set.intersection(*scored) if scored else set()


def worst_first(miou: Mapping[str, float | None]) -> dict[str, float]:
    """In the order in which conditions are shown, without those of no score; equal ones by name."""
    scored = {name: value for name, value in miou.items() if value is not None}
    return dict(sorted(scored.items(), key=lambda item: (item[1], item[0])))


def weakest_class(entry: Table) -> tuple[str, float] | None:
    """The class of the lowest IoU in a table or in one condition of it; None if no pixel was counted."""
    known = {name: iou for name, iou in entry["classes"].items() if iou is not None}
    return min(known.items(), key=lambda item: item[1], default=None)


def _has_truth(entry: Table) -> bool:
    return any(entry["support"].values())


def _mean_iou(entry: Table, classes: Sequence[str]) -> float | None:
    if not _has_truth(entry):
        return None
    if not classes:
        return None if entry["mIoU"] is None else float(entry["mIoU"])
    return float(sum(entry["classes"][name] for name in classes) / len(classes))
