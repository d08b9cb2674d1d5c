"""TODO distseg.review."""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use
from distseg.review.comparison import comparison_page
from distseg.review.pages import Cost, RunReview, model_card, run_markdown, run_page

if TYPE_CHECKING:
    from distseg.review.figures import condition_bars, condition_by_class, confusion, curves

__all__ = [
    "Cost",
    "RunReview",
    "comparison_page",
    "condition_bars",
    "condition_by_class",
    "confusion",
    "curves",
    "model_card",
    "run_markdown",
    "run_page",
]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.review.figures": ("condition_bars", "condition_by_class", "confusion", "curves"),
    },
)
