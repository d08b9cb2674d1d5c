"""The page of photographs without a truth."""

from dataclasses import replace

import numpy as np

from distseg.evaluation import Overlay, confidence_map, layers_of_prediction
from distseg.evaluation.trust.counts import NUM_LEVELS
from distseg.review import PredictionsReview, predictions_page
from tests.unit.review.images.test_viewer import given
from tests.unit.reviews import LABELS

PREDICTED = np.array([[0, 0, 0, 1], [0, 0, 0, 1]], dtype=np.uint8)
LAYERS = layers_of_prediction(np.full((2, 4, 3), 90, dtype=np.uint8), PREDICTED, np.full((1, 2), 200, dtype=np.uint8))
REVIEW = PredictionsReview(
    network="pspnet",
    source="photos",
    palette=LABELS.palette,
    confidences={f"{n:03d}.jpg": 0.3 + 0.006 * n for n in range(100)},
    shares={"road": 0.749, "sign": 0.25, "car": 0.001},
    shares_of={f"{n:03d}.jpg": (0.749, 0.25, 0.001) if n else (0.75, 0.25, 0.0) for n in range(100)},
    shown=[
        Overlay(kind="worst", condition="night", key=f"{n:03d}.jpg", iou=None, jpeg=b"", confidence=0.3, layers=LAYERS)
        for n in range(2)
    ],
)


def test_a_page_says_how_many_are_left_out_and_which_are_least_sure() -> None:
    page = predictions_page(REVIEW)
    assert "2 of 100 images are shown" in page and "No pixel" not in page
    assert "No pixel is car." in predictions_page(replace(REVIEW, shares={"road": 0.75, "sign": 0.25, "car": 0.0}))
    assert page.index(">000.jpg</th>") < page.index(">0.300</td>") < page.index(">019.jpg</th>")
    assert ">020.jpg</th>" not in page
    data = given(page)
    assert data["has_truth"] is False
    assert data["images"][0]["runs"] == [{"iou": None, "confidence": 0.3, "classes": [0.75, 0.25, None]}]
    assert data["images"][1]["runs"][0]["classes"] == [0.749, 0.25, 0.001], "the image's own: its layer has no car"
    for word in ('data-layer="truth"', 'data-layer="errors"', "IoU", "void, not counted"):
        assert word not in page.partition("<script")[0]


def test_a_name_cannot_become_a_part_of_the_page() -> None:
    name = "<b>&.jpg"
    page = predictions_page(replace(REVIEW, confidences={name: 0.5}, shown=[replace(REVIEW.shown[0], key=name)]))
    assert "<b>&" not in page and "&lt;b&gt;&amp;.jpg" in page


def test_each_level_of_confidence_has_its_own_grey() -> None:
    levels = np.arange(NUM_LEVELS, dtype=np.uint8)[None]
    grey = confidence_map(levels)
    assert (grey.min(), grey.max()) == (0, 255) and len(np.unique(grey)) == NUM_LEVELS
