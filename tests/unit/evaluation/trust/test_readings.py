"""Calibration, risk and the rest, worked out by hand."""

import json

import numpy as np
import pytest

from distseg.evaluation.trust.counts import NUM_LEVELS, TrustCounts, num_counts
from distseg.evaluation.trust.readings import readings


def nothing() -> TrustCounts:
    return TrustCounts.of_vector(np.zeros(num_counts(2), dtype=np.int64), 2)


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    """10 pixels at confidence 0.9 of which 6 are right, 30 at 0.5 of which 15 are: 10/40 · 0.3 = 0.075."""
    counts = nothing()
    high, low = round(0.9 * NUM_LEVELS), NUM_LEVELS // 2
    counts.confidence_2Q[:, high] = 6, 4
    counts.confidence_2Q[:, low] = 15, 15
    found = readings(counts)
    half_a_level = 0.5 / NUM_LEVELS
    assert found["pixels"] == 40
    assert found["confidence"] == pytest.approx(0.25 * 0.9 + 0.75 * 0.5 + half_a_level)
    assert found["ece"] == pytest.approx(0.25 * 0.3 + half_a_level)
    assert [each["pixels"] for each in found["reliability"] if each["pixels"]] == [30, 10]
    assert found["reliability"][13] == {"confidence": pytest.approx(0.9 + half_a_level), "accuracy": 0.6, "pixels": 10}


def test_risk_falls_as_the_least_certain_pixels_are_refused() -> None:
    """Of the surest 10 pixels 1 is wrong, of the next 10 there are 5: 6/20 of all, 1/10 of half, 3.5/15 of 75 %."""
    counts = nothing()
    counts.confidence_2Q[:, 200] = 9, 1
    counts.confidence_2Q[:, 100] = 5, 5
    found = readings(counts)
    risks = dict(found["risk_coverage"])
    assert risks[1.0] == pytest.approx(0.3) and risks[0.5] == pytest.approx(0.1)
    assert risks[0.8] == pytest.approx((1 + 3) / 16)
    assert found["aurc"] == pytest.approx((10 * 0.1 + 10 * 0.3) / 20)


def test_boundary_iou_is_the_mean_over_classes() -> None:
    counts = nothing()
    counts.boundary_3K[:] = [[4, 6], [4, 2], [2, 2]]  # 2 / (4 + 4 - 2) and 2 / (6 + 2 - 2)
    assert readings(counts)["boundary_iou"] == pytest.approx(1 / 3)


def test_bands_of_distance_and_of_size_are_shares() -> None:
    counts = nothing()
    counts.borders_2D[:, 0] = 3, 1
    counts.objects_S4[1] = 100, 40, 5, 2
    found = readings(counts)
    assert found["borders"][0] == {"up_to_px": 3, "pixels": 4, "wrong": 0.25}
    assert found["borders"][-1] == {"up_to_px": None, "pixels": 0, "wrong": None}
    assert found["objects"][1] == {"below": 0.01, "objects": 5, "found": 0.4, "right": 0.4}


def test_nothing_counted_is_nothing_said() -> None:
    found = readings(nothing())
    assert found["ece"] is None and found["aurc"] is None and found["boundary_iou"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
