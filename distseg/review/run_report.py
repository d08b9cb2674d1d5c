"""A run's own page, report/index.html, and the files that it leaves beside it."""

import json

from distseg.review.html import HtmlTable, picture, render
from distseg.review.images.gallery import NOTE_OF_RUN, images_of_run
from distseg.review.images.viewer import Look, viewer
from distseg.review.markdown import model_card
from distseg.review.run_review import CONDITIONS_PLOT, MODEL_CARD, RUN_PAGE, RunReview, condition_rows, provenance
from distseg.review.summary import remarks, summary
from distseg.review.text import loss, number, span
from distseg.review.trust import next_steps, trust_of_run


def run_page(review: RunReview) -> str:
    """One HTML file that needs nothing else. It follows the reader's light or dark setting, and prints."""
    from distseg.review import figures  # here, as matplotlib takes half a second to import

    intervals, ranking = review.intervals, review.ranking
    known = intervals.conditions if intervals else None
    classes = list(review.table["classes"])
    drawn = {
        "condition_bars": picture(
            figures.condition_bars(review.table, known), "bar chart: mIoU of each condition, worst first"
        ),
        "condition_by_class": picture(
            figures.condition_by_class(review.table), "heat map: IoU of each class at each condition"
        ),
        "confusion": picture(figures.confusion(review.matrix_KK, classes), "heat map: what each class was taken for")
        if review.matrix_KK is not None
        else None,
        "curves": picture(figures.curves(review.history), "curves: training loss; mIoU of evaluations")
        if any(review.history.values())
        else None,
    }
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
        **drawn,
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
    return [
        ("Worst condition", f"{worst}: {low:.2f}"),
        ("Loss against the best", f"{loss(high, low):.2f} ({best}: {high:.2f})"),
        ("Is the loss sure?", sure),
        ("Cost", review.cost.brief()),
    ]


def run_files(review: RunReview) -> dict[str, bytes]:
    """Plots, tables, page and model card, by their names in MLflow and below the run's directory."""
    from distseg.review import figures

    intervals = review.intervals
    plots = {
        CONDITIONS_PLOT: figures.condition_bars(review.table, intervals.conditions if intervals else None),
        "plots/condition_by_class.png": figures.condition_by_class(review.table),
    }
    if review.matrix_KK is not None:
        plots["plots/confusion_matrix.png"] = figures.confusion(review.matrix_KK, list(review.table["classes"]))
    if any(review.history.values()):
        plots["plots/curves.png"] = figures.curves(review.history)
    files = {name: figures.as_png(figure, dpi=120) for name, figure in plots.items()}
    if review.images is not None:
        files["tables/images.json"] = json.dumps(review.images.as_json()).encode()
    files[RUN_PAGE] = run_page(review).encode()
    files[MODEL_CARD] = model_card(review).encode()
    return files
