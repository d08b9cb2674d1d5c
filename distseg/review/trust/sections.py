"""Can the network be trusted, and what to do next: the readings of `evaluation.trust` as tables and sentences.

Each gives nothing for a table of a version that did not count it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distseg.evaluation import Intervals, Table, rank_conditions
from distseg.review.html import HtmlTable, Picture, picture
from distseg.review.run_review import RunReview
from distseg.review.text import ABSENT, listed, loss, number

NUM_CONFUSIONS = 8
REFUSED = 0.9  # coverage that tables show: the least certain tenth is refused
RARE = 0.01  # a class of fewer pixels is not met often enough by chance

Reading = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The section of a run's page."""

    sentences: Sequence[str]
    reliability: Picture
    risk_coverage: Picture
    conditions: HtmlTable
    sites: HtmlTable | None  # None: one site, or none is known
    borders: HtmlTable
    objects: HtmlTable
    confusions: HtmlTable | None


def trust_of_run(review: RunReview) -> Trust | None:
    of_all: Reading | None = review.table.get("trust")
    if not of_all or not of_all["pixels"]:
        return None
    from distseg.review.trust import figures  # here, as matplotlib takes half a second to import

    by_condition = _by_name(review.table, "conditions", review.ranking.order)
    sites = _by_name(review.table, "sites", review.table.get("sites", {}))
    drawn = {**by_condition, "all images": of_all} if len(by_condition) > 1 else {"all images": of_all}
    return Trust(
        sentences=[_calibration(of_all), *_refusing(of_all), *_borders_sentence(of_all)],
        reliability=picture(figures.reliability(of_all, by_condition), "curves: accuracy by confidence"),
        risk_coverage=picture(figures.risk_coverage(drawn), "curves: share of errors by share of pixels kept"),
        conditions=_table("condition", {**by_condition, "all images together": of_all}),
        sites=_table("site", sites) if len(sites) > 1 else None,
        borders=HtmlTable(("distance to a border", "share of pixels", "wrong"), _border_rows(of_all)),
        objects=HtmlTable(("size of an object", "objects", "found", "right pixels"), _object_rows(of_all)),
        confusions=_confusions(review),
    )


def _by_name(table: Table, part: str, names: Iterable[str]) -> dict[str, Reading]:
    entries = table.get(part, {})
    return {name: entries[name]["trust"] for name in names if entries[name].get("trust")}


_HEADER = ("right pixels", "mean confidence", "ECE", "AURC", "wrong", "wrong without the unsure tenth", "boundary IoU")


def trust_row(reading: Reading) -> tuple[str, ...]:
    wrong = risk(reading, 1.0)
    return (
        _percent(None if wrong is None else 1 - wrong),
        _percent(reading["confidence"]),
        number(reading["ece"]),
        number(reading["aurc"]),
        _percent(wrong),
        _percent(risk(reading, REFUSED)),
        number(reading["boundary_iou"]),
    )


def _table(what: str, readings: Mapping[str, Reading]) -> HtmlTable:
    return HtmlTable((what, *_HEADER), [(name, *trust_row(reading)) for name, reading in readings.items()])


def trust_compared(names: Sequence[str], runs: Sequence[RunReview]) -> HtmlTable | None:
    """Of all images together, run by run."""
    found = {name: run.table["trust"] for name, run in zip(names, runs, strict=True) if run.table.get("trust")}
    return _table("run", found) if found else None


SURER = 0.05  # mean confidence above the share of right pixels, from which on it is said


def believed(names: Sequence[str], runs: Sequence[RunReview]) -> str:
    """Whose confidence can be believed most, and who is surer than right; empty unless several runs have it counted."""
    found = {name: run.table["trust"] for name, run in zip(names, runs, strict=True) if run.table.get("trust")}
    known = {name: each for name, each in found.items() if None not in (each["ece"], each["confidence"])}
    if len(known) < 2:
        return ""
    best = min(known, key=lambda name: float(known[name]["ece"]))
    said = [f"The confidence of {best} is the nearest to the truth (ECE {known[best]['ece']:.3f})."]
    for name, each in known.items():
        right = 1 - (risk(each, 1.0) or 0.0)
        if each["confidence"] - right > SURER:
            said.append(f"{name} is surer than right: {_percent(each['confidence'])} and {_percent(right)}.")
    return " ".join(said)


def risk(reading: Reading, coverage: float) -> float | None:
    return next((value for at, value in reading["risk_coverage"] if at == coverage), None)


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.1f} %"


def _border_rows(reading: Reading) -> list[tuple[str, ...]]:
    total = sum(band["pixels"] for band in reading["borders"])
    rows: list[tuple[str, ...]] = []
    before = 0
    for band in reading["borders"]:
        up_to = band["up_to_px"]
        name = f"{before} to {up_to} px" if up_to else f"more than {before} px"
        rows.append((name, _percent(band["pixels"] / total if total else None), _percent(band["wrong"])))
        before = up_to or before
    return rows


def _object_rows(reading: Reading) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    above = 0.0
    for band in reading["objects"]:
        below = band["below"]
        name = f"{100 * above:g} to {100 * below:g} % of the image" if below else f"{100 * above:g} % and more"
        rows.append((name, str(band["objects"]), _percent(band["found"]), _percent(band["right"])))
        above = below or above
    return rows


def _confusions(review: RunReview) -> HtmlTable | None:
    if review.matrix_KK is None:
        return None
    counts_KK = np.asarray(review.matrix_KK, dtype=np.int64).copy()
    truth_K, names = counts_KK.sum(1), list(review.table["classes"])
    np.fill_diagonal(counts_KK, 0)
    num_wrong = int(counts_KK.sum())
    rows = []
    for pair in np.argsort(-counts_KK, axis=None, kind="stable")[:NUM_CONFUSIONS]:
        k, other = (int(i) for i in np.unravel_index(pair, counts_KK.shape))
        if counts_KK[k, other]:
            shares = counts_KK[k, other] / truth_K[k], counts_KK[k, other] / num_wrong
            rows.append((names[k], names[other], *map(_percent, shares)))
    return HtmlTable(("class", "taken for", "of the class", "of all errors"), rows) if rows else None


# ---- sentences


def _calibration(reading: Reading) -> str:
    wrong = risk(reading, 1.0) or 0.0
    sure, right = reading["confidence"], 1 - wrong
    how = "more sure than right" if sure > right else "more often right than it is sure"
    if round(sure, 2) == round(right, 2):
        how = "as sure as it is right in the mean, but not at each confidence"
    about = "about as sure as it is right" if reading["ece"] < 0.02 else how
    return f"The network is {about}: mean confidence {sure:.2f}, right pixels {right:.2f} (ECE {reading['ece']:.3f})."


def _refusing(reading: Reading) -> list[str]:
    wrong, left = risk(reading, 1.0), risk(reading, REFUSED)
    if not wrong or left is None:
        return []
    sure, all_of_them = _percent(left), _percent(wrong)
    return [f"Without the tenth of which it is least sure, {sure} of the pixels are wrong instead of {all_of_them}."]


def _borders_sentence(reading: Reading) -> list[str]:
    wrong = [(band["wrong"] or 0.0) * band["pixels"] for band in reading["borders"]]
    pixels = [band["pixels"] for band in reading["borders"]]
    if not sum(wrong):
        return []
    near, share = sum(wrong[:2]) / sum(wrong), sum(pixels[:2]) / sum(pixels)
    reach = reading["borders"][1]["up_to_px"]
    where = f"within {reach} px of a border, where {_percent(share)} of the pixels are"
    return [f"{_percent(near)} of the errors lie {where}."]


def next_steps(review: RunReview) -> list[str]:
    """One or two sentences: which condition to label more of, and, if there is one, which class to sample."""
    return [_label_next(review), *_sample_next(review)]


def _label_next(review: RunReview) -> str:
    ranking, intervals = rank_conditions(review.table), review.intervals
    if not ranking.compares_several or ranking.worst is None or ranking.best is None:
        return "Evaluate on several conditions: of one alone, nobody knows for which labels are missing."
    lost = loss(ranking.miou[ranking.best], ranking.miou[ranking.worst])
    if not lost:
        return "Label more images of any condition: none scores less than another."
    rivals = list(intervals.rivals) if intervals else []
    where = f"{ranking.worst}{f' (or {listed(rivals)}, which may be as bad)' if rivals else ''}"
    labels = {True: ", of which it had some labels", False: ", of which it had no labels", None: ""}
    had = labels[review.had_labels(ranking.worst)]
    why = f"{lost:.2f} of mIoU are lost there against {ranking.best}{had}"
    return _label_sentence(intervals, where, why)


def _label_sentence(intervals: Intervals | None, where: str, why: str) -> str:
    gap = intervals.gap if intervals else None
    if gap is None:
        return f"Label more images of {where}, once more test images confirm it: {why}."
    if not gap.excludes_0:
        return "Label more images of any condition: that one is worse than another may be chance."
    return f"Label more images of {where}: {why}."


def _sample_next(review: RunReview) -> list[str]:
    table = review.table
    support = {
        name: num for name, num in table.get("support", {}).items() if num and table["classes"][name] is not None
    }
    if not support:
        return []
    name = min(support, key=lambda each: table["classes"][each])
    share = support[name] / sum(support.values())
    taken = _taken_for(review, name)
    facts = f"IoU {table['classes'][name]:.2f} with {_percent(share)} of the pixels{f', {taken}' if taken else ''}"
    if share < RARE:
        return [f"Sample images with {name} more often (--data.sampling class): {facts}."]
    return [f"Look at how {name} is labelled, as it is not rare and still the weakest of those that occur: {facts}."]


def _taken_for(review: RunReview, name: str) -> str:
    if review.matrix_KK is None:
        return ""
    names = list(review.table["classes"])
    row_K = np.asarray(review.matrix_KK, dtype=np.int64).copy()[names.index(name)]
    total = int(row_K.sum())
    row_K[names.index(name)] = 0
    other = int(row_K.argmax())
    return f"{_percent(row_K[other] / total)} of it taken for {names[other]}" if row_K[other] else ""
