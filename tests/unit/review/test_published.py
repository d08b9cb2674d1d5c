"""Figures of papers beside ours."""

import pytest

from distseg.review.comparison import comparison_page
from distseg.review.published import PUBLISHED, published
from tests.unit.review.test_pages import checked, review
from tests.unit.reviews import example


def test_published_tables_stand_beside_ours() -> None:
    table = example().table
    table["sites"] = {"new-york": table["sites"]["town"]}
    runs = [review(name, dataset="synthia", table=table) for name in ("a", "b")]
    page = checked(comparison_page(runs))
    assert "improved PSPNet 0.625 0.572 0.579 0.567" in page.text
    assert "Song, Zhang, Park 2021" in page.text
    assert "0.714" not in page.text  # the highway's


def test_published_scores_are_fractions_and_their_means_are_the_papers() -> None:
    for entry in PUBLISHED:
        assert 0 < entry.miou < 1
        if entry.conditions:
            mean = sum(entry.conditions.values()) / len(entry.conditions)
            assert mean == pytest.approx(entry.miou, abs=1e-3), entry  # the paper cuts off 69.28 to 69.2
    assert {entry.dataset for entry in PUBLISHED} == {"synthia", "cityscapes", "ade20k", "voc", "camvid"}
    assert len(published("synthia", ["highway", "new-york"])) == 4
    assert published("town") == ()
