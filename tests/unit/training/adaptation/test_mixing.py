"""Class mixing, masks and pseudo labels: small cases by hand."""

import pytest
import torch

from distseg.training.adaptation import mixing
from distseg.training.losses import log_probabilities, weighted_cross_entropy

VOID = 255


def test_half_of_the_classes_of_each_image_are_pasted_rounded_up_and_void_never() -> None:
    labels = torch.tensor([[[0, 0, 2, VOID]], [[1, 1, 1, VOID]], [[VOID] * 4], [[0, 1, 2, 3]]], dtype=torch.uint8)
    scores = torch.tensor([[0.9, 0.0, 0.3, 0.5], [0.9, 0.8, 0.3, 0.1], [0.0] * 4, [0.4, 0.1, 0.3, 0.2]])
    pasted = mixing.pasted_pixels(labels, scores)
    assert pasted[:, 0].tolist() == [
        [False, False, True, False],  # one of classes 0 and 2: that of the lower score; class 1 is not there
        [True, True, True, False],
        [False] * 4,
        [False, True, False, True],
    ]


def test_pseudo_labels_are_the_teachers_classes_and_their_quality_the_share_of_sure_pixels() -> None:
    sure, unsure = torch.tensor([0.95, 0.05]).log(), torch.tensor([0.4, 0.6]).log()
    logits = torch.stack([sure, unsure, unsure, unsure]).T.reshape(1, 2, 2, 2)
    found = mixing.pseudo_labels(logits, 0.9)
    assert found.labels_BHW.tolist() == [[[0, 1], [1, 1]]]
    assert found.quality_B.tolist() == [0.25]


def test_a_mask_hides_whole_squares_and_about_its_share_of_them() -> None:
    visible = mixing.visible_pixels(0, range(50), (5, 9), 0.7, 4)
    assert visible.shape == (50, 1, 5, 9)
    squares = visible[:, :, ::4, ::4]
    assert torch.equal(squares.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, :, :5, :9], visible)
    assert 0.2 < squares.double().mean() < 0.4


def test_choices_are_of_the_position_and_the_seed_not_of_the_batch() -> None:
    def all_of(seed: int, positions: list[int]) -> list[torch.Tensor]:
        scores, factors = mixing.class_scores(seed, positions), mixing.jitter_factors(seed, positions, 0.5)
        return [scores, factors, mixing.visible_pixels(seed, positions, (8, 8), 0.5, 1)]

    for both, alone, others in zip(all_of(3, [7, 8]), all_of(3, [8]), all_of(4, [8]), strict=True):
        assert torch.equal(both[1:], alone)
        assert not torch.equal(both[0], both[1])
        assert not torch.equal(alone, others)


def test_jitter_by_hand() -> None:
    images = torch.tensor([100.0, 50.0, 20.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2).double()
    grey = 0.299 * 100 + 0.587 * 50 + 0.114 * 20
    for factors, expected in (
        ([2.0, 1.0, 1.0], [200, 100, 40]),
        ([1.0, 0.5, 1.0], [(grey + 100) / 2, (grey + 50) / 2, (grey + 20) / 2]),  # the mean grey is each pixel's
        ([1.0, 1.0, 0.0], [grey] * 3),
        ([3.0, 1.0, 1.0], [255, 150, 60]),
    ):
        found = mixing.jittered(images, torch.tensor([factors]))[0, :, 0, 0]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_each_pixels_cross_entropy_counts_with_its_own_weight_and_its_classs() -> None:
    log_p = log_probabilities(torch.zeros(1, 2, 1, 3, dtype=torch.float64), torch.zeros(1, 1, 3))  # each -ln 2
    labels, weights = torch.tensor([[[0, 1, VOID]]], dtype=torch.uint8), torch.tensor([[[0.5, 1.0, 1.0]]]).double()
    ln2 = torch.tensor(2.0).log().item()
    assert weighted_cross_entropy(log_p, labels, weights).item() == pytest.approx(1.5 * ln2)
    by_class = weighted_cross_entropy(log_p, labels, weights, torch.tensor([4.0, 1.0]))
    assert by_class.item() == pytest.approx((0.5 * 4 + 1) * ln2)
