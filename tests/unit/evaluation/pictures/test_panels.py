"""Pictures of single images: what each tile shows, and that none is larger than was said."""

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from distseg.evaluation.pictures import panels
from tests.unit.reviews import LABELS


def tiles(panel_HW3: npt.NDArray[np.uint8], height: int, width: int) -> Iterator[npt.NDArray[np.uint8]]:
    top = (panel_HW3.shape[0] - 2 * height) // 2
    left = panel_HW3.shape[1] - width
    for y in (top, 2 * top + height):
        for x in (0, left):
            yield panel_HW3[y : y + height, x : x + width]


def test_a_panel_shows_errors_orange_and_void_hatched() -> None:
    image_3HW = torch.full((3, 20, 40), 100, dtype=torch.uint8)
    truth_HW = torch.zeros(20, 40, dtype=torch.uint8)
    truth_HW[:, 30:] = 255
    predicted_HW = torch.zeros(20, 40, dtype=torch.int64)
    predicted_HW[:, :10] = 1
    small = panels.shrink(image_3HW, truth_HW, predicted_HW)
    assert small.wrong == pytest.approx(1 / 3)
    panel_HW3 = panels.panel(small, LABELS.palette, tile_px=80)
    assert panel_HW3.dtype == np.uint8
    image, truth, predicted, errors = tiles(panel_HW3, 40, 80)
    assert (image == 100).all()
    assert (truth[:, :60] == LABELS.palette[0]).all()
    assert (predicted[:, :20] == LABELS.palette[1]).all()
    assert (predicted[:, 20:] == LABELS.palette[0]).all()
    assert (errors[:, :20] == (213, 94, 0)).all()
    right = errors[:, 20:60]
    assert (right == right[0, 0, 0]).all() and right[0, 0, 0] > 160  # faint grey
    for void in (truth[:, 60:], errors[:, 60:]):
        assert set(np.unique(void)) == {110, 205}


def test_a_legend_names_the_classes_that_are_there_and_a_note_stands_below() -> None:
    grey = torch.full((3, 20, 40), 100, dtype=torch.uint8)
    zeros_HW = torch.zeros(20, 40, dtype=torch.uint8)
    small = panels.shrink(grey, zeros_HW, zeros_HW + 2)
    plain = panels.panel(small, LABELS.palette, tile_px=80)
    with_legend = panels.panel(small, LABELS.palette, LABELS.classes, iou=0.25, tile_px=80)
    assert (with_legend[20:60] == plain[20:60]).all()  # the tiles are the same
    legend = with_legend[len(plain) :].reshape(-1, 3)
    coloured = {tuple(map(int, rgb)) for rgb in legend if rgb.max() != rgb.min()}
    assert coloured == {LABELS.palette[0], LABELS.palette[2]}
    noted = np.asarray(Image.open(io.BytesIO(panels.with_note(panels.as_jpeg(plain), "of step 20"))))
    assert noted.shape[0] > plain.shape[0] and noted.shape[1] == plain.shape[1]
    assert noted[len(plain) :].min() < 100  # some text


@pytest.mark.parametrize("size", [(128, 192), (1024, 2048), (50, 33), (1, 1)])
def test_a_panel_of_any_size_fits_its_box(size: tuple[int, int]) -> None:
    void_HW = np.full(size, 255, dtype=np.uint8)
    small = panels.shrink(np.zeros((3, *size), dtype=np.uint8), void_HW, void_HW * 0)
    assert small.wrong is None
    assert max(small.truth_HW.shape) <= panels.TILE_PX
    assert sum(array.nbytes for array in small[:3]) <= 5 * panels.TILE_PX**2
    assert panels.TILE_PX <= max(panels.panel(small, LABELS.palette).shape[:2]) <= 2 * panels.TILE_PX + 40


def test_maps_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image \(4, 6\), truth \(4, 5\), prediction \(4, 6\) differ in size"):
        panels.shrink(np.zeros((3, 4, 6)), np.zeros((4, 5)), np.zeros((4, 6)))


def test_a_jpeg_is_never_larger_than_its_bound() -> None:
    side = panels.TILE_PX
    rng = np.random.default_rng(0)
    noise_3HW = rng.integers(0, 256, (3, side, side), dtype=np.uint8)  # nothing compresses worse
    truth_HW, predicted_HW = rng.integers(0, 3, (2, side, side), dtype=np.uint8)
    panel_HW3 = panels.panel(panels.shrink(noise_3HW, truth_HW, predicted_HW), LABELS.palette)
    jpeg = panels.as_jpeg(panel_HW3)
    assert 32 << 10 < len(jpeg) <= panels.MAX_JPEG_BYTES
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size == (panel_HW3.shape[1], panel_HW3.shape[0])
