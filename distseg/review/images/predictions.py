"""The page that `predict` leaves: photographs without a truth, what a network sees in them, and how sure it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distseg.evaluation import Overlay, Palette
from distseg.review.html import HtmlTable, render
from distseg.review.images.viewer import Look, viewer

NUM_LEAST_SURE = 20  # named in the table


@dataclass(frozen=True, kw_only=True)
class PredictionsReview:
    network: str  # its name, as it was given
    source: str  # directory, prefix or video
    palette: Palette
    confidences: Mapping[str, float]  # of each image by its name: the mean over its pixels
    shares: Mapping[str, float]  # of an image's pixels, by class: the mean over all images
    shares_of: Mapping[str, Sequence[float]]  # the same of each image by its name, in the order of the classes
    shown: Sequence[Overlay]  # with layers, in the order in which they are chosen


def predictions_page(review: PredictionsReview) -> str:
    """One HTML file that needs nothing else. It names the least sure images of all, and shows those of `shown`."""
    num_images = len(review.confidences)
    least_sure = sorted(review.confidences.items(), key=lambda item: item[1])[:NUM_LEAST_SURE]
    seen = viewer(
        {review.network: Look(review.shown, shares=review.shares_of)},
        list(review.shares),
        review.palette,
        title="Images",
        note="Half of them are those of the lowest confidence, the others are evenly spread over all. Nothing tells "
        "where a network is wrong without a truth: low confidence is a hint, and so are classes that cannot be there.",
        miou={},
    )
    mean = sum(review.confidences.values()) / num_images
    absent = [name for name, share in review.shares.items() if not share]
    return render(
        "predictions.html.j2",
        title=f"{num_images} images in {review.source}",
        lead=f"Segmented by {review.network}.",
        sentences=[f"No pixel is {', '.join(absent)}."] if absent else [],
        answers=[("Images", str(num_images)), ("Mean confidence", f"{mean:.2f}"), ("Least sure", least_sure[0][0])],
        viewer=seen and replace(seen, num_images=num_images),
        least_sure=HtmlTable(("image", "confidence"), [(name, f"{value:.3f}") for name, value in least_sure]),
        shares=HtmlTable(
            ("class", "% of an image"),
            [(name, f"{100 * share:.2f}") for name, share in sorted(review.shares.items(), key=lambda item: -item[1])],
        ),
    )
