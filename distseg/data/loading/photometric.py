"""Photometric randomisation: weather, light and cameras that the training images do not show, labels as they are.

    randomised(image_HW3, augment, rng) -> image_HW3      uint8, each effect in about half of the images

In the order in which they arise: fog and rain in the scene, gamma and colour temperature in the camera, noise on its
sensor. Each field of AugmentConfig is the largest strength, drawn anew for each crop; 0 is off and draws nothing.
"""

import numpy as np
import numpy.typing as npt

from distseg.config import AugmentConfig

UInt8Array = npt.NDArray[np.uint8]

FOG_GREY = 200.0  # what dense fog looks like by day
RAIN_GREY, RAIN_OPACITY = 200.0, 0.5  # of a streak
RAIN_SHARE = 0.01  # of the pixels begin a streak, at strength 1
STREAK_PX, SLANT = 9, 0.3  # length of a streak; pixels it moves sideways for each one down, at most
PROBABILITY = 0.5


def is_on(augment: AugmentConfig) -> bool:
    return any((augment.fog, augment.rain, augment.gamma, augment.temperature, augment.noise))


def randomised(image_HW3: UInt8Array, augment: AugmentConfig, rng: np.random.Generator) -> UInt8Array:
    if density := _drawn(augment.fog, rng):
        image_HW3 = fog(image_HW3, density)
    if amount := _drawn(augment.rain, rng):
        starts_HW = rng.random(image_HW3.shape[:2], dtype=np.float32) < amount * RAIN_SHARE
        image_HW3 = rain(image_HW3, starts_HW, float(rng.uniform(-SLANT, SLANT)))
    power, warmth = _drawn(augment.gamma, rng), _drawn(augment.temperature, rng)
    if power or warmth:
        signs = rng.choice((-1.0, 1.0), 2)
        image_HW3 = toned(image_HW3, float((1 + power) ** signs[0]), float(warmth * signs[1]))
    if deviation := _drawn(augment.noise, rng):
        noise_HW3 = rng.standard_normal(image_HW3.shape, dtype=np.float32)
        image_HW3 = _rounded(image_HW3 + noise_HW3 * np.float32(255 * deviation))
    return image_HW3


def _drawn(strength: float, rng: np.random.Generator) -> float:
    """Between 0 and `strength`; 0 for images without the effect. An effect that is off draws no number."""
    if not strength or rng.random() >= PROBABILITY:
        return 0.0
    return float(rng.uniform(0, strength))


def fog(image_HW3: UInt8Array, density: float) -> UInt8Array:
    """c · t + grey · (1 - t): Koschmieder's law. No depth is known: it is taken to grow evenly from bottom to top.

    `density` is 1 - t at the upper edge.
    """
    height = len(image_HW3)
    veil_H11 = np.float32(density) * ((height - np.arange(height, dtype=np.float32)) / height)[:, None, None]
    return _rounded(image_HW3 * (1 - veil_H11) + FOG_GREY * veil_H11)


def rain(image_HW3: UInt8Array, starts_HW: npt.NDArray[np.bool_], slant: float) -> UInt8Array:
    """Bright streaks of STREAK_PX pixels downwards from each start; each pixel down is `slant` pixels to the right."""
    height, width = starts_HW.shape
    streaks_HW = np.zeros_like(starts_HW)
    for down in range(min(STREAK_PX, height)):
        right = round(down * slant)
        to_left, to_right = max(right, 0), min(width + right, width)
        streaks_HW[down:, to_left:to_right] |= starts_HW[: height - down, to_left - right : to_right - right]
    opacity_HW1 = (streaks_HW * np.float32(RAIN_OPACITY))[..., None]
    return _rounded(image_HW3 * (1 - opacity_HW1) + RAIN_GREY * opacity_HW1)


def toned(image_HW3: UInt8Array, gamma: float, warmth: float) -> UInt8Array:
    """255 · (c / 255)^gamma, then red times 1 + warmth and blue times 1 - warmth: by a table for each channel."""
    curve_256 = 255 * (np.arange(256, dtype=np.float64) / 255) ** gamma
    toned_HW3 = np.empty_like(image_HW3)
    for channel, gain in enumerate((1 + warmth, 1.0, 1 - warmth)):
        toned_HW3[..., channel] = _rounded(curve_256 * gain)[image_HW3[..., channel]]
    return toned_HW3


def _rounded(values: npt.NDArray[np.floating]) -> UInt8Array:
    rounded: UInt8Array = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    return rounded
