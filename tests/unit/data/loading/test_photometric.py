"""Photometric randomisation: values by hand, and what is random about it."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from distseg.config import AugmentConfig, recipes, with_overrides
from distseg.data.loading import photometric
from distseg.data.loading.transforms import train_crop
from distseg.errors import ConfigError

PLAIN = AugmentConfig(mirror=False, scale=(1.0, 1.0), rotate_deg=0.0, blur=0.0)
ALL = replace(PLAIN, gamma=1.0, temperature=0.3, noise=0.1, fog=0.8, rain=1.0)
GREY = np.full((4, 3, 3), 100, dtype=np.uint8)
LABEL = np.zeros((32, 48), dtype=np.uint8)


def photograph() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_fog_veils_the_upper_edge_by_its_density_and_the_bottom_least() -> None:
    rows = photometric.fog(GREY, 0.8)[:, 0, 0]  # 100 + (200 - 100) · 0.8 · (4, 3, 2, 1) / 4
    assert rows.tolist() == [180, 160, 140, 120]


def test_rain_falls_downwards_from_its_start_and_slants() -> None:
    starts = np.zeros((4, 3), dtype=bool)
    starts[1, 0] = True
    right = photometric.rain(GREY, starts, 1.0)[..., 0]  # half of 100 and half of 200
    assert right.tolist() == [[100, 100, 100], [150, 100, 100], [100, 150, 100], [100, 100, 150]]
    left = photometric.rain(GREY, np.fliplr(starts), -1.0)[..., 0]
    assert left.tolist() == np.fliplr(right).tolist()


def test_gamma_2_squares_and_warmth_raises_red_against_blue() -> None:
    squared = photometric.toned(GREY, 2.0, 0.0)  # 255 · (100 / 255)² = 39.2
    assert np.unique(squared).tolist() == [39]
    warm = photometric.toned(GREY, 1.0, 0.2)
    assert warm[0, 0].tolist() == [120, 100, 80]


def test_noise_has_the_deviation_that_was_drawn_and_no_mean() -> None:
    only_noise = replace(PLAIN, noise=0.2)
    grey = np.full((100, 100, 3), 128, dtype=np.uint8)
    found = [photometric.randomised(grey, only_noise, np.random.default_rng(seed)).astype(float) for seed in range(8)]
    deviations = [image.std() for image in found]
    assert 0 in deviations  # half of the images have none
    assert 5 < max(deviations) < 0.2 * 255
    assert all(abs(image.mean() - 128) < 1 for image in found)


def test_effects_that_are_off_leave_a_crop_as_it_was_and_draw_no_number() -> None:
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    image = photograph()
    assert photometric.randomised(image, PLAIN, rng) is image
    assert rng.random() == same.random()


def test_a_crop_is_a_function_of_its_generator_and_its_labels_do_not_change() -> None:
    image = photograph()
    first, again, other = (
        train_crop(image, LABEL, (32, 48), ALL, np.random.default_rng(seed)) for seed in ([0, 5], [0, 5], [0, 6])
    )
    assert np.array_equal(first.image_HW3, again.image_HW3)
    assert not np.array_equal(first.image_HW3, other.image_HW3)
    assert not np.array_equal(first.image_HW3, image)
    assert first.image_HW3.dtype == np.uint8
    assert np.array_equal(first.label_HW, LABEL)


@pytest.mark.parametrize(
    ("field", "value"), [("gamma", -1.0), ("temperature", 1.0), ("noise", 1.5), ("fog", -0.1), ("rain", 2.0)]
)
def test_a_strength_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"augment.{field} = "):
        with_overrides(recipes.pspnet_town(), {f"augment.{field}": value})
