"""The viewer: its pictures say what the maps say, its numbers are the images', and a page of it stays small."""

import io
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.errors import DataError
from distseg.evaluation import Layers, Overlay
from distseg.evaluation.pictures.layers import MAX_LAYER_BYTES, as_grey_png
from distseg.evaluation.pictures.panels import Kind, as_jpeg
from distseg.review import RunReview, comparison_page, run_page
from distseg.review.images import viewer
from tests.unit.reviews import HITS, LABELS, example

TRUTH = np.array([[0, 1, 2, 255], [0, 1, 2, 255]], dtype=np.uint8)
PREDICTED = np.array([[0, 1, 1, 0], [2, 1, 2, 0]], dtype=np.uint8)
LAYERS = Layers(
    photograph=as_jpeg(np.full((2, 4, 3), 90, dtype=np.uint8)),
    truth=as_grey_png(TRUTH),
    predicted=as_grey_png(PREDICTED),
    confidence=as_grey_png(np.full((1, 2), 102, dtype=np.uint8)),
)


CHOSEN: tuple[tuple[Kind, int], ...] = (("fixed", 0), ("worst", 0), ("worst", 1))


def overlays(layers: Layers = LAYERS) -> list[Overlay]:
    return [
        Overlay(
            kind=kind,
            condition=name,
            key=f"val/{name}/{n:03d}",
            iou=0.5,
            jpeg=b"",
            site="s",
            confidence=0.4,
            layers=layers,
        )
        for name in HITS
        for kind, n in CHOSEN
    ]


def review(name: str = "one", layers: Layers = LAYERS) -> RunReview:
    made = example()
    return RunReview(
        name=name,
        table=made.table,
        images=made.images,
        matrix_KK=made.matrix_KK,
        palette=LABELS.palette,
        overlays=overlays(layers),
    )


def given(page: str) -> dict[str, Any]:
    """What the script is given."""
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def colours(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def test_class_maps_have_the_classes_colours_and_void_is_transparent() -> None:
    found = colours(viewer.in_colours(TRUTH, LABELS.palette))
    assert [tuple(map(int, pixel[:3])) for pixel in found[0, :3]] == [*LABELS.palette]
    assert found[0, :, 3].tolist() == [255, 255, 255, 0]


def test_errors_are_where_truth_and_prediction_differ_and_not_where_it_is_void() -> None:
    found = colours(viewer.errors_png(TRUTH, PREDICTED))[..., :3]
    is_wrong = (found == (213, 94, 0)).all(-1)
    assert is_wrong.tolist() == [[False, False, True, False], [True, False, False, False]]
    assert (found[0, 3] != found[0, 0]).any()


def test_no_two_classes_have_one_colour() -> None:
    assert viewer.distinct([(0, 0, 0), (0, 0, 0), (0, 0, 1), (255, 255, 255), (255, 255, 255)]) == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 0, 2),
        (255, 255, 255),
        (0, 0, 3),
    ]


def test_a_page_has_each_image_once_with_its_numbers() -> None:
    page = run_page(review())
    data = given(page)
    assert data["runs"] == ["one"] and [each["name"] for each in data["classes"]] == list(LABELS.classes)
    assert [image["key"] for image in data["images"]][:2] == ["val/night/000", "val/night/001"]
    assert len(data["images"]) == 2 * len(HITS) == page.count('data-layer="truth" src=')
    counts_3K = example().images.counts_N3K[example().images.keys.index("val/night/000")].tolist()
    ious = [hit / (t + p - hit) for t, p, hit in zip(*counts_3K, strict=True)]
    assert data["images"][0]["runs"] == [{"iou": 0.5, "confidence": 0.4, "classes": [round(iou, 3) for iou in ious]}]
    assert data["images"][0]["site"] == "s"


def test_a_comparison_has_the_photograph_once_and_the_prediction_of_each_run() -> None:
    page = comparison_page([review("one"), review("two")])
    assert page.count('data-layer="photograph" src=') == 2 * len(HITS)
    assert page.count('data-layer="predicted" src=') == 4 * len(HITS)
    assert given(page)["runs"] == ["one", "two"]


def test_names_cannot_end_the_block_of_json() -> None:
    hostile = "</script><script>alert(1)</script><!--"
    page = run_page(replace(review(hostile), overlays=[replace(overlays()[0], key=hostile, condition=hostile)]))
    assert "alert(1)</script>" not in page and given(page)["images"][0]["key"] == hostile
    assert page.count("<script") == 2 == page.count("</script>")


def test_a_damaged_layer_is_named() -> None:
    for damaged in (b"no picture", as_jpeg(np.zeros((2, 2, 3), np.uint8)), LAYERS.truth[:30]):
        with pytest.raises(DataError, match=r"val/.*/000: a layer of it cannot be read"):
            run_page(review(layers=replace(LAYERS, predicted=damaged)))


def test_runs_without_layers_have_their_panels() -> None:
    old = [replace(overlay, layers=None) for overlay in overlays()]
    page = run_page(replace(review(), overlays=old))
    assert 'id="viewer"' not in page and page.count("data:image/jpeg") == 2 * len(HITS)
    assert 'id="viewer"' not in comparison_page([review("one"), replace(review("two"), overlays=old)])


def test_a_layer_that_does_not_shrink_is_halved_until_it_fits() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (512, 512), dtype=np.uint8)
    data = as_grey_png(noise)
    assert len(data) <= MAX_LAYER_BYTES
    assert Image.open(io.BytesIO(data)).size == (128, 128)  # of noise, 256 x 256 is 64 KiB and the file's frame


def test_a_page_of_many_large_images_is_below_four_megabytes() -> None:
    large = replace(LAYERS, photograph=bytes(MAX_LAYER_BYTES))
    many = [
        replace(overlays()[0], key=f"val/night/{n:03d}", condition="night", layers=replace(large)) for n in range(120)
    ]
    page = run_page(replace(review(), overlays=many))
    assert len(page) < 4_000_000 and "of 120 images are shown" in page


def test_images_are_sorted_by_condition_and_by_the_least_iou_of_any_run() -> None:
    def row(condition: str, *ious: float | None) -> list[Overlay]:
        return [Overlay(kind="fixed", condition=condition, key=f"{ious}", iou=iou, jpeg=b"") for iou in ious]

    rows = [row("dawn", 0.9), row("night", 0.7, 0.6), row("night", 0.8, 0.4), row("night", None, None)]
    found = viewer._sorted(rows, {"night": 0.5, "dawn": 0.9})
    assert found == [rows[2], rows[1], rows[3], rows[0]]
