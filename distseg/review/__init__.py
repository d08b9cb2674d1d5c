"""Evaluations as people read them: sentences, figures, pages, descriptions. Data in, bytes and text out, no I/O.

In: a `RunReview` of each run (the table of `evaluation.as_table`, and what else is known of the run).

    run_markdown(review, figure_url=…, links=…) -> str      the description of an MLflow run
    run_page(review), comparison_page(reviews) -> str       an HTML file each, which needs nothing else
    iou_csv(reviews) -> str                                 the IoU of each run, condition and class, as CSV
    predictions_page(review) -> str                         likewise, of photographs without a truth
    model_card(review) -> str                               Markdown: what a registered model is good for, and what not
    run_files(review) -> {name: bytes}                      all that a run leaves: plots, tables, page, model card
    judge_criteria(evaluations, truth) -> [Chosen]          how well figures without labels choose among evaluations
    markdown_table(header, rows), mean_and_spread(values)   the one table and the one "0.512 ± 0.011" of the project
    signed(value), span(interval)                           "+0.021" and "0.010 to 0.032"

Pages are made of the templates in `templates/`; whatever comes from outside is escaped. ValueError for a comparison of
fewer than two runs. Names are imported when first used: a process that draws nothing loads neither matplotlib nor
Jinja2.
"""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use

if TYPE_CHECKING:
    from distseg.review.comparison import comparison_page, iou_csv
    from distseg.review.criteria import Chosen, judge_criteria
    from distseg.review.images.predictions import PredictionsReview, predictions_page
    from distseg.review.markdown import model_card, run_markdown
    from distseg.review.run_report import run_files, run_page
    from distseg.review.run_review import CONDITIONS_PLOT, MODEL_CARD, RUN_PAGE, Cost, RunReview
    from distseg.review.text import markdown_table, mean_and_spread, signed, span

__all__ = [
    "CONDITIONS_PLOT",
    "MODEL_CARD",
    "RUN_PAGE",
    "Chosen",
    "Cost",
    "PredictionsReview",
    "RunReview",
    "comparison_page",
    "iou_csv",
    "judge_criteria",
    "markdown_table",
    "mean_and_spread",
    "model_card",
    "predictions_page",
    "run_files",
    "run_markdown",
    "run_page",
    "signed",
    "span",
]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.review.comparison": ("comparison_page", "iou_csv"),
        "distseg.review.criteria": ("Chosen", "judge_criteria"),
        "distseg.review.markdown": ("model_card", "run_markdown"),
        "distseg.review.images.predictions": ("PredictionsReview", "predictions_page"),
        "distseg.review.run_report": ("run_files", "run_page"),
        "distseg.review.run_review": ("CONDITIONS_PLOT", "MODEL_CARD", "RUN_PAGE", "Cost", "RunReview"),
        "distseg.review.text": ("markdown_table", "mean_and_spread", "signed", "span"),
    },
)
