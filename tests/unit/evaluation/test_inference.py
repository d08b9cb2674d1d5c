"""Protocols of evaluation: windows that cover, softmax averaged before argmax, the image's own size."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distseg.data import MEAN_RGB, STD_RGB
from distseg.errors import ConfigError
from distseg.evaluation import inference
from distseg.evaluation.inference import (
    InferenceConfig,
    predict,
    probabilities,
    whole_image_logits,
    window_starts,
)
from distseg.models import Logits

NUM_CLASSES = 4


class Pixelwise(nn.Module):
    """Logits that depend on the pixel alone, at half the resolution; counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, NUM_CLASSES, 1).double()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images_B3HW: Tensor) -> Logits:
        self.sizes.append(tuple(images_B3HW.shape[2:]))
        return Logits(self.conv(images_B3HW), None)


class Sided(nn.Module):
    """Says class 0 on the left half of what it is shown, class 1 on the right, with unequal certainty."""

    def forward(self, images_B3HW: Tensor) -> Logits:
        batch, _, height, width = images_B3HW.shape
        logits = images_B3HW.new_zeros(batch, 2, height, width)
        logits[:, 0, :, : width // 2] = math.log(9)  # 0.9
        logits[:, 1, :, width // 2 :] = math.log(3)  # 0.75
        return Logits(logits, None)


def images(height: int, width: int) -> Tensor:
    return torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@given(num_pixels=st.integers(32, 3000), window_px=st.integers(32, 1000))
def test_windows_cover_every_pixel_and_stay_inside(num_pixels: int, window_px: int) -> None:
    num_pixels = max(num_pixels, window_px)
    starts = window_starts(num_pixels, window_px)
    assert starts[0] == 0 and starts[-1] == num_pixels - window_px
    assert all(0 < b - a <= math.ceil(window_px * 2 / 3) for a, b in pairwise(starts))


def test_windows_by_hand() -> None:
    assert window_starts(1024, 713) == [0, 311]  # Cityscapes, as the authors' code
    assert window_starts(2048, 713) == [0, 476, 952, 1335]
    assert window_starts(713, 713) == [0]


@pytest.mark.parametrize("window_px", [(32, 40), (64, 100), (47, 33)])
def test_windows_of_a_pixelwise_network_change_nothing(window_px: tuple[int, int]) -> None:
    model, image = Pixelwise().eval(), images(47, 61)
    windowed = probabilities(model, image, "fp64", InferenceConfig(window_px=window_px))
    assert set(model.sizes) == {window_px}
    torch.testing.assert_close(windowed, whole_image_logits(model, image, "fp64").softmax(1))


def test_windows_together_give_what_each_alone_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = Pixelwise().eval(), images(70, 90)
    model.conv = nn.Conv2d(3, NUM_CLASSES, 5, padding=2, dtype=torch.float64)  # what it gives depends on the window
    config = InferenceConfig(window_px=(32, 40), flip=True)
    together = probabilities(model, image, "fp64", config)
    num_forwards = len(model.sizes)
    monkeypatch.setattr(inference, "PIXELS_AT_ONCE", 1)
    alone = probabilities(model, image, "fp64", config)
    torch.testing.assert_close(together, alone)
    assert (num_forwards, len(model.sizes) - num_forwards) == (1, 2 * 3 * 3 * len(image))


def test_mirrored_images_are_averaged_as_softmax() -> None:
    mean = probabilities(Sided().eval(), images(2, 4), "fp64", InferenceConfig(flip=True))
    left, right = (0.9 + 0.25) / 2, (0.25 + 0.9) / 2
    torch.testing.assert_close(mean[0, 0, 0], torch.tensor([left, left, right, right], dtype=torch.float64))


def test_scales_are_averaged_at_the_images_own_size() -> None:
    model, image = Pixelwise().eval(), images(40, 50)
    mean = probabilities(model, image, "fp64", InferenceConfig(scales=(0.5, 1.0, 1.75)))
    assert model.sizes == [(20, 25), (40, 50), (70, 88)]
    expected = torch.zeros_like(mean)
    for size in model.sizes:
        scaled = F.interpolate(image.double(), size, mode="bilinear")
        normal = (scaled - torch.tensor(MEAN_RGB).view(3, 1, 1)) / torch.tensor(STD_RGB).view(3, 1, 1)
        expected += F.interpolate(model.conv(normal).softmax(1), (40, 50), mode="bilinear") / 3
    torch.testing.assert_close(mean, expected.detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(predict(model, image, "fp64", InferenceConfig(scales=(0.5, 1.0, 1.75))), mean.argmax(1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_threads", [1, 64])
def test_class_ids_are_those_of_argmax_also_among_equals_and_what_is_no_number(
    memory_format: torch.memory_format, dtype: torch.dtype, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    scores_BKHW = torch.randint(4, (2, 7, 33, 41), generator=torch.Generator().manual_seed(0)).to(dtype)
    scores_BKHW[0, 3, 5] = math.nan
    scores_BKHW[1, 2:5, 6] = math.inf
    scores_BKHW[:, :, 7] = -math.inf
    scores_BKHW = scores_BKHW.contiguous(memory_format=memory_format)
    for scores in (scores_BKHW, scores_BKHW.nan_to_num(1.0, math.inf, -math.inf)):
        largest_BHW, ids_BHW = inference._largest(scores)
        assert torch.equal(ids_BHW, scores.argmax(1))
        torch.testing.assert_close(largest_BHW, scores.amax(1), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("num_classes", [1, 255, 256])
def test_class_ids_of_any_number_of_classes(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    scores_BKHW = torch.randn(2, num_classes, 3, 5, generator=torch.Generator().manual_seed(0))
    scores_BKHW[:, -1, 0] = 9.0
    assert torch.equal(inference._largest(scores_BKHW)[1], scores_BKHW.argmax(1))


def test_the_plain_protocol_is_the_argmax_of_the_logits() -> None:
    model, image = Pixelwise().eval(), images(33, 37)
    assert torch.equal(predict(model, image, "fp64"), whole_image_logits(model, image, "fp64").argmax(1))


def test_impossible_protocols_are_refused() -> None:
    for scale in (0.0, -1.0, math.nan, math.inf, 1e9):
        with pytest.raises(ConfigError, match="all positive, none above 16"):
            InferenceConfig(scales=(1.0, scale))
    with pytest.raises(ConfigError, match="at least 32"):
        InferenceConfig(window_px=(16, 64))
