"""Markdown of a run: the description that MLflow shows of it, and the card of its model."""

from collections.abc import Mapping

from distseg.review.run_review import RunReview, condition_rows, data_line, provenance
from distseg.review.summary import remarks, summary
from distseg.review.text import markdown_table, md


def run_markdown(review: RunReview, *, figure_url: str = "", links: Mapping[str, str] | None = None) -> str:
    """The description of an MLflow run: its summary, then `links`, which MLflow shows before "Show more".

    `figure_url`: of the conditions plot, as `get-artifact?path=plots/condition_miou.png&run_uuid=ID`; `links`: text ->
    URL.
    """
    intervals = review.intervals
    parts = [
        md(summary(review.table, intervals, review.trained_on)),
        " · ".join(f"[{md(text)}]({url})" for text, url in (links or {}).items()),
        md(" ".join(remarks(review.table, intervals))),
        f"![mIoU per condition]({figure_url})" if figure_url else "",
        markdown_table(*condition_rows(review)),
        md(f"Cost: {review.cost.brief()}. Data: {data_line(review)}. Code: {review.code_version or 'unknown'}."),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def model_card(review: RunReview) -> str:
    """What the model was trained on, what it scores where, and what must not be expected of it."""
    intervals = review.intervals
    model, data = review.config.get("model", {}), review.config.get("data", {})
    classes = ", ".join(f"{k} {name}" for k, name in enumerate(review.table["classes"]))
    evaluated = f"{review.table['num_images']} images of {', '.join(review.ranking.miou)}"
    facts = [
        ("network", " on ".join(str(model[name]) for name in ("name", "backbone") if model.get(name)) or "unknown"),
        ("input", "uint8 RGB images of any size"),
        ("output", f"a class id per pixel: {classes}"),
        *provenance(review),
        ("evaluated on", f"{data.get('val_split', 'unknown')}: {evaluated}"),
        ("cost of training", review.cost.brief()),
    ]
    parts = [
        f"# {md(review.name)}",
        md(" ".join([summary(review.table, intervals, review.trained_on), *remarks(review.table, intervals)])),
        "## Data and network",
        markdown_table(("", ""), facts),
        "## mIoU per condition",
        markdown_table(*condition_rows(review)),
        "## Limits",
        "\n".join(f"- {md(limit)}" for limit in _limits(review)),
    ]
    return "\n\n".join(parts) + "\n"


def _limits(review: RunReview) -> list[str]:
    known = {name: iou for name, iou in review.table["classes"].items() if iou is not None}
    invented = [name for name in known if not review.table.get("support", {}).get(name, 1)]
    weak = [name for name, iou in known.items() if iou < 0.3 and name not in invented]
    unknown = [name for name in review.table["classes"] if name not in known]
    unlabelled = [name for name in review.ranking.miou if review.trained_on and name not in review.trained_on]
    said = [
        f"Scores hold for images like these ({data_line(review)}); other cameras, places and weather were not tested.",
        f"Trained without labels of {', '.join(unlabelled)}." if unlabelled else "",
        f"Found badly (IoU below 0.3): {', '.join(weak)}." if weak else "",
        f"Predicted, though not in the evaluated images: {', '.join(invented)}." if invented else "",
        f"Neither in the evaluated images nor predicted, so untested: {', '.join(unknown)}." if unknown else "",
        "Every pixel gets a class: what belongs to none of them (void) gets a wrong one, and no confidence is told.",
        "The intervals cover the choice of test images, not another seed of the training.",
        "Made for comparing networks; not tested for use in a vehicle.",
    ]
    return [text for text in said if text]
