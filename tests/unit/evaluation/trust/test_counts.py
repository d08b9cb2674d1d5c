"""What is counted of one image, worked out by hand on small grids."""

import numpy as np
import pytest

from distseg.evaluation.trust.counts import NUM_LEVELS, TrustCounts, borders, connected, count_image, dilations

VOID = 255
TRUTH = np.array(
    [
        [0, 0, 0, 1],
        [0, 0, 0, 1],
        [0, 0, VOID, VOID],
        [2, 0, 0, 0],
    ],
    dtype=np.uint8,
)


def counted(predicted: np.ndarray, level: int = 120) -> TrustCounts:
    return count_image(TRUTH, predicted.astype(np.uint8), np.full(TRUTH.shape, level, np.uint8), 3)


def test_right_and_wrong_pixels_are_counted_by_their_confidence_and_void_is_not() -> None:
    predicted = np.where(TRUTH == VOID, 1, TRUTH)
    predicted[0, 0] = 2
    found = counted(predicted)
    assert found.confidence_2Q.shape == (2, NUM_LEVELS)
    assert found.confidence_2Q[:, 120].tolist() == [13, 1] and found.confidence_2Q.sum() == 14


def test_a_border_lies_between_two_classes_and_not_beside_void() -> None:
    assert borders(TRUTH).astype(int).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]


def test_errors_are_counted_by_their_distance_to_the_nearest_border() -> None:
    predicted = np.where(TRUTH == VOID, 1, TRUTH)
    predicted[0, 0] = 2  # two pixels from both borders
    predicted[0, 3] = 0  # on one
    right, wrong = counted(predicted).borders_2D
    assert right.tolist() == [6, 5, 1, 0, 0] and wrong.tolist() == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("reach", [0, 1, 2, 5, 9])
def test_what_is_reached_lies_within_a_square(reach: int) -> None:
    point = np.zeros((15, 17), dtype=np.bool_)
    point[6, 4] = True
    (found,) = dilations(point, (reach,))
    y, x = np.indices(point.shape)
    assert (found == (np.maximum(abs(y - 6), abs(x - 4)) <= reach)).all()


def test_boundaries_agree_where_truth_and_prediction_have_a_border_of_one_class() -> None:
    """The prediction is the truth, but that its class 1 begins one column further to the left."""
    truth = np.zeros((4, 6), np.uint8)
    truth[:, 3:] = 1
    predicted = np.zeros((4, 6), np.uint8)
    predicted[:, 2:] = 1
    found = count_image(truth, predicted, np.zeros((4, 6), np.uint8), 2)
    assert found.boundary_3K.tolist() == [[4, 4], [4, 4], [0, 0]]  # columns 2 | 3 against 1 | 2
    same = count_image(truth, truth, np.zeros((4, 6), np.uint8), 2)
    assert same.boundary_3K.tolist() == [[4, 4], [4, 4], [4, 4]]


def test_objects_are_connected_pixels_of_one_class() -> None:
    """Class 0 is one area, since its last row is joined by (2, 1) and (3, 1)."""
    numbers = connected(TRUTH, TRUTH != VOID)
    assert numbers.max() == 3 and (numbers[TRUTH == VOID] == 0).all()
    assert len(set(numbers[TRUTH == 0].tolist())) == 1


def test_an_object_is_found_if_half_of_it_is_right() -> None:
    truth = np.zeros((40, 50), np.uint8)  # 2000 pixels: bands end at 2, 20 and 200
    truth[0, 0] = 1  # 1 pixel, missed
    truth[4, 0:4] = 1  # 4 pixels, half of it right
    truth[8:18, 0:10] = 2  # 100 pixels, 40 of them right
    predicted = np.zeros((40, 50), np.uint8)
    predicted[4, 0:2] = 1
    predicted[8:12, 0:10] = 2
    found = count_image(truth, predicted, np.zeros((40, 50), np.uint8), 3)
    assert found.objects_S4.tolist() == [[1, 0, 1, 0], [4, 2, 1, 1], [100, 40, 1, 0], [1895, 1895, 1, 1]]


def test_counts_are_one_row_of_numbers_that_can_be_added_up() -> None:
    found = counted(np.zeros_like(TRUTH))
    twice = TrustCounts.of_vector(2 * found.as_vector(), 3)
    for part, doubled in zip(vars(found).values(), vars(twice).values(), strict=True):
        assert (doubled == 2 * part).all()


def test_an_image_that_is_all_void_counts_nothing() -> None:
    void = np.full((3, 4), VOID, np.uint8)
    assert count_image(void, np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8), 3).as_vector().sum() == 0
