"""What the counts say, as JSON: fractions in [0, 1], None where nothing was counted.

pixels          how many were counted
confidence      their mean confidence
ece             expected calibration error over NUM_BINS bins (Guo et al. 2017, equation 3): how far confidence and
                accuracy lie apart; 0 is perfect
reliability     of each bin: confidence, accuracy, pixels (Guo et al. 2017, figure 1)
aurc            area under the risk-coverage curve (Geifman, Uziel & El-Yaniv 2019): the mean over all pixels of the
                share of errors among those that the network is at least as sure of
risk_coverage   [coverage, risk]: the share of errors that is left among the most certain pixels
boundary_iou    mean over classes of the IoU of what lies near a border
borders         of each band of distance to a border: up to how many pixels (None: beyond), pixels, share of errors
objects         of each band of size: below which share of the image (None: the rest), how many, share of those
                found, share of their pixels that is right
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from distseg.evaluation.metrics import mean, ratio
from distseg.evaluation.trust.counts import BORDER_PX, NUM_LEVELS, SIZE_SHARES, TrustCounts

NUM_BINS = 15
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)

Reading = dict[str, Any]


def readings(counts: TrustCounts) -> Reading:
    right_Q, wrong_Q = counts.confidence_2Q
    total_Q = right_Q + wrong_Q
    num_pixels = int(total_Q.sum())
    bins = _reliability(right_Q, total_Q)
    off = sum(each["pixels"] * abs(each["accuracy"] - each["confidence"]) for each in bins if each["pixels"])
    truth_K, predicted_K, both_K = (part.tolist() for part in counts.boundary_3K)
    per_class = zip(truth_K, predicted_K, both_K, strict=True)
    return {
        "pixels": num_pixels,
        "confidence": ratio(float(total_Q @ _CENTRE_Q), num_pixels),
        "ece": ratio(off, num_pixels),
        "reliability": bins,
        "aurc": aurc(wrong_Q, total_Q),
        "risk_coverage": [[coverage, risk_at(coverage, wrong_Q, total_Q)] for coverage in COVERAGES],
        "boundary_iou": mean(ratio(both, truth + predicted - both) for truth, predicted, both in per_class),
        "borders": [
            {"up_to_px": up_to, "pixels": int(right + wrong), "wrong": ratio(int(wrong), int(right + wrong))}
            for up_to, right, wrong in zip((*BORDER_PX, None), *counts.borders_2D, strict=True)
        ],
        "objects": [
            {"below": below, "objects": num, "found": ratio(found, num), "right": ratio(right, area)}
            for below, (area, right, num, found) in zip((*SIZE_SHARES, None), counts.objects_S4.tolist(), strict=True)
        ],
    }


_CENTRE_Q = (np.arange(NUM_LEVELS) + 0.5) / NUM_LEVELS  # the confidence that a level stands for

Counts = npt.NDArray[np.int64]


def _reliability(right_Q: Counts, total_Q: Counts) -> list[Reading]:
    found = []
    for levels in np.split(np.arange(NUM_LEVELS), NUM_BINS):
        num = int(total_Q[levels].sum())
        sure = ratio(float(total_Q[levels] @ _CENTRE_Q[levels]), num)
        found.append({"confidence": sure, "accuracy": ratio(int(right_Q[levels].sum()), num), "pixels": num})
    return found


def aurc(wrong_Q: Counts, total_Q: Counts) -> float | None:
    """Pixels of one level are taken or refused together."""
    wrong, total = np.cumsum(wrong_Q[::-1]), np.cumsum(total_Q[::-1])
    with np.errstate(invalid="ignore"):
        risk_Q = np.nan_to_num(wrong / total)
    return ratio(float(total_Q[::-1] @ risk_Q), int(total_Q.sum()))


def risk_at(coverage: float, wrong_Q: Counts, total_Q: Counts) -> float | None:
    """The share of errors among the surest `coverage` of all pixels. Of the last level, so many as are still needed."""
    wanted, wrong, taken = coverage * float(total_Q.sum()), 0.0, 0.0
    for num_wrong, num in zip(wrong_Q[::-1].tolist(), total_Q[::-1].tolist(), strict=True):
        if num and taken < wanted:
            part = min(num, wanted - taken)
            wrong, taken = wrong + num_wrong * part / num, taken + part
    return ratio(wrong, taken)
