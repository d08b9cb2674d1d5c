"""One image of an evaluation as layers of their own: what the viewer of a page lays over each other.

The photograph is a JPEG; truth and prediction are grey PNGs whose values are class ids (255 in the truth: void); the
confidence is a grey PNG in NUM_STEPS steps from 0 (black) to 1 (white). Each has at most MAX_LAYER_BYTES: what is too
large is halved in size, so layers of one image may differ in size, but never in shape.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from distseg.evaluation.pictures.panels import MAX_JPEG_BYTES, Segmented, as_jpeg, shrink
from distseg.evaluation.trust.counts import NUM_LEVELS

LAYER_PX = 512  # the longer side
MAX_LAYER_BYTES = MAX_JPEG_BYTES
NUM_STEPS = 16

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Layers:
    photograph: bytes
    truth: bytes  # empty: not known
    predicted: bytes
    confidence: bytes


def layers_of(seen: Segmented, level_hw: Bytes) -> Layers:
    """`level_hw`: the confidence in NUM_LEVELS levels, of any size that has the image's shape."""
    height, width = seen.truth_HW.shape
    size = min(level_hw.shape[1], width), min(level_hw.shape[0], height)
    level = Image.fromarray(level_hw).resize(size, Image.Resampling.NEAREST)
    step_hw = np.asarray(level, dtype=np.uint16) * NUM_STEPS // NUM_LEVELS * 255 // (NUM_STEPS - 1)
    maps = (as_grey_png(map_HW) for map_HW in (seen.truth_HW, seen.predicted_HW, step_hw.astype(np.uint8)))
    truth, predicted, confidence = maps
    photograph = as_jpeg(np.ascontiguousarray(seen.image_HW3))
    return Layers(photograph=photograph, truth=truth, predicted=predicted, confidence=confidence)


def confidence_map(level_hw: Bytes) -> Bytes:
    """The confidence in NUM_LEVELS levels as grey, 0 to 255, of which each level has its own."""
    return (level_hw.astype(np.uint16) * 255 // (NUM_LEVELS - 1)).astype(np.uint8)


def layers_of_prediction(image_HW3: Bytes, predicted_HW: Bytes, grey_hw: Bytes) -> Layers:
    """Of an image without a truth. `grey_hw`: its `confidence_map`."""
    seen = shrink(image_HW3.transpose(2, 0, 1), predicted_HW, predicted_HW, LAYER_PX)
    level_hw = (grey_hw.astype(np.uint16) * NUM_LEVELS // 256).astype(np.uint8)
    return replace(layers_of(seen, level_hw), truth=b"")


def as_grey_png(map_HW: Bytes) -> bytes:
    """At most MAX_LAYER_BYTES."""
    image = Image.fromarray(np.ascontiguousarray(map_HW))
    while True:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        if buffer.tell() <= MAX_LAYER_BYTES:
            return buffer.getvalue()
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.NEAREST)
