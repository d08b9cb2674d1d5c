import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.config import AugmentConfig
from distseg.data.loading.transforms import (
    FILL_RGB,
    Affine,
    Crop,
    blur,
    centre_crop,
    colour,
    random_affine,
    train_crop,
    warp,
)

UInt8Array = npt.NDArray[np.uint8]

PLAIN = AugmentConfig(mirror=False, scale=(1.0, 1.0), rotate_deg=0.0, blur=0.0, jitter=0.0)
PALETTE = np.zeros((256, 3), dtype=np.uint8)
PALETTE[:4] = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (200, 200, 10)]
PALETTE[255] = FILL_RGB


def blocks(height: int, width: int, block_px: int = 16) -> UInt8Array:
    """A label map of large blocks of the ids 0 … 3, no two neighbours alike."""
    y, x = np.mgrid[:height, :width] // block_px
    return np.asarray((y % 2) * 2 + x % 2, dtype=np.uint8)


def painted(label_HW: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
    """A photograph in its label's colours."""
    return PALETTE[label_HW], label_HW


def away_from_borders(label_HW: UInt8Array, margin_px: int) -> npt.NDArray[np.bool_]:
    """Pixels whose neighbours, up to margin_px away, all have the same id."""
    padded = np.pad(label_HW, margin_px, constant_values=254)  # what lies outside is not known to be the same
    size = 2 * margin_px + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    same: npt.NDArray[np.bool_] = (windows == label_HW[..., None, None]).all(axis=(2, 3))
    return same


def noise(height: int, width: int) -> tuple[UInt8Array, UInt8Array]:
    rng = np.random.default_rng(0)
    image_HW3 = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image_HW3, rng.integers(0, 4, (height, width), dtype=np.uint8)


def assert_equal(crop: Crop, image_HW3: UInt8Array, label_HW: UInt8Array) -> None:
    assert np.array_equal(crop.image_HW3, image_HW3)
    assert np.array_equal(crop.label_HW, label_HW)


# ---- the warp


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(64, 64), (90, 40), (30, 120)]))
def test_image_and_label_stay_aligned(seed: int, crop_px: tuple[int, int]) -> None:
    """Away from borders between labels, the warped photograph has the warped label's colour; void has the mean."""
    image, label = painted(blocks(80, 100))
    affine = random_affine((80, 100), crop_px, AugmentConfig(), np.random.default_rng(seed))
    crop = warp(image, label, crop_px, affine)
    assert crop.image_HW3.shape == (*crop_px, 3)
    assert crop.label_HW.shape == crop_px
    # At scale 0.5 a bilinear pixel takes from 1.5 source pixels, 3/4 of its own size, around its centre.
    inner = away_from_borders(crop.label_HW, 2)
    assert np.array_equal(crop.image_HW3[inner], PALETTE[crop.label_HW[inner]])


def test_the_identity_changes_nothing() -> None:
    image, label = noise(20, 30)
    crop = warp(image, label, (20, 30), Affine(1, 0, 0, 0, 1, 0))
    assert_equal(crop, image, label)


def test_the_mirror_is_exact() -> None:
    image, label = noise(20, 31)
    mirrored = 0
    for seed in range(20):
        crop = train_crop(image, label, (20, 31), AugmentConfig(
            mirror=True, scale=(1.0, 1.0), rotate_deg=0.0, blur=0.0
        ), np.random.default_rng(seed))  # fmt: skip
        if np.array_equal(crop.label_HW, label):
            assert_equal(crop, image, label)
        else:
            mirrored += 1
            assert_equal(crop, image[:, ::-1], label[:, ::-1])
    assert 4 <= mirrored <= 16


def test_halving_averages_four_pixels_about_the_same_centre() -> None:
    image_HW3 = np.zeros((2, 4, 3), dtype=np.uint8)
    image_HW3[:, :2] = [[[0] * 3, [40] * 3], [[80] * 3, [120] * 3]]
    image_HW3[:, 2:] = 200
    crop = warp(image_HW3, np.zeros((2, 4), dtype=np.uint8), (1, 2), Affine(2, 0, 0, 0, 2, 0))
    assert crop.image_HW3[0, :, 0].tolist() == [60, 200]


def test_a_quarter_turn_by_hand() -> None:
    """90 degrees: (x, y) in the crop comes from (y, 2 - x) in the photograph."""
    label_HW = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    crop = warp(label_HW[..., None].repeat(3, axis=2), label_HW, (2, 2), Affine(0, 1, 0, -1, 0, 2))
    assert crop.label_HW.tolist() == [[2, 0], [3, 1]]
    assert crop.image_HW3[..., 0].tolist() == [[2, 0], [3, 1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 2.0))
def test_a_photograph_smaller_than_the_crop_is_padded_with_void(seed: int, scale: float) -> None:
    image, label = painted(blocks(40, 40))
    augment = AugmentConfig(scale=(scale, scale), rotate_deg=0.0, blur=0.0)
    crop = train_crop(image, label, (100, 100), augment, np.random.default_rng(seed))
    inside = crop.label_HW != 255
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    assert abs(rows.sum() - 40 * scale) <= 1  # all of it, in a crop that is larger
    assert abs(columns.sum() - 40 * scale) <= 1
    assert inside[rows][:, columns].all()
    outside = ~inside & away_from_borders(crop.label_HW, 1)  # at its edge the photograph blends into the mean
    assert outside.any()
    assert (crop.image_HW3[outside] == FILL_RGB).all()


@pytest.mark.parametrize("place", [(0, 0), (45, 20), (85, 135)], ids=["corner", "inside", "far corner"])
def test_a_crop_for_a_class_shows_it(place: tuple[int, int]) -> None:
    """5 x 5 pixels of class 7; where the crop's edge runs through them, one in a hundred may be resampled away."""
    y, x = place
    label_HW = np.zeros((90, 140), dtype=np.uint8)
    label_HW[y : y + 5, x : x + 5] = 7
    image_HW3 = np.zeros((90, 140, 3), dtype=np.uint8)
    augment = AugmentConfig(rotate_deg=30.0, blur=0.0)

    def num_seen(target_class: int | None) -> int:
        crops = [
            train_crop(image_HW3, label_HW, (24, 36), augment, np.random.default_rng(i), target_class)
            for i in range(400)
        ]
        return sum(bool((crop.label_HW == 7).any()) for crop in crops)

    assert num_seen(7) >= 396
    assert num_seen(None) < 200
    assert num_seen(3) == num_seen(None)  # nothing of class 3 to place it about


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 2.0))
def test_a_crop_that_fits_has_no_void(seed: int, scale: float) -> None:
    image, label = painted(blocks(80, 100))
    augment = AugmentConfig(scale=(scale, scale), rotate_deg=0.0, blur=0.0)
    crop = train_crop(image, label, (40, 50), augment, np.random.default_rng(seed))
    assert (crop.label_HW != 255).all()


def test_scale_rotation_and_place_cover_their_ranges() -> None:
    augment = AugmentConfig()
    affines = [random_affine((200, 300), (100, 100), augment, np.random.default_rng([1, i])) for i in range(2000)]
    scales = np.array([1 / np.hypot(m.a, m.b) for m in affines])
    angles = np.degrees([np.arctan2(m.b, m.e) for m in affines])
    mirrored = np.array([m.a < 0 for m in affines])
    assert 0.5 <= scales.min() < 0.52
    assert 1.97 < scales.max() <= 2.0
    assert scales.mean() == pytest.approx(1.25, abs=0.05)
    assert -10 <= angles.min() < -9.8
    assert 9.8 < angles.max() <= 10
    assert mirrored.mean() == pytest.approx(0.5, abs=0.05)
    for m, scale in zip(affines, scales, strict=True):
        assert abs(m.a * m.e - m.b * m.d) == pytest.approx(1 / scale**2)  # no shear, no other stretch
        assert abs(m.a * m.b + m.d * m.e) < 1e-9
    centres = np.array([(m.a * 50 + m.b * 50 + m.c, m.d * 50 + m.e * 50 + m.f) for m in affines])
    assert (centres.min(axis=0) >= (25, 25)).all()
    assert (centres.max(axis=0) <= (275, 175)).all()
    assert centres.mean(axis=0) == pytest.approx((150, 100), abs=6)


def test_the_generator_decides_all() -> None:
    image, label = noise(60, 80)
    augment = AugmentConfig(jitter=0.3)
    first, again, other = (train_crop(image, label, (40, 40), augment, np.random.default_rng(s)) for s in (5, 5, 6))
    assert_equal(first, again.image_HW3, again.label_HW)
    assert not np.array_equal(first.image_HW3, other.image_HW3)


# ---- without augmentation


def test_the_centre_is_cut_from_a_larger_photograph() -> None:
    image, label = noise(11, 14)
    crop = centre_crop(image, label, (5, 6))
    assert_equal(crop, image[3:8, 4:10], label[3:8, 4:10])


def test_a_smaller_photograph_is_put_into_the_middle_of_void() -> None:
    image, label = noise(3, 4)
    crop = centre_crop(image, label, (8, 2))
    assert np.array_equal(crop.label_HW[2:5], label[:, 1:3])
    assert np.array_equal(crop.image_HW3[2:5], image[:, 1:3])
    assert (crop.label_HW[[0, 1, 5, 6, 7]] == 255).all()
    assert (crop.image_HW3[[0, 1, 5, 6, 7]] == FILL_RGB).all()


def test_plain_augmentation_of_the_same_size_changes_nothing() -> None:
    image, label = noise(20, 30)
    assert_equal(train_crop(image, label, (20, 30), PLAIN, np.random.default_rng(0)), image, label)


# ---- blur and colour


def test_blur_is_the_binomial_kernel() -> None:
    image_HW3 = np.zeros((9, 9, 3), dtype=np.uint8)
    image_HW3[4, 4] = 255
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    expected = np.zeros((9, 9))
    expected[2:7, 2:7] = 255 * kernel
    assert np.array_equal(blur(image_HW3)[..., 1], np.floor(expected + 0.5).astype(np.uint8))


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_blur_keeps_an_even_colour(value: int) -> None:
    assert (blur(np.full((6, 7, 3), value, dtype=np.uint8)) == value).all()


def test_blur_leaves_the_label_alone_and_comes_as_often_as_asked() -> None:
    image, label = noise(20, 30)
    augment = AugmentConfig(mirror=False, scale=(1.0, 1.0), rotate_deg=0.0, blur=0.3)
    crops = [train_crop(image, label, (20, 30), augment, np.random.default_rng(seed)) for seed in range(300)]
    assert all(np.array_equal(crop.label_HW, label) for crop in crops)
    num_blurred = sum(not np.array_equal(crop.image_HW3, image) for crop in crops)
    assert 65 <= num_blurred <= 115  # 90 expected, σ = 8


PIXELS = np.array([[[100, 50, 200], [20, 90, 40]]], dtype=np.uint8)
GREY = PIXELS[0] @ [0.299, 0.587, 0.114]  # 82.05 and 63.37: 72.71 on average


@pytest.mark.parametrize(
    ("brightness", "contrast", "saturation", "expected"),
    [
        (1.0, 1.0, 1.0, PIXELS[0]),
        (1.2, 1.0, 1.0, PIXELS[0] * 1.2),
        (1.0, 0.5, 1.0, PIXELS[0] * 0.5 + 0.5 * GREY.mean()),
        (1.0, 1.0, 0.0, np.repeat(GREY[:, None], 3, axis=1)),
        (1.0, 1.0, 1.3, PIXELS[0] * 1.3 - 0.3 * GREY[:, None]),
        (2.0, 1.0, 1.0, np.minimum(PIXELS[0] * 2.0, 255)),
    ],
    ids=["none", "brightness", "contrast", "no colour", "saturation", "clipped"],
)
def test_colour_by_hand(
    brightness: float, contrast: float, saturation: float, expected: npt.NDArray[np.float64]
) -> None:
    changed = colour(PIXELS, brightness, contrast, saturation)[0].astype(float)
    assert np.abs(changed - expected).max() <= 1


def test_jitter_changes_colours_but_not_labels() -> None:
    image, label = painted(blocks(40, 40))
    augment = AugmentConfig(mirror=False, scale=(1.0, 1.0), rotate_deg=0.0, blur=0.0, jitter=0.4)
    crops = [train_crop(image, label, (40, 40), augment, np.random.default_rng(seed)) for seed in range(50)]
    brightness = np.array([crop.image_HW3.mean() for crop in crops]) / image.mean()
    assert all(np.array_equal(crop.label_HW, label) for crop in crops)
    assert brightness.min() < 0.8
    assert brightness.max() > 1.1
