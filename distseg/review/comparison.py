"""Runs beside each other on one HTML page: which is better where, is the gain real, what did it cost.

What is said of differences rests on the tests of `tested_runs`, which hold for all runs and conditions together.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distseg.evaluation import Interval
from distseg.review.html import HtmlTable, picture, render
from distseg.review.images.gallery import images_compared
from distseg.review.images.viewer import Look, viewer
from distseg.review.published import published_beside
from distseg.review.recipes import Recipes, fields_of
from distseg.review.run_review import RunReview, provenance
from distseg.review.tested_runs import Comparison, told_apart
from distseg.review.text import ABSENT, listed, loss, number, signed, span
from distseg.review.trust import believed, next_steps, trust_compared

_NOTE = (
    "Images that every run has kept: some were chosen by their names alone, others are among the worst of each run. "
    "The IoU of one image weights its classes by their pixels, so it is mostly higher than mIoU."
)
_REAL, _CHANCE, _UNTESTED = "yes", "may be chance", "not tested"


def comparison_page(runs: Sequence[RunReview]) -> str:
    """Every run against the first. Differences are tested image by image where both have counts of the same images."""
    from distseg.review import figures  # here, as matplotlib takes half a second to import

    if len(runs) < 2:
        raise ValueError(f"{len(runs)} runs: a comparison needs at least two")
    compared = Comparison(runs)
    best, recipes = _best_runs(compared), Recipes(compared)
    num_drawn = min(len(runs), len(figures.SERIES))  # those that can be told apart
    drawn = figures.runs_by_condition(
        {name: ranking.miou for name, ranking in list(zip(compared.names, compared.rankings, strict=True))[:num_drawn]},
        {compared.names[k]: found.conditions for k in range(num_drawn) if (found := compared.intervals(k))},
    )
    miou, classes, palette = compared.rankings[0].miou, list(runs[0].table["classes"]), runs[0].palette
    looks = {name: Look(run.overlays, run.images) for name, run in zip(compared.names, runs, strict=True)}
    note = f"{_NOTE} The numbers below each are of {' | '.join(compared.names)}."
    seen = viewer(looks, classes, palette, title="The same images, run by run", note=note, miou=miou)
    best_run = max(range(len(runs)), key=lambda k: runs[k].table["mIoU"] or 0.0)
    hardest = compared.rankings[best_run].worst if compared.rankings[best_run].compares_several else None
    return render(
        "comparison.html.j2",
        title=f"{len(runs)} runs compared",
        lead=recipes.summary() if recipes.has_seeds else _summary(best),
        recipes=recipes.table() if recipes.has_seeds else None,
        first_recipe=recipes.recipes[0].name,
        sentences=_notes(compared, best),
        answers=_answers(compared, ", real on these images" if recipes.has_seeds else ", a real lead"),
        best=_best_table(best),
        first=compared.names[0],
        against=[_against(compared, k) for k in range(1, len(runs))],
        runs_by_condition=picture(drawn, "dot plot: mIoU of each run at each condition"),
        num_drawn=num_drawn,
        num_runs=len(runs),
        scores=_scores(compared),
        classes=_classes(compared, best_run, hardest),
        num_classes=len(classes),
        hardest=hardest,
        viewer=seen,
        images=None
        if seen
        else images_compared({name: look.overlays for name, look in looks.items()}, miou, classes, palette),
        trust=trust_compared(compared.names, runs),
        believed=believed(compared.names, runs),
        next_steps=next_steps(runs[best_run]),
        next_of=compared.names[best_run],
        differing=_differing(compared),
        cost=_by_run(compared, [run.cost.rows() for run in runs]),
        provenance=_by_run(compared, [provenance(run, num_digits=12) for run in runs]),
        published=published_beside(compared.names, runs),
    )


def iou_csv(runs: Sequence[RunReview]) -> str:
    """A line for each run, condition and class: its IoU, empty where undefined, and how many pixels have this truth."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("run", "condition", "class", "iou", "pixels"))
    for run_name, run in zip(told_apart([run.name for run in runs]), runs, strict=True):
        for condition, entry in {"all images": run.table, **run.table["conditions"]}.items():
            pixels = entry.get("support", {})  # runs of early versions have none
            for name, iou in entry["classes"].items():
                rows.writerow((run_name, condition, name, "" if iou is None else iou, pixels.get(name, "")))
    return text.getvalue()


# ---- what a reader asks first


@dataclass(frozen=True)
class _Best:
    """The run of the highest mIoU at a condition."""

    condition: str
    run: str
    miou: float
    ahead: str  # by how much, and of whom
    verdict: str  # _REAL, _CHANCE or _UNTESTED
    why: str  # runs that may be as good, or what the test lacks


def _best_runs(compared: Comparison) -> list[_Best]:
    """Of each condition that several runs have scores of, the first run's worst one first."""
    found = []
    for condition in compared.conditions:
        miou = {k: r.miou[condition] for k, r in enumerate(compared.rankings) if condition in r.miou}
        if len(miou) < 2:
            continue
        first, *others = sorted(miou, key=lambda k: -miou[k])
        intervals = {k: compared.tested(first, condition, k) for k in others}
        interval = intervals[others[0]]
        ahead = signed(loss(miou[first], miou[others[0]], 3), 3) + (f" ({span(interval, 3)})" if interval else "")
        ahead += f"\nof {compared.names[others[0]]}" if len(compared.runs) > 2 else ""
        verdict, why = _lead(intervals.values()), ""
        if verdict == _CHANCE:
            rivals = [compared.names[k] for k, i in intervals.items() if i is not None and i.low <= 0]
            why = f"cannot be told apart from {', '.join(rivals)}"
        elif verdict == _UNTESTED:
            untested = next(k for k, i in intervals.items() if i is None)
            why = compared.why_untested(first, condition, untested)
        found.append(_Best(condition, compared.names[first], miou[first], ahead, verdict, why))
    return found


def _lead(intervals: Iterable[Interval | None]) -> str:
    """Of a run before others, by its differences to them."""
    found = list(intervals)
    if any(interval is not None and interval.low <= 0 for interval in found):
        return _CHANCE
    return _UNTESTED if None in found else _REAL


def _summary(best: Sequence[_Best]) -> str:
    """Which run leads where; only real leads count. What is not tested is said here, with the reason, and only here."""
    leads: dict[str, list[str]] = {}
    untested: dict[str, list[str]] = {}
    for b in best:
        if b.verdict == _REAL:
            leads.setdefault(b.run, []).append(b.condition)
        elif b.verdict == _UNTESTED:
            untested.setdefault(b.why, []).append(b.condition)
    chance = [b.condition for b in best if b.verdict == _CHANCE]
    by_number = sorted(leads.items(), key=lambda item: -len(item[1]))
    parts = [f"{run} is best at {listed(conditions)}" for run, conditions in by_number]
    parts += [f"at {listed(chance)} no run leads by more than the choice of test images explains"] if chance else []
    parts += [f"not tested at {listed(conditions)}: {why}" for why, conditions in untested.items()]
    if not parts:
        return "They have no condition in common."
    text = "; ".join(parts)
    return f"{text if leads else text[0].upper() + text[1:]}."


def _notes(compared: Comparison, best: Sequence[_Best]) -> list[str]:
    """What the summary leaves open: pairs that cannot be tested, and over which classes conditions are compared."""
    said = {b.why for b in best}
    pairs = {k: compared.pair(k) for k in range(1, len(compared.runs))}
    why = {k: pair for k, pair in pairs.items() if isinstance(pair, str) and pair not in said}
    notes = [f"Differences of {compared.names[k]} are not tested: {reason}." for k, reason in why.items()]
    if any(not isinstance(pair, str) and pair.too_few and pair.pooled is None for pair in pairs.values()):
        notes.append("So neither are the differences of all images together and of the worst conditions.")
    notes += [f"Conditions are compared {ranking.note}." for ranking in compared.rankings if ranking.note]
    return list(dict.fromkeys(notes))


def _answers(compared: Comparison, real: str) -> list[tuple[str, str]]:
    """`real`: what is said of a real lead of one training."""

    def leader(scores: Sequence[float | None], of: str) -> str:
        known = {k: score for k, score in enumerate(scores) if score is not None}
        if not known:
            return ABSENT
        best = max(known, key=known.__getitem__)
        pairs = [compared.pair(best, k) for k in known if k != best]
        verdict = _lead(None if isinstance(pair, str) else getattr(pair, of) for pair in pairs)
        lead = {_REAL: real, _CHANCE: ", a lead that may be chance"}.get(verdict if pairs else "", "")
        return f"{compared.names[best]}: {known[best]:.2f}{lead}"

    costs = [f"{name} {_cost(run, compared.runs[0])}" for name, run in zip(compared.names, compared.runs, strict=True)]
    return [
        ("Best at its worst condition", leader([ranking.miou_worst for ranking in compared.rankings], "worst")),
        ("Best over all images", leader([run.table["mIoU"] for run in compared.runs], "pooled")),
        ("Cost of training", "; ".join(costs)),
    ]


def _cost(run: RunReview, base: RunReview) -> str:
    ours, theirs = run.cost.hours, base.cost.hours
    if run is base or not ours or not theirs or (ours[1], run.cost.device) != (theirs[1], base.cost.device):
        return run.cost.brief()
    return f"{run.cost.brief()}, {ours[0] / theirs[0]:.1f} times the first"


# ---- scores


def _against(compared: Comparison, k: int) -> str:
    """A sentence about run `k` and the first. Of what is not tested it gives the number alone."""
    base, run = compared.rankings[0], compared.rankings[k]
    start = f"{compared.names[k]} against {compared.names[0]}:"
    pair = compared.pair(k)
    tested = {} if isinstance(pair, str) else {name: d for name, d in pair.conditions.items() if d is not None}
    clear = {name: d.value for name, d in tested.items() if d.excludes_0}
    ranked = sorted(clear.items(), key=lambda item: -abs(item[1]))
    gains, losses = ([item for item in ranked if (item[1] > 0) == is_gain] for is_gain in (True, False))
    parts = [
        f"{word} {', '.join(f'{name} ({signed(value)})' for name, value in found)}"
        for word, found in (("a real gain at", gains), ("a real loss at", losses))
        if found
    ]
    if num_equal := len(tested) - len(clear):
        parts.append(f"differences that may be chance at {num_equal} of {len(base.miou)} conditions")
    if base.miou_worst is not None and run.miou_worst is not None:
        reading = _reading(None if isinstance(pair, str) else pair.worst)
        at_worst = signed(loss(run.miou_worst, base.miou_worst))
        parts.append(f"the worst condition of each {at_worst}{f': {reading}' if reading else ''}")
    return f"{start} {'; '.join(parts) or 'no difference is known'}."


def _reading(difference: Interval | None) -> str:
    """Nothing for what is not tested, which the summary says."""
    if difference is None:
        return ""
    if not difference.excludes_0:
        return _CHANCE
    return "real gain" if difference.value > 0 else "real loss"


def _best_table(best: Sequence[_Best]) -> HtmlTable:
    rows = [(b.condition, b.run, f"{b.miou:.3f}", b.ahead, _is_real(b)) for b in best]
    header = ("condition", "best run", "mIoU", "ahead of the next by", "is the lead real?")
    return HtmlTable(header, rows, strong=[number for number, b in enumerate(best) if b.verdict == _REAL])


def _is_real(best: _Best) -> str:
    if best.verdict == _UNTESTED:
        return ABSENT
    return f"{best.verdict}\n{best.why}" if best.why else best.verdict


def _scores(compared: Comparison) -> HtmlTable:
    """Rows are conditions, columns runs, each with its difference to the first."""
    runs, rankings = compared.runs, compared.rankings
    pairs = [compared.pair(k) for k in range(1, len(runs))]

    def row(
        name: str, num_images: str, values: Sequence[float | None], tested: Sequence[Interval | None]
    ) -> tuple[str, ...]:
        others = (_difference(value, values[0], interval) for value, interval in zip(values[1:], tested, strict=True))
        return (name, num_images, number(values[0]), *others)

    rows = [
        row(
            name,
            next(str(run.table["conditions"][name]["num_images"]) for run in runs if name in run.table["conditions"]),
            [ranking.miou.get(name) for ranking in rankings],
            [compared.tested(k, name) for k in range(1, len(runs))],
        )
        for name in compared.conditions
    ]
    rows.append(
        row(
            "worst condition of each",
            "",
            [ranking.miou_worst for ranking in rankings],
            [None if isinstance(pair, str) else pair.worst for pair in pairs],
        )
    )
    rows.append(
        row(
            "all images together",
            str(runs[0].table["num_images"]),
            [run.table["mIoU"] for run in runs],
            [None if isinstance(pair, str) else pair.pooled for pair in pairs],
        )
    )
    return HtmlTable(("condition", "images", *compared.names), rows)


def _difference(value: float | None, base: float | None, tested: Interval | None) -> str:
    if value is None or base is None:
        return number(value)
    interval = f" ({span(tested, 3)})" if tested else ""
    return "\n".join(filter(None, (f"{value:.3f}", f"{signed(loss(value, base, 3), 3)}{interval}", _reading(tested))))


MAX_CLASSES = 30  # of which IoU is shown


def _classes(compared: Comparison, best_run: int, hardest: str | None) -> HtmlTable:
    """IoU of each class by run, of all images and, on a line of its own, at `hardest`; the best run's weakest first."""
    tables = [run.table for run in compared.runs]
    there = [table["conditions"].get(hardest, {"classes": {}}) for table in tables]
    of_best = tables[best_run]["classes"]
    weakest = sorted(of_best, key=lambda name: (of_best[name] is None, of_best[name]))[:MAX_CLASSES]

    def cell(k: int, name: str) -> str:
        of_all = number(tables[k]["classes"].get(name))
        return f"{of_all}\n{hardest} {number(there[k]['classes'].get(name))}" if hardest else of_all

    return HtmlTable(
        ("class", *compared.names), [(name, *(cell(k, name) for k in range(len(tables)))) for name in weakest]
    )


# ---- what else is known of them

_ALL = "all"


def _differing(compared: Comparison) -> HtmlTable:
    """The fields of the configurations that differ; no rows if none does."""
    flat = [fields_of(run) for run in compared.runs]
    names = list(dict.fromkeys(name for fields in flat for name in fields))
    rows = [
        (name, *(_ALL if _is_all(name, fields.get(name)) else fields.get(name, ABSENT) for fields in flat))
        for name in names
        if len({fields.get(name) for fields in flat}) > 1
    ]
    return HtmlTable(("field", *compared.names), rows)


def _is_all(name: str, value: str | None) -> bool:
    """No conditions named in `data` means all of them; elsewhere none."""
    return value == "[]" and name in ("data.train_conditions", "data.val_conditions")


def _by_run(compared: Comparison, rows_of: Sequence[Sequence[tuple[str, str]]]) -> HtmlTable:
    rows = [(cells[0][0], *(text for _, text in cells)) for cells in zip(*rows_of, strict=True)]
    return HtmlTable(("", *compared.names), rows)
