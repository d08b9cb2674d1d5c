"""What is counted of one image to tell whether a network can be trusted: integers, added up over images and ranks.

Counted are the pixels of every third row and column that are not void: a ninth of all. That is plenty, since
neighbours are alike, and costs a ninth of the time. Distances are measured on that grid (chessboard distance).

    confidence   the largest softmax of a pixel, in NUM_LEVELS steps: how many pixels of each are right, and wrong
    borders      right and wrong pixels, by their distance to the nearest border between two classes in the truth
    boundary     per class: pixels near its border in the truth, in the prediction, and in both with the same class
    objects      connected pixels of one class in the truth, by their size: pixels, right ones, objects, found objects

The pages of a run show what is made of them; the terminal's table and MLflow do not. What is to be
counted of every pixel has its place in `scoring`.

Shapes: h, w the grid; K classes; N numbers of `as_vector`.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distseg.label_maps import IGNORE_INDEX

STRIDE = 3
NUM_LEVELS = 240
BORDER_REACHES = (0, 1, 3, 7)  # pixels of the grid: each band is up to there, the last one is all beyond
BORDER_PX = tuple(STRIDE * (reach + 1) for reach in BORDER_REACHES)  # the same in pixels of the image
SIZE_SHARES = (0.001, 0.01, 0.1)  # of the image: an object is in the first band whose share is above its own
FOUND_SHARE = 0.5  # an object counts as found if so much of it is right
BOUNDARY_SHARE = 0.005  # of the image's diagonal: Cheng et al. 2021, "Boundary IoU", section 5, for Cityscapes

Ids = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TrustCounts:
    """Of any number of images."""

    confidence_2Q: Counts  # right, wrong; by level
    borders_2D: Counts  # right, wrong; by band
    boundary_3K: Counts  # truth, predicted, both
    objects_S4: Counts  # pixels, right pixels, objects, found objects; by band of size

    @classmethod
    def of_vector(cls, counts_N: Counts, num_classes: int) -> "TrustCounts":
        parts = np.split(counts_N, np.cumsum([rows * columns for rows, columns in _shapes(num_classes)])[:-1])
        return cls(*(part.reshape(shape) for part, shape in zip(parts, _shapes(num_classes), strict=True)))

    def as_vector(self) -> Counts:
        return np.concatenate([part.reshape(-1) for part in vars(self).values()])


def _shapes(num_classes: int) -> tuple[tuple[int, int], ...]:
    return (2, NUM_LEVELS), (2, len(BORDER_REACHES) + 1), (3, num_classes), (len(SIZE_SHARES) + 1, 4)


def num_counts(num_classes: int) -> int:
    return sum(rows * columns for rows, columns in _shapes(num_classes))


def count_image(truth_hw: Ids, predicted_hw: Ids, level_hw: Ids, num_classes: int) -> TrustCounts:
    """Of one image's grid. `level_hw`: its confidence, as `inference` gives it. Void is 255 in the truth alone."""
    is_valid = truth_hw != IGNORE_INDEX
    is_wrong = truth_hw != predicted_hw
    wrong_P = is_wrong[is_valid]
    confidence = _right_and_wrong(wrong_P, level_hw[is_valid], NUM_LEVELS)
    near = dilations(borders(truth_hw), BORDER_REACHES)
    band_hw = len(near) - np.stack(near).sum(0, dtype=np.uint8)
    distances = _right_and_wrong(wrong_P, band_hw[is_valid], len(near) + 1)
    boundary = _boundary(truth_hw, predicted_hw, is_valid, num_classes)
    return TrustCounts(confidence, distances, boundary, _objects(truth_hw, is_valid, ~is_wrong))


def _right_and_wrong(wrong_P: Mask, bins_P: Ids, num_bins: int) -> Counts:
    pairs_P = bins_P.astype(np.int64) + num_bins * wrong_P
    return np.bincount(pairs_P, minlength=2 * num_bins).reshape(2, num_bins)


# ---- borders


def borders(ids_hw: Ids) -> Mask:
    """Pixels that have another class beside, above or below them. Void is no class: beside it there is no border."""
    found = np.zeros(ids_hw.shape, dtype=np.bool_)
    is_class = ids_hw != IGNORE_INDEX
    for one, other in (((slice(1, None),), (slice(None, -1),)), ((..., slice(1, None)), (..., slice(None, -1)))):
        differs = (ids_hw[one] != ids_hw[other]) & is_class[one] & is_class[other]
        found[one] |= differs
        found[other] |= differs
    return found


def dilations(is_there_hw: Mask, reaches: tuple[int, ...]) -> list[Mask]:
    """The pixels at a chessboard distance of at most each of `reaches`, which grow."""
    found, done = [], 0
    for reach in reaches:
        is_there_hw = _dilated(_dilated(is_there_hw, reach - done).T, reach - done).T
        found.append(is_there_hw)
        done = reach
    return found


def _dilated(is_there_hw: Mask, reach: int) -> Mask:
    """Along the columns. What reaches d pixels reaches 3d + 1 after one more shift, so there are few of them."""
    done = 0
    while done < reach:
        step = min(reach - done, 2 * done + 1)
        wider_hw = is_there_hw.copy()
        wider_hw[step:] |= is_there_hw[:-step]
        wider_hw[:-step] |= is_there_hw[step:]
        is_there_hw, done = wider_hw, done + step
    return is_there_hw


def _boundary(truth_hw: Ids, predicted_hw: Ids, is_valid: Mask, num_classes: int) -> Counts:
    """Cheng et al. 2021, equation 3, with class borders in place of those of single objects."""
    diagonal_px = STRIDE * math.hypot(*truth_hw.shape)
    reach = max(STRIDE, round(BOUNDARY_SHARE * diagonal_px)) // STRIDE - 1
    near_truth, near_predicted = (
        dilations(borders(ids_hw), (reach,))[0] & is_valid for ids_hw in (truth_hw, predicted_hw)
    )
    both = near_truth & near_predicted & (truth_hw == predicted_hw)
    parts = truth_hw[near_truth], predicted_hw[near_predicted], truth_hw[both]
    return np.stack([np.bincount(part, minlength=num_classes) for part in parts])


# ---- objects


def _objects(truth_hw: Ids, is_valid: Mask, is_right: Mask) -> Counts:
    number_hw = connected(truth_hw, is_valid)
    area_M = np.bincount(number_hw.reshape(-1))
    right_M = np.bincount(number_hw[is_right], minlength=len(area_M))
    area_M, right_M = area_M[1:], right_M[1:]  # 0: void
    band_M = np.searchsorted(np.array(SIZE_SHARES) * truth_hw.size, area_M, side="right")
    found_M = right_M >= FOUND_SHARE * area_M
    columns = (area_M, right_M, np.ones_like(area_M), found_M)
    num_bands = len(SIZE_SHARES) + 1
    return np.stack([np.bincount(band_M, column, num_bands) for column in columns], 1).astype(np.int64)


def connected(ids_hw: Ids, is_valid: Mask) -> npt.NDArray[np.int32]:
    """Numbers the areas of one class, from 1 on; 0 where it is not valid.

    scipy numbers the areas of a mask. So between any two pixels one more is put, which is set where both have one
    class: then all classes take a single pass.
    """
    from scipy import ndimage  # here, as it takes a while to import

    height, width = ids_hw.shape
    mask = np.zeros((2 * height - 1, 2 * width - 1), dtype=np.bool_)
    mask[::2, ::2] = is_valid
    mask[1::2, ::2] = (ids_hw[1:] == ids_hw[:-1]) & is_valid[1:]
    mask[::2, 1::2] = (ids_hw[:, 1:] == ids_hw[:, :-1]) & is_valid[:, 1:]
    numbers, _ = ndimage.label(mask)
    found: npt.NDArray[np.int32] = numbers[::2, ::2]
    return found
