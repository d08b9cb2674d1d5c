"""Figures of predictions without labels, worked out by hand."""

import math

import pytest
import torch

from distseg.evaluation import Criteria, World

CPU = torch.device("cpu")


def of(
    *pixels: tuple[float, ...], others: tuple[int, ...] = (), labelled: tuple[int, ...] | None = None
) -> dict[str, float]:
    """The figures of one image of so many pixels, each with the probabilities of its classes."""
    criteria = Criteria(len(pixels[0]), CPU)
    p_BKhw = torch.tensor(pixels).T[None, :, None]
    criteria.add(p_BKhw, torch.tensor(others).view(1, 1, -1) if others else None)
    return criteria.values(World(), labelled)


def test_a_network_that_knows_nothing_and_one_that_is_sure() -> None:
    assert of((0.5, 0.5), (0.5, 0.5)) == pytest.approx({"certainty": 0, "information": 0})
    assert of((1.0, 0.0), (0.0, 1.0)) == pytest.approx({"certainty": 1, "information": 1})
    sure_of_one_class = of((1.0, 0.0), (1.0, 0.0))
    assert sure_of_one_class == pytest.approx({"certainty": 1, "information": 0})
    mean = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert of((0.75, 0.25))["certainty"] == pytest.approx(1 - mean)


def test_of_one_class_everything_is_certain_and_nothing_is_told() -> None:
    found = of((1.0,), (1.0,), others=(0, 0), labelled=(9,))
    assert found == {"certainty": 1, "information": 0, "agreement": 1, "class_ratios": 1}


def test_agreement_counts_pixels() -> None:
    assert of((0.9, 0.1), (0.2, 0.8), (0.6, 0.4), others=(0, 0, 0))["agreement"] == pytest.approx(2 / 3)


def test_class_ratios_are_compared_with_the_labelled_ones() -> None:
    half = ((1.0, 0.0), (0.0, 1.0))
    assert of(*half, labelled=(70, 70))["class_ratios"] == pytest.approx(1)
    assert of((1.0, 0.0), labelled=(0, 9))["class_ratios"] == pytest.approx(0)
    # (1/2, 1/2) and (1, 0): H(3/4, 1/4) - H(1/2, 1/2) / 2 = 0.811 - 0.5 bits
    assert of(*half, labelled=(5, 0))["class_ratios"] == pytest.approx(1 - (0.811278 - 0.5), abs=1e-6)


def test_images_add_up_and_no_image_gives_nothing() -> None:
    criteria = Criteria(2, CPU)
    assert criteria.values(World()) == {}
    for pixel in ((1.0, 0.0), (0.0, 1.0)):
        criteria.add(torch.tensor(pixel).view(1, 2, 1, 1))
    assert criteria.values(World()) == pytest.approx({"certainty": 1, "information": 1})
