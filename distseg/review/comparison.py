"""Runs beside each other on one HTML page: which is better where, is the gain real, what did it cost."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distseg.errors import DataError
from distseg.evaluation import ConditionRanking, Differences, Interval, paired_bootstrap, rank_conditions
from distseg.review import figures
from distseg.review.gallery import images_compared
from distseg.review.markup import document, html_table, p, picture, section
from distseg.review.pages import ABSENT, METHOD, RunReview, number, provenance
from distseg.review.published import Published, published
from distseg.review.summary import listed, loss, signed, span


def comparison_page(runs: Sequence[RunReview]) -> str:
    """Every run against the first. Differences are tested image by image where both have counts of the same images."""
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} runs: a comparison needs at least two")
    base, *others = runs
    rankings = _rankings(runs)
    pairs = [_paired(run, base) for run in others]
    best = _best_runs(runs, rankings)
    sections = [
        section("Which run is best at which condition", p(_BEST_NOTE), _best_table(best)),
        section(
            f"All scores, against {_unique(0, runs)}",
            *(
                p(_against(run, base, rankings, k + 1, pair))
                for k, (run, pair) in enumerate(zip(others, pairs, strict=True))
            ),
            *_compared_figure(runs, rankings),
            _compared_table(runs, rankings, pairs),
        ),
        images_compared(
            {_unique(k, runs): run.overlays for k, run in enumerate(runs)},
            rankings[0].miou,
            list(base.table["classes"]),
            base.palette,
        ),
        section("What they do differently", _differing(runs)),
        section("Cost", _by_run(runs, [run.cost.rows() for run in runs])),
        section("Data and code", _by_run(runs, [provenance(run) for run in runs])),
        _published(runs, rankings),
        section("How to read this", *(p(text) for text in (*METHOD, *_PAIRED_METHOD))),
    ]
    notes = [pair for pair in pairs if isinstance(pair, str)]
    answers = [("Best at its worst condition", _leader(runs, [r.miou_worst or 0.0 for r in rankings]))]
    answers += [("Best over all images", _leader(runs, [run.table["mIoU"] or 0.0 for run in runs]))]
    answers += [("Cost of training", "; ".join(f"{_unique(k, runs)} {_cost(run, base)}" for k, run in enumerate(runs)))]
    return document(
        f"{len(runs)} runs compared",
        _summary(best),
        [*dict.fromkeys(notes), *_notes(rankings)],
        answers,
        sections,
    )


_PAIRED_METHOD = (
    "Is a difference real? Both runs are scored on the same resampled images (paired bootstrap), so what is hard for "
    "both cancels out. 'real gain' and 'real loss': the 95 % interval of the difference, in brackets, excludes 0. 'may "
    "be chance': it does not. Of twenty comparisons of equals, about one comes out as real by chance; and one training "
    "each says nothing about other seeds.",
)
_BEST_NOTE = (
    "A lead is real if the choice of the test images does not explain it: its 95 % interval, in brackets, excludes 0 "
    "(paired bootstrap). Real leads are bold. Another seed is not counted: train several before you rely on a lead."
)


_CHANCE, _UNTESTED = "may be chance", "not tested"


@dataclass(frozen=True)
class _Best:
    """The run of the highest mIoU at a condition."""

    condition: str
    run: str
    miou: float
    ahead: str  # by how much, and of whom
    is_real: str


def _best_runs(runs: Sequence[RunReview], rankings: Sequence[ConditionRanking]) -> list[_Best]:
    """Of each condition that several runs have scores of, the first run's worst one first."""
    known: dict[tuple[int, int], Differences | str] = {}

    def tested(k: int, other: int, condition: str) -> Interval | None:
        if (k, other) not in known:
            known[k, other] = _paired(runs[k], runs[other])
        pair = known[k, other]
        return None if isinstance(pair, str) else pair.conditions.get(condition)

    found = []
    for condition in dict.fromkeys(name for r in rankings for name in r.miou):
        ranked = sorted(
            (k for k, r in enumerate(rankings) if condition in r.miou), key=lambda k: -rankings[k].miou[condition]
        )
        if len(ranked) < 2:
            continue
        first, *others = ranked
        value, of_next = (rankings[k].miou[condition] for k in ranked[:2])
        interval = tested(first, others[0], condition)
        rivals = [_unique(k, runs) for k in others if (i := tested(first, k, condition)) is None or i.low <= 0]
        ahead = f"{signed(loss(value, of_next, 3), 3)}{f' ({span(interval, 3)})' if interval else ''}"
        ahead += f"\nof {_unique(others[0], runs)}" if len(runs) > 2 else ""
        found.append(_Best(condition, _unique(first, runs), value, ahead, _real(interval, rivals)))
    return found


def _summary(best: Sequence[_Best]) -> str:
    """Who leads where, real leads alone."""
    leads: dict[str, list[str]] = {}
    for b in best:
        leads.setdefault(b.run if b.is_real == "yes" else b.is_real.partition("\n")[0], []).append(b.condition)
    chance, untested = (listed(leads.pop(name, [])) for name in (_CHANCE, _UNTESTED))
    by_number = sorted(leads.items(), key=lambda item: -len(item[1]))
    parts = [f"{run} is best at {listed(conditions)}" for run, conditions in by_number]
    parts += [f"at {chance} no run leads by more than the choice of test images explains"] if chance else []
    parts += [f"what leads at {untested} is not tested"] if untested else []
    if not parts:
        return "They have no condition in common."
    text = "; ".join(parts)
    return f"{text if leads else text[0].upper() + text[1:]}."


def _real(interval: Interval | None, rivals: Sequence[str]) -> str:
    if interval is None:
        return _UNTESTED
    if not rivals:
        return "yes"
    return f"{_CHANCE}\ncannot be told apart from {', '.join(rivals)}"


def _best_table(best: Sequence[_Best]) -> str:
    rows = [(b.condition, b.run, f"{b.miou:.3f}", b.ahead, b.is_real) for b in best]
    is_real = [number for number, b in enumerate(best) if b.is_real == "yes"]
    return html_table(
        ("condition", "best run", "mIoU", "ahead of the next by", "is the lead real?"), rows, strong=is_real
    )


def _rankings(runs: Sequence[RunReview]) -> list[ConditionRanking]:
    tables = [run.table for run in runs]
    return [rank_conditions(table, tables) for table in tables]


def _notes(rankings: Sequence[ConditionRanking]) -> list[str]:
    return list(dict.fromkeys(f"Conditions are compared {r.note}." for r in rankings if r.note))


def _paired(run: RunReview, base: RunReview) -> Differences | str:
    """The tested differences, or why there are none."""
    if run.images is None or base.images is None:
        lacking = base if base.images is None else run
        return f"Differences of {run.name} are not tested: {lacking.name} has no counts of single images."
    try:
        return paired_bootstrap(run.images, base.images)
    except DataError as error:
        return f"Differences of {run.name} are not tested: {error}."


def _against(
    run: RunReview, base: RunReview, rankings: Sequence[ConditionRanking], k: int, pair: Differences | str
) -> str:
    start = f"{run.name} against {base.name}:"
    worst = loss(rankings[k].miou_worst or 0.0, rankings[0].miou_worst or 0.0)
    if isinstance(pair, str):
        return f"{start} {signed(worst)} at its worst condition, not tested."
    clear = {name: d.value for name, d in pair.conditions.items() if d and d.excludes_0}
    ranked = sorted(clear.items(), key=lambda item: -abs(item[1]))
    parts = [
        f"{word} {', '.join(f'{name} ({signed(value)})' for name, value in found)}"
        for word, found in (
            ("a real gain at", [item for item in ranked if item[1] > 0]),
            ("a real loss at", [item for item in ranked if item[1] < 0]),
        )
        if found
    ]
    if num_equal := len(rankings[0].miou) - len(clear):
        parts.append(f"differences that may be chance at {num_equal} of {len(rankings[0].miou)} conditions")
    return f"{start} {'; '.join(parts)}; at its worst condition {signed(worst)}: {_reading(pair.worst)}."


def _reading(difference: Interval | None) -> str:
    if difference is None:
        return "not tested"
    if not difference.excludes_0:
        return "may be chance"
    return "real gain" if difference.value > 0 else "real loss"


def _cost(run: RunReview, base: RunReview) -> str:
    ours, theirs = run.cost.cpu_hours, base.cost.cpu_hours
    if run is base or not ours or not theirs or run.cost.device != base.cost.device:
        return run.cost.brief()
    return f"{run.cost.brief()}, {ours / theirs:.1f} times the first"


def _leader(runs: Sequence[RunReview], scores: Sequence[float]) -> str:
    best = max(range(len(runs)), key=scores.__getitem__)
    return f"{runs[best].name}: {scores[best]:.2f}"


def _compared_figure(runs: Sequence[RunReview], rankings: Sequence[ConditionRanking]) -> list[str]:
    """The first runs only, where there are too many to tell apart."""
    count = len(figures.SERIES)
    by_run = {_unique(k, runs): r.miou for k, r in enumerate(rankings[:count])}
    intervals = {_unique(k, runs): found.conditions for k, run in enumerate(runs[:count]) if (found := run.intervals)}
    drawn = picture(figures.runs_by_condition(by_run, intervals), "dot plot: mIoU of each run at each condition")
    return [drawn, p(f"The figure shows the first {count} of {len(runs)} runs.")] if len(runs) > count else [drawn]


def _unique(k: int, runs: Sequence[RunReview]) -> str:
    is_twice = [run.name for run in runs].count(runs[k].name) > 1
    return f"{runs[k].name} [{k + 1}]" if is_twice else runs[k].name


def _compared_table(
    runs: Sequence[RunReview], rankings: Sequence[ConditionRanking], pairs: Sequence[Differences | str]
) -> str:
    def cell(k: int, value: float | None, base: float | None, difference: Interval | None) -> str:
        if value is None:
            return ABSENT
        if k == 0 or base is None:
            return f"{value:.3f}"
        tested = f" ({span(difference, 3)})" if difference else ""
        return f"{value:.3f}\n{signed(loss(value, base, 3), 3)}{tested}\n{_reading(difference)}"

    def row(
        name: str, num_images: str, values: Sequence[float | None], tested: Sequence[Interval | None]
    ) -> tuple[str, ...]:
        cells = [cell(k, value, values[0], tested[k - 1] if k else None) for k, value in enumerate(values)]
        return (name, num_images, *cells)

    names = list(dict.fromkeys(name for r in rankings for name in r.miou))
    rows = [
        row(
            name,
            next(str(run.table["conditions"][name]["num_images"]) for run in runs if name in run.table["conditions"]),
            [r.miou.get(name) for r in rankings],
            [None if isinstance(pair, str) else pair.conditions.get(name) for pair in pairs],
        )
        for name in names
    ]
    rows.append(
        row(
            "worst condition of each",
            "",
            [r.miou_worst for r in rankings],
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
    header = ("condition", "images", *(_unique(k, runs) for k in range(len(runs))))
    return html_table(header, rows)


_PLACES = ("name", "checkpoint.uri", "tracking.uri", "tracking.experiment")  # say nothing of what was computed


def _differing(runs: Sequence[RunReview]) -> str:
    flat = [dict(_dotted(run.config)) for run in runs]
    names = list(dict.fromkeys(name for fields in flat for name in fields))
    rows = [
        (name, *(fields.get(name, ABSENT) for fields in flat))
        for name in names
        if len({fields.get(name) for fields in flat}) > 1 and name not in _PLACES
    ]
    if not rows:
        return p("Their configurations are the same.")
    return html_table(("field", *(_unique(k, runs) for k in range(len(runs)))), rows)


def _dotted(config: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", json.dumps(value, default=str)


def _by_run(runs: Sequence[RunReview], rows_of: Sequence[Sequence[tuple[str, str]]]) -> str:
    rows = [(cells[0][0], *(text for _, text in cells)) for cells in zip(*rows_of, strict=True)]
    return html_table(("", *(_unique(k, runs) for k in range(len(runs)))), rows)


def _published(runs: Sequence[RunReview], rankings: Sequence[ConditionRanking]) -> str:
    """The papers' tables beside ours, for the data set of the first run."""
    ours = [k for k, run in enumerate(runs) if run.dataset == runs[0].dataset]
    sites = list(runs[0].table.get("sites", {}))
    theirs = published(runs[0].dataset, sites)
    if not theirs:
        return ""
    conditions = list(dict.fromkeys(name for p in theirs for name in p.conditions))

    def their_row(p: Published) -> tuple[str, ...]:
        scores = [number(p.conditions.get(name)) for name in conditions]
        return (p.system, *scores, number(p.miou), f"{p.source}; {p.protocol}")

    def our_row(k: int) -> tuple[str, ...]:
        entries = runs[k].table["conditions"]
        scores = [number(entries[name]["mIoU"] if name in entries else None) for name in conditions]
        table = runs[k].table
        of_all = table["mIoU_mean_conditions"] if conditions else table["mIoU"]
        split = runs[k].config.get("data", {}).get("val_split", "unknown split")
        trained = ", ".join(runs[k].trained_on) or "all conditions"
        where = ", ".join(table.get("sites", {}))
        protocol = f"this run; {split}, {table['num_images']} images, {where}, trained on {trained}"
        return (_unique(k, runs), *scores, number(of_all), protocol)

    header = ("system", *conditions, "mean" if conditions else "mIoU", "source and protocol")
    rows = [*(our_row(k) for k in ours), *map(their_row, theirs)]
    caution = "Images, splits, labels and protocols differ between these rows: read them as orders of magnitude."
    return section("Published results", p(caution), html_table(header, rows, strong=range(len(ours))))
