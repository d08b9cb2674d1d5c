"""Training augmentation of an image and its label map, with an explicit random generator.

    train_crop(image_HW3, label_HW, crop_px, augment, rng) -> Crop      uint8 (H, W, 3), train ids (H, W)
    centre_crop(image_HW3, label_HW, crop_px) -> Crop                   the same without augmentation

Scale, rotation, mirroring and the position of the crop are one affine map from the crop back to the photograph. So each
pixel is resampled once and only the crop is computed: bilinear for the image, nearest for the labels, with the same
pixel centres. Outside the photograph the label is void and the image has the mean colour.
Blur, colour jitter and photometric randomisation follow, on the crop. Of torch only `grid_sample` on one image is used,
which starts no threads of its own.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from distseg.config import AugmentConfig
from distseg.data import IGNORE_INDEX, MEAN_RGB
from distseg.data.loading import photometric

UInt8Array = npt.NDArray[np.uint8]

FILL_RGB = tuple(map(round, MEAN_RGB))
"""ImageNet's mean colour, to which normalisation gives 0: what padding should be (Zhao et al.'s code pads with it)."""


_PADDING = np.array(FILL_RGB, dtype=np.float32)


class Crop(NamedTuple):
    image_HW3: UInt8Array
    label_HW: UInt8Array


class Affine(NamedTuple):
    """(x, y) in the crop -> (a·x + b·y + c, d·x + e·y + f) in the photograph; the centre of pixel 0 is at 0.5."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float


def train_crop(
    image_HW3: UInt8Array,
    label_HW: UInt8Array,
    crop_px: tuple[int, int],
    augment: AugmentConfig,
    rng: np.random.Generator,
    target_class: int | None = None,
) -> Crop:
    """A random crop of crop_px (height, width), padded where the photograph ends.

    If `target_class` is given, the crop shows a random pixel of that class, if there is one: most crops of a photograph
    that was drawn for a rare class would miss it.
    """
    about = None if target_class is None else random_pixel(label_HW == target_class, rng)
    affine = random_affine(_size(label_HW), crop_px, augment, rng, about)
    image_HW3, label_HW = warp(image_HW3, label_HW, crop_px, affine)
    if rng.random() < augment.blur:
        image_HW3 = blur(image_HW3)
    if augment.jitter:
        image_HW3 = jitter(image_HW3, augment.jitter, rng)
    if photometric.is_on(augment):
        image_HW3 = photometric.randomised(image_HW3, augment, rng)
    return Crop(image_HW3, label_HW)


def random_pixel(mask_HW: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int] | None:
    """(y, x) of one of the pixels that are True; None if there is none."""
    places = np.flatnonzero(mask_HW)
    if not len(places):
        return None
    y, x = divmod(int(places[rng.integers(len(places))]), mask_HW.shape[1])
    return y, x


def random_affine(
    size_px: tuple[int, int],
    crop_px: tuple[int, int],
    augment: AugmentConfig,
    rng: np.random.Generator,
    about: tuple[int, int] | None = None,
) -> Affine:
    """Scale, rotation, mirror and place of the crop, drawn at random.

    Along each axis the crop lies anywhere in the scaled photograph; a crop larger than it contains all of it. If a
    pixel `about` (y, x) is given, the crop lies at a random one of those places where it contains the pixel, or, if
    none of them does, at the nearest place that does.
    """
    scale = float(rng.uniform(*augment.scale))
    angle = math.radians(float(rng.uniform(-augment.rotate_deg, augment.rotate_deg)))
    mirror = -1.0 if augment.mirror and rng.random() < 0.5 else 1.0
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    centres = []
    for axis, (side, crop_side) in enumerate(zip(size_px, crop_px, strict=True)):
        middle, freedom = side / 2, abs(side - crop_side / scale)
        if about is not None:
            reach = crop_side / scale / 2 * _unturned_part(crop_px, angle)
            least, most = about[axis] + 0.5 - reach, about[axis] + 0.5 + reach
            low, high = (min(max(end, least), most) for end in (middle - freedom / 2, middle + freedom / 2))
            middle, freedom = (low + high) / 2, high - low
        centres.append(middle + (float(rng.random()) - 0.5) * freedom)
    centre_y, centre_x = centres
    a, b, d, e = mirror * cos, sin, -mirror * sin, cos
    crop_y, crop_x = crop_px[0] / 2, crop_px[1] / 2
    return Affine(a, b, centre_x - a * crop_x - b * crop_y, d, e, centre_y - d * crop_x - e * crop_y)


def _unturned_part(crop_px: tuple[int, int], angle: float) -> float:
    """The largest upright rectangle of the crop's shape inside the turned crop, as a share of the crop's sides."""
    (height, width), cos, sin = crop_px, math.cos(angle), abs(math.sin(angle))
    return min(height / (height * cos + width * sin), width / (width * cos + height * sin))


def _size(label_HW: UInt8Array) -> tuple[int, int]:
    height, width = label_HW.shape
    return height, width


def warp(image_HW3: UInt8Array, label_HW: UInt8Array, crop_px: tuple[int, int], affine: Affine) -> Crop:
    height, width = crop_px
    nearest = Image.Resampling.NEAREST
    label = Image.fromarray(label_HW)
    label = label.transform((width, height), Image.Transform.AFFINE, affine, nearest, fillcolor=IGNORE_INDEX)
    return Crop(_warp_image(image_HW3, crop_px, affine), np.asarray(label))


def _warp_image(image_HW3: UInt8Array, crop_px: tuple[int, int], affine: Affine) -> UInt8Array:
    """Bilinear, by torch's grid_sample, which is twice as fast as Pillow's transform, and rounds where that cuts off.

    The padding colour is subtracted before and added after, so that the zeros that pad the outside become it.
    """
    height, width, _ = image_HW3.shape
    left, top, right, bottom = _source_box((height, width), crop_px, affine)
    pixels_HW3 = image_HW3[top:bottom, left:right]
    source_HW3 = (pixels_HW3.reshape(bottom - top, -1) - np.tile(_PADDING, right - left)).reshape(pixels_HW3.shape)
    local = affine._replace(c=affine.c - left, f=affine.f - top)
    sampled_13HW = torch.nn.functional.grid_sample(
        torch.from_numpy(source_HW3).permute(2, 0, 1)[None],
        torch.from_numpy(_grid(local, crop_px, (bottom - top, right - left)))[None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    warped_HW3 = np.empty((*crop_px, 3), dtype=np.uint8)
    for channel, sampled_HW in enumerate(sampled_13HW[0].numpy()):
        warped_HW3[..., channel] = sampled_HW + (_PADDING[channel] + np.float32(0.5))
    return warped_HW3


def _grid(affine: Affine, crop_px: tuple[int, int], source_px: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(H, W, 2): where each pixel of the crop comes from, x and y in [-1, 1] from edge to edge of the source."""
    a, b, c, d, e, f = affine
    y_H, x_W = (np.arange(side) + 0.5 for side in crop_px)
    grid_HW2 = np.empty((*crop_px, 2), dtype=np.float32)
    for axis, side, along_W, along_H in (
        (0, source_px[1], a * x_W + c, b * y_H),
        (1, source_px[0], d * x_W + f, e * y_H),
    ):
        row_W, column_H1 = along_W * (2 / side) - 1, along_H[:, None] * (2 / side)
        np.add(row_W.astype(np.float32), column_H1.astype(np.float32), out=grid_HW2[..., axis])
    return grid_HW2


def _source_box(size_px: tuple[int, int], crop_px: tuple[int, int], affine: Affine) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the part of the photograph that the crop may need: at least one pixel."""
    a, b, c, d, e, f = affine
    (height, width), (crop_height, crop_width) = size_px, crop_px
    xs = [a * x + b * y + c for x in (0, crop_width) for y in (0, crop_height)]
    ys = [d * x + e * y + f for x in (0, crop_width) for y in (0, crop_height)]
    left, right = (min(max(math.floor(x), 0), width) for x in (min(xs) - 1, max(xs) + 2))
    top, bottom = (min(max(math.floor(y), 0), height) for y in (min(ys) - 1, max(ys) + 2))
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def centre_crop(image_HW3: UInt8Array, label_HW: UInt8Array, crop_px: tuple[int, int]) -> Crop:
    """The middle of a larger photograph, or a smaller photograph in the middle of void. Pixels are not resampled."""
    (from_y, to_y), (from_x, to_x) = map(_overlap, label_HW.shape, crop_px)
    middle = Crop(image_HW3[from_y, from_x], label_HW[from_y, from_x])
    if middle.label_HW.shape == crop_px:
        return middle
    image_HW3 = np.empty((*crop_px, 3), dtype=np.uint8)
    image_HW3[:] = FILL_RGB
    label_HW = np.full(crop_px, IGNORE_INDEX, dtype=np.uint8)
    image_HW3[to_y, to_x], label_HW[to_y, to_x] = middle
    return Crop(image_HW3, label_HW)


def _overlap(side: int, crop_side: int) -> tuple[slice, slice]:
    """Along one axis: the part of the photograph that is taken, and where it goes in the crop."""
    length = min(side, crop_side)
    from_, to = (side - length) // 2, (crop_side - length) // 2
    return slice(from_, from_ + length), slice(to, to + length)


def blur(image_HW3: UInt8Array) -> UInt8Array:
    """The 5x5 Gaussian of the PSPNet authors' code (σ = 1.1), as the binomial (1 4 6 4 1) / 16 in each direction.

    In integers: four passes of (1 2 1), 8 times faster than PIL's GaussianBlur.
    """
    sums = np.pad(image_HW3, ((2, 2), (2, 2), (0, 0)), mode="edge").astype(np.uint16)
    for _ in range(2):
        sums = _one_two_one(sums[:-2], sums[1:-1], sums[2:])
    for _ in range(2):
        sums = _one_two_one(sums[:, :-2], sums[:, 1:-1], sums[:, 2:])
    sums += 128
    sums >>= 8
    return sums.astype(np.uint8)


def _one_two_one(
    left: npt.NDArray[np.uint16], middle: npt.NDArray[np.uint16], right: npt.NDArray[np.uint16]
) -> npt.NDArray[np.uint16]:
    sums = left + right
    sums += middle
    sums += middle
    return sums


def jitter(image_HW3: UInt8Array, strength: float, rng: np.random.Generator) -> UInt8Array:
    """Brightness, contrast and saturation times random factors in [1 - strength, 1 + strength], in that order."""
    brightness, contrast, saturation = (float(rng.uniform(1 - strength, 1 + strength)) for _ in range(3))
    return colour(image_HW3, brightness, contrast, saturation)


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def colour(image_HW3: UInt8Array, brightness: float, contrast: float, saturation: float) -> UInt8Array:
    """One matrix and offset for all three: contrast about the image's mean grey, saturation about each pixel's own."""
    mix = np.float32(saturation) * np.eye(3, dtype=np.float32) + np.float32(1 - saturation) * _LUMA
    matrix = mix * np.float32(contrast * brightness)
    grey = float(image_HW3.reshape(-1, 3).mean(axis=0) @ _LUMA) * brightness
    offset = (1 - contrast) * grey
    coefficients = np.concatenate([matrix, np.full((3, 1), offset, dtype=np.float32)], axis=1)
    image = Image.fromarray(image_HW3).convert("RGB", tuple(coefficients.ravel().tolist()))
    return np.asarray(image)
