"""What an evaluation says, in words and rounded numbers: which condition is the worst, by how much, and is it sure.

A `table` is that of `evaluation.as_table`.
"""

from collections.abc import Iterable, Mapping, Sequence

from distseg.evaluation import MIN_UNITS, ConditionRanking, Intervals, Table, rank_conditions
from distseg.review.text import listed, loss, signed, span


def summary(table: Table, intervals: Intervals | None = None, trained_on: Sequence[str] = ()) -> str:
    """One sentence: where it works, what it loses where, and whether chance could explain that."""
    trained = f"Trained on {listed(trained_on)}: " if trained_on else ""
    text = f"{trained}{_finding(table, intervals)}."
    return f"{text[:1].upper()}{text[1:]}"


def _finding(table: Table, intervals: Intervals | None) -> str:
    ranking = rank_conditions(table)
    if not ranking.miou:
        return "nothing was scored: all pixels are void"
    worst, best = next(iter(ranking.miou)), next(reversed(ranking.miou))  # of the lowest and the highest score
    low, high, num_conditions = ranking.miou[worst], ranking.miou[best], len(ranking.miou)
    if num_conditions == 1:
        pooled = intervals.pooled if intervals else None
        sure = f", 95 % interval {span(pooled)}" if pooled else ""
        num_images = table["conditions"][best]["num_images"]
        images = f"{num_images} image{'' if num_images == 1 else 's'}"
        return f"scores mIoU {high:.2f} on {images} (condition: {best}){sure}"
    if not ranking.compares_several:
        return (
            f"scores mIoU {low:.2f} to {high:.2f} at {num_conditions} conditions; none can be called the worst, "
            "as no class occurs in all"
        )
    lost = loss(high, low)
    if not lost:
        return f"scores mIoU {low:.2f} at each of {num_conditions} conditions"
    return (
        f"works best at {best} (mIoU {high:.2f}) and loses {lost:.2f} at {worst} "
        f"({low:.2f}, the worst of {num_conditions} conditions); {_how_sure(ranking, intervals)}"
    )


def _how_sure(ranking: ConditionRanking, intervals: Intervals | None) -> str:
    if intervals is None:
        return "whether chance explains the loss is unknown, since single images were not kept"
    if intervals.gap is None:
        few = [name for name in (ranking.worst, ranking.best) if name in intervals.too_few]
        return f"whether chance explains the loss is unknown ({shortage(intervals.too_few, few)})"
    if intervals.gap.excludes_0:
        return f"the loss is real, not chance (95 % interval {span(intervals.gap)})"
    return f"chance could explain the loss (95 % interval {span(intervals.gap)})"


def remarks(table: Table, intervals: Intervals | None = None) -> list[str]:
    """What follows the summary, a sentence each: the averages, the rivals of the worst condition, the classes lost."""
    ranking = rank_conditions(table)
    found = []
    if len(ranking.miou) > 1:
        of_all = table["mIoU_mean_conditions"]
        found.append(
            f"Mean of the conditions {of_all:.2f}, all {table['num_images']} images together {table['mIoU']:.2f}."
        )
    if ranking.note and len(ranking.miou) > 1:
        found.append(f"Conditions are compared {ranking.note}.")
    if ranking.void and ranking.miou:
        found.append(f"Left out, since all pixels there are void: {listed(ranking.void)}.")
    if intervals and intervals.gap and intervals.gap.excludes_0 and intervals.rivals:
        found.append(
            "Which condition is the worst is not sure: "
            f"{ranking.worst} cannot be told apart from {listed(intervals.rivals)}."
        )
    if lost := lost_classes(table):
        classes = listed([f"{name} ({signed(-iou)})" for name, iou in lost])
        found.append(f"At {ranking.worst}, against {ranking.best}, most is lost in {classes}.")
    return found


def shortage(too_few: Mapping[str, str], names: Iterable[str]) -> str:
    """Why nothing is said of these conditions: 'fog and night: 5 images, 8 needed'."""
    by_number: dict[str, list[str]] = {}
    for name in names:
        by_number.setdefault(too_few[name], []).append(name)
    return "; ".join(f"{listed(found)}: {number}, {MIN_UNITS} needed" for number, found in by_number.items())


def lost_classes(table: Table, count: int = 3) -> list[tuple[str, float]]:
    """(class, IoU lost from the best to the worst condition), greatest first; gains are left out."""
    ranking = rank_conditions(table)
    if not ranking.compares_several:
        return []
    best, worst = (table["conditions"][name]["classes"] for name in (ranking.best, ranking.worst))
    lost = [(name, loss(best[name], worst[name])) for name in ranking.classes]
    return [item for item in sorted(lost, key=lambda item: -item[1])[:count] if item[1] > 0]
