"""What an evaluation says, in words and rounded numbers: which condition is the worst, by how much, and is it sure.

A `table` is that of `evaluation.as_table`.
"""

from collections.abc import Sequence

from distseg.evaluation import MIN_IMAGES, Intervals, Table, rank_conditions
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
    worst, best = next(iter(ranking.miou)), next(reversed(ranking.miou))
    low, high, num_conditions = ranking.miou[worst], ranking.miou[best], len(ranking.miou)
    if num_conditions == 1:
        pooled = intervals.pooled if intervals else None
        sure = f", 95 % interval {span(pooled)}" if pooled else ""
        return f"scores mIoU {high:.2f} on {table['num_images']} images (condition: {best}){sure}"
    if not ranking.is_compared:
        return (
            f"scores mIoU {low:.2f} to {high:.2f} at {num_conditions} conditions; none can be called the worst, "
            "as no class occurs in all"
        )
    lost = loss(high, low)
    if not lost:
        return f"works alike at all {num_conditions} conditions (mIoU {low:.2f})"
    return (
        f"works best at {best} (mIoU {high:.2f}) and loses {lost:.2f} at {worst} "
        f"({low:.2f}, the worst of {num_conditions} conditions); {_how_sure(intervals)}"
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
    shares = sorted((intervals.worst_share if intervals else {}).items(), key=lambda item: -item[1])
    if shares and shares[0][1] < 0.95:
        named = [f"{name} in {share:.0%}" for name, share in shares if share >= 0.05]
        found.append(f"Which condition is the worst is not sure: among resampled images it is {listed(named)}.")
    if lost := lost_classes(table):
        classes = listed([f"{name} ({signed(-iou)})" for name, iou in lost])
        found.append(f"At {ranking.worst}, against {ranking.best}, most is lost in {classes}.")
    return found


def lost_classes(table: Table, count: int = 3) -> list[tuple[str, float]]:
    """(class, IoU lost from the best to the worst condition), greatest first; only real losses."""
    ranking = rank_conditions(table)
    if not ranking.is_compared:
        return []
    best, worst = (table["conditions"][name]["classes"] for name in (ranking.best, ranking.worst))
    lost = [(name, loss(best[name], worst[name])) for name in ranking.classes]
    return [item for item in sorted(lost, key=lambda item: -item[1])[:count] if item[1] > 0]
