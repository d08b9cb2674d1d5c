"""From images to class ids: whole, or averaged over windows, mirrored images and scales.

Images are uint8 (B, 3, H, W) RGB; logits are brought to the image's own size (bilinear, align_corners=False) before
argmax, so a label map has the size of its image. Void (255) is never predicted. Training, `evaluate` and `predict` all
segment by `predict`.
"""

import math
import statistics
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.data import MEAN_RGB
from distseg.errors import ConfigError
from distseg.evaluation.precision import autocast, full_dtype, normalize
from distseg.evaluation.trust.counts import NUM_LEVELS, STRIDE

MAX_SCALE = 16
"""Of an image's sides: at more, what it takes is a mistake's."""


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How an image is segmented. The default is the whole image once, at its own size.

    Otherwise the softmax is averaged over windows, mirrored images and scales, and brought to the image's own size
    before argmax (Zhao et al. 2017, section 5.1: scales 0.5 to 1.75 and flips; their code for the windows).
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window_px: tuple[int, int] | None = None  # height and width; windows step by two thirds of it, rounded up

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= MAX_SCALE for scale in self.scales):
            raise ConfigError(f"scales = {self.scales}: give at least one, all positive, none above {MAX_SCALE}")
        if self.window_px is not None and min(self.window_px) < 32:
            raise ConfigError(f"window = {self.window_px}: both sides must be at least 32")

    @property
    def is_whole_image(self) -> bool:
        return self == InferenceConfig()


WHOLE_IMAGE = InferenceConfig()
PIXELS_AT_ONCE = 1 << 20
"""Windows and mirrored images are segmented together up to so many pixels, which bounds memory."""
_MAX_RANK = 255  # in uint8
_FEW_THREADS = 4


@torch.inference_mode()
def predict(model: nn.Module, images_B3HW: Tensor, precision: str, config: InferenceConfig = WHOLE_IMAGE) -> Tensor:
    """Class ids (B, H, W), int64, of uint8 images. The model must be in eval mode."""
    return _largest(_scores(model, images_B3HW, precision, config))[1]


def _scores(model: nn.Module, images_B3HW: Tensor, precision: str, config: InferenceConfig) -> Tensor:
    """(B, K, H, W): logits of whole images, else probabilities."""
    if config.is_whole_image:
        return whole_image_logits(model, images_B3HW, precision)
    return probabilities(model, images_B3HW, precision, config)


def _largest(scores_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """`max(1)`: the largest scores (B, H, W) and their classes, int64, the first class among equals.

    PyTorch's own compares one number at a time on CPUs, and takes several times as long; but it has all threads do so.
    """
    is_on_few = scores_BKHW.device.type == "cpu" and torch.get_num_threads() <= _FEW_THREADS
    if is_on_few and scores_BKHW.shape[1] <= _MAX_RANK:
        largest_BHW, ids_BHW, is_number = _largest_on_cpu(scores_BKHW)
        if is_number:
            return largest_BHW, ids_BHW
    largest_BHW, ids_BHW = scores_BKHW.max(1)
    return largest_BHW, ids_BHW


def _largest_on_cpu(scores_BKHW: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The same, if no score is NaN, and whether that is so. Fast if each class's scores are contiguous."""
    num_classes = scores_BKHW.shape[1]
    largest_BHW = scores_BKHW.amax(1)
    rank_K11 = torch.arange(num_classes, 0, -1, dtype=torch.uint8)[:, None, None]  # the first class has the largest
    best_BHW = torch.empty(largest_BHW.shape, dtype=torch.uint8)
    for scores_KHW, largest_HW, best_HW in zip(scores_BKHW.numpy(), largest_BHW.numpy(), best_BHW, strict=True):
        is_largest_KHW = torch.from_numpy((scores_KHW == largest_HW).view(np.uint8))  # PyTorch's == takes five times
        torch.amax(is_largest_KHW.mul_(rank_K11), 0, out=best_HW)
    return largest_BHW, num_classes - best_BHW.long(), bool(best_BHW.all())


class Sure(NamedTuple):
    """Class ids, and how sure the network is of them on the grid of `trust.counts`: every STRIDEth row and column."""

    ids_BHW: Tensor  # int64
    level_Bhw: Tensor  # uint8: the largest softmax in NUM_LEVELS steps
    is_nan_B: Tensor  # bool: there is none for some pixel of the grid, as numbers were too large for the precision

    def mean_confidences(self) -> list[float]:
        """Of each image, over all its pixels of the grid."""
        means: list[float] = ((self.level_Bhw.float().mean((1, 2)) + 0.5) / NUM_LEVELS).tolist()
        return means


@torch.inference_mode()
def predict_with_confidence(
    model: nn.Module, images_B3HW: Tensor, precision: str, config: InferenceConfig = WHOLE_IMAGE
) -> Sure:
    """What `predict` gives, with the confidence of a ninth of the pixels: that of all costs nine times as much."""
    scores_BKHW = _scores(model, images_B3HW, precision, config)
    largest_BHW, ids_BHW = _largest(scores_BKHW)
    largest_Bhw = largest_BHW[:, ::STRIDE, ::STRIDE]
    if config.is_whole_image:  # of the softmax
        some_BKhw = scores_BKHW[:, :, ::STRIDE, ::STRIDE]
        largest_Bhw = (some_BKhw - largest_Bhw[:, None]).exp_().sum(1).reciprocal_()
    level_Bhw = (largest_Bhw * NUM_LEVELS).nan_to_num(0.0).clamp_(0, NUM_LEVELS - 1)
    return Sure(ids_BHW, level_Bhw.to(torch.uint8), largest_Bhw.isnan().flatten(1).any(1))


@torch.inference_mode()
def grid_probabilities(model: nn.Module, images_B3HW: Tensor, precision: str) -> Tensor:
    """The softmax (B, K, h, w) of every STRIDEth row and column of whole images. The model must be in eval mode."""
    return whole_image_logits(model, images_B3HW, precision)[:, :, ::STRIDE, ::STRIDE].softmax(1)


@torch.inference_mode()
def whole_image_logits(model: nn.Module, images_B3HW: Tensor, precision: str) -> Tensor:
    """Logits (B, K, H, W) in fp32 (fp64) at the images' size. The model must be in eval mode."""
    with autocast(precision, images_B3HW.device):
        logits_BKhw: Tensor = model(normalize(images_B3HW, precision)).main_BKhw
    if logits_BKhw.device.type == "cpu":  # class by class for `_largest_on_cpu`, and not by `to`, which takes longer
        logits_BKhw = logits_BKhw.contiguous()
    logits_BKhw = logits_BKhw.to(full_dtype(precision))
    return _resize(logits_BKhw, (images_B3HW.shape[2], images_B3HW.shape[3]))


def latency_ms(
    model: nn.Module, size_hw: tuple[int, int], precision: str, device: torch.device, runs: int = 5
) -> float:
    """Median milliseconds of a forward pass of one image, resizing included, after one to warm up."""
    dtype = full_dtype(precision)
    model = model.to(device, dtype).to(memory_format=torch.channels_last).eval()
    image_B3HW = torch.zeros(1, 3, *size_hw, dtype=torch.uint8, device=device)
    times_s = []
    for _ in range(runs + 1):
        start_s = time.perf_counter()
        whole_image_logits(model, image_B3HW, precision)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - start_s)
    return 1000 * statistics.median(times_s[1:])


@torch.inference_mode()
def probabilities(model: nn.Module, images_B3HW: Tensor, precision: str, config: InferenceConfig) -> Tensor:
    """The mean softmax (B, K, H, W) in fp32 (fp64) at the images' size. The model must be in eval mode."""
    height, width = images_B3HW.shape[2:]
    dtype = full_dtype(precision)
    total_BKHW: Tensor | None = None
    for scale in config.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        scaled_B3hw = _resize(images_B3HW.to(dtype), size)
        if config.window_px is None:
            mean_BKhw = _mirrored_mean(model, scaled_B3hw, precision, config.flip)
        else:
            mean_BKhw = _window_mean(model, scaled_B3hw, precision, config.flip, config.window_px)
        mean_BKHW = _resize(mean_BKhw, (height, width))
        total_BKHW = mean_BKHW if total_BKHW is None else total_BKHW + mean_BKHW
    assert total_BKHW is not None
    return total_BKHW / len(config.scales)


def _mirrored_mean(model: nn.Module, images_B3HW: Tensor, precision: str, flip: bool) -> Tensor:
    if not flip:
        return _softmax(model, images_B3HW, precision)
    both_BKHW = _softmax(model, torch.cat([images_B3HW, images_B3HW.flip(3)]), precision)
    softmax_BKHW, mirrored_BKHW = both_BKHW.chunk(2)
    return (softmax_BKHW + mirrored_BKHW.flip(3)) / 2


def _softmax(model: nn.Module, images_B3HW: Tensor, precision: str) -> Tensor:
    """Of as many images at a time as have PIXELS_AT_ONCE, or of one."""
    at_once = max(1, PIXELS_AT_ONCE // (images_B3HW.shape[2] * images_B3HW.shape[3]))
    parts = [whole_image_logits(model, part_B3HW, precision).softmax(1) for part_B3HW in images_B3HW.split(at_once)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _window_mean(
    model: nn.Module, images_B3HW: Tensor, precision: str, flip: bool, window_px: tuple[int, int]
) -> Tensor:
    """Each pixel's mean over the windows that cover it; what is smaller than a window is filled up with mean colour.

    Windows of one size are segmented together, which keeps a GPU busy.
    """
    batch_size, _, height, width = images_B3HW.shape
    rows, columns = (max(w - n, 0) for w, n in zip(window_px, (height, width), strict=True))
    mean_131 = torch.tensor(MEAN_RGB, dtype=images_B3HW.dtype, device=images_B3HW.device).view(1, 3, 1, 1)
    filled_B3HW = F.pad(images_B3HW - mean_131, (0, columns, 0, rows)) + mean_131
    places = [
        (slice(top, top + window_px[0]), slice(left, left + window_px[1]))
        for top in window_starts(filled_B3HW.shape[2], window_px[0])
        for left in window_starts(filled_B3HW.shape[3], window_px[1])
    ]
    total_BKHW: Tensor | None = None
    count_HW = torch.zeros(filled_B3HW.shape[2:], dtype=images_B3HW.dtype, device=images_B3HW.device)
    group = max(1, PIXELS_AT_ONCE // (batch_size * window_px[0] * window_px[1]))
    for first in range(0, len(places), group):
        chosen = places[first : first + group]
        windows_B3hw = torch.cat([filled_B3HW[:, :, *place] for place in chosen])
        means = _mirrored_mean(model, windows_B3hw, precision, flip).split(batch_size)
        for place, mean_BKhw in zip(chosen, means, strict=True):
            if total_BKHW is None:
                total_BKHW = mean_BKhw.new_zeros(*mean_BKhw.shape[:2], *filled_B3HW.shape[2:])
            total_BKHW[:, :, *place] += mean_BKhw
            count_HW[place] += 1
    assert total_BKHW is not None
    return (total_BKHW / count_HW)[:, :, :height, :width]


def window_starts(num_pixels: int, window_px: int) -> list[int]:
    """Start positions of the windows along a side that is at least a window long.

    Steps of ceil(2/3 window); the last window ends at the edge.
    """
    stride_px = math.ceil(window_px * 2 / 3)
    num_windows = math.ceil((num_pixels - window_px) / stride_px) + 1
    return [min(i * stride_px, num_pixels - window_px) for i in range(num_windows)]


def _resize(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    if x_BCHW.shape[2:] == size:
        return x_BCHW
    return F.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False)
