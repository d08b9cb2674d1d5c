"""A run's own page, report/index.html, and the files that it leaves beside it."""

import json
from collections.abc import Mapping

from distseg.review.html import HtmlTable, Picture, picture, render
from distseg.review.images.gallery import NOTE_OF_RUN, images_of_run
from distseg.review.images.viewer import Look, viewer
from distseg.review.markdown import model_card
from distseg.review.run_review import CONDITIONS_PLOT, MODEL_CARD, RUN_PAGE, RunReview, condition_rows, provenance
from distseg.review.summary import remarks, summary
from distseg.review.text import loss, number, span
from distseg.review.trust import next_steps, trust_of_run

CONDITION_BY_CLASS, CONFUSION, CURVES = (
    f"plots/{name}.png" for name in ("condition_by_class", "confusion_matrix", "curves")
)


def run_page(review: RunReview) -> str:
    """One HTML file that needs nothing else. It follows the reader's light or dark setting, and prints."""
    return _page(review, _plots(review))


def _plots(review: RunReview) -> dict[str, Picture]:
    """The figures of the page, by their names in MLflow."""
    from distseg.review import figures  # here, as matplotlib takes half a second to import

    table, known = review.table, review.intervals.conditions if review.intervals else None
    plots = {
        CONDITIONS_PLOT: picture(
            figures.condition_bars(table, known), "bar chart: mIoU of each condition, worst first"
        ),
        CONDITION_BY_CLASS: picture(figures.condition_by_class(table), "heat map: IoU of each class at each condition"),
    }
    if review.matrix_KK is not None:
        confusion = figures.confusion(review.matrix_KK, list(table["classes"]))
        plots[CONFUSION] = picture(confusion, "heat map: what each class was taken for")
    if any(review.history.values()):
        plots[CURVES] = picture(figures.curves(review.history), "curves: training loss; mIoU of evaluations")
    return plots


def _page(review: RunReview, plots: Mapping[str, Picture]) -> str:
    intervals, ranking = review.intervals, review.ranking
    classes = list(review.table["classes"])
    seen = viewer(
        {review.name: Look(review.overlays, review.images)},
        classes,
        review.palette,
        title="Images of each condition",
        note=NOTE_OF_RUN,
        miou=ranking.miou,
    )
    return render(
        "run.html.j2",
        title=review.name,
        lead=summary(review.table, intervals, review.trained_on),
        sentences=remarks(review.table, intervals),
        answers=_answers(review),
        conditions=HtmlTable(*condition_rows(review), strong=(0,) if ranking.compares_several else ()),
        cost=HtmlTable(("", ""), review.cost.rows()),
        viewer=seen,
        images=None if seen else images_of_run(review.overlays, ranking.miou, classes, review.palette),
        trust=trust_of_run(review),
        next_steps=next_steps(review),
        provenance=HtmlTable(("", ""), provenance(review)),
        config=json.dumps(review.config, indent=2, default=str) if review.config else "",
        condition_bars=plots[CONDITIONS_PLOT],
        condition_by_class=plots[CONDITION_BY_CLASS],
        confusion=plots.get(CONFUSION),
        curves=plots.get(CURVES),
    )


def _answers(review: RunReview) -> list[tuple[str, str]]:
    """What a reader asks first."""
    ranking, intervals = review.ranking, review.intervals
    if not ranking.compares_several:
        (score,) = ranking.miou.values() if len(ranking.miou) == 1 else (review.table["mIoU"],)
        return [
            ("mIoU", number(score, 2)),
            ("Images", str(review.table["num_images"])),
            ("Cost", review.cost.brief()),
        ]
    (worst, low), *_, (best, high) = ranking.miou.items()
    gap = intervals.gap if intervals else None
    sure = "unknown" if gap is None else f"{'yes' if gap.excludes_0 else 'no'}: {span(gap)} (95 %)"
    if not loss(high, low):  # as the summary has it, whatever lies behind the second digit
        sure = "no loss is seen"
    return [
        ("Worst condition", f"{worst}: {low:.2f}"),
        ("Loss against the best", f"{loss(high, low):.2f} ({best}: {high:.2f})"),
        ("Is the loss sure?", sure),
        ("Cost", review.cost.brief()),
    ]


def run_files(review: RunReview) -> dict[str, bytes]:
    """Plots, tables, page and model card, by their names in MLflow; the page has the same below the run's directory."""
    plots = _plots(review)
    files = {name: plot.png for name, plot in plots.items()}
    if review.images is not None:
        files["tables/images.json"] = json.dumps(review.images.as_json()).encode()
    files[RUN_PAGE] = _page(review, plots).encode()
    files[MODEL_CARD] = model_card(review).encode()
    return files
