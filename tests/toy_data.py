"""A small data set for tests: flat label maps, photographs painted in the label's colours, lossless."""

import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from distseg.data.sample import LabelledImage, LabelSpace, Sample

LABELS = LabelSpace(
    name="toy", classes=("road", "sky", "car"), palette=((120, 30, 30), (30, 60, 200), (240, 220, 20)), id_map={}
)


def toy_samples(
    num_samples: int,
    split: str = "train",
    groups: Sequence[tuple[str, str]] = (("day", "town"),),
    size_hw: tuple[int, int] = (24, 40),
    image_format: str = "png",
) -> list[Sample]:
    """Samples dealt in turn to the (condition, site) groups; number i is a pure function of i."""
    return [
        Sample(
            key=f"{split}_{i:04d}",
            condition=groups[i % len(groups)][0],
            site=groups[i % len(groups)][1],
            sequence=f"seq{i // 10}",
            split=split,
            source=f"{split}/{i:04d}.png",
            load=functools.partial(load_toy, i, size_hw, image_format),
        )
        for i in range(num_samples)
    ]


def load_toy(i: int, size_hw: tuple[int, int], image_format: str) -> LabelledImage:
    label_HW = np.random.default_rng(i).choice(np.array([0, 1, 2, 255], dtype=np.uint8), size=size_hw)
    label_HW[0, 0] = i % 3
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[:3] = LABELS.palette
    buffer = io.BytesIO()
    Image.fromarray(colours[label_HW]).save(buffer, format={"jpg": "JPEG", "png": "PNG"}[image_format])
    return LabelledImage(buffer.getvalue(), "jpg" if image_format == "jpg" else "png", label_HW)
