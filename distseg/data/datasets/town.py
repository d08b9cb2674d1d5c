"""`town`: a procedural street-scene data set, so that everything runs on a machine that has no data set.

    LABELS                                          SYNTHIA's 13 classes as train ids 0 … 12, void 255
    frame(seed, site, condition, index, size)       one frame; a pure function of its arguments
    samples(split, num_frames=…, size=…, seed=…)    an iterator of samples, as every data set has

A scene, that is the street and everything on it (`townscape.streets`), depends on (seed, site, index) alone; the
condition only changes weather and light (`townscape.render`). So the nine conditions of one index are the same
photograph taken nine times, with one label map and one depth map, as in SYNTHIA's sequences.

Splits are different towns: each has a seed of its own, so no frame of one split can occur in another.
Images are PNG, so a sample holds exactly what `frame` returns.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from distseg.data import IGNORE_INDEX, LabelledImage, LabelSpace, Sample, images
from distseg.data.datasets import DataSet, same
from distseg.data.datasets.townscape.render import render
from distseg.data.datasets.townscape.streets import SITES, build_scene
from distseg.data.datasets.townscape.weather import WEATHERS
from distseg.errors import ConfigError, DataError

__all__ = ["CONDITIONS", "DATASET", "LABELS", "SITES", "SPLITS", "TO_CITYSCAPES", "Frame", "frame", "samples"]

# Names, order and colours are SYNTHIA-SEQS'; its raw ids 1 … 12 and 15 become 0 … 12, 13 and 14 are reserved.
LABELS = LabelSpace(
    name="synthia",
    classes=(
        "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole",
        "car", "sign", "pedestrian", "bicycle", "lane-marking", "traffic-light",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (128, 64, 128), (0, 0, 192), (64, 64, 128), (128, 128, 0), (192, 192, 128),
        (64, 0, 128), (192, 128, 128), (64, 64, 0), (0, 128, 192), (0, 172, 0), (0, 128, 128),
    ),
    id_map={0: IGNORE_INDEX, **{raw: raw - 1 for raw in range(1, 13)}, 13: IGNORE_INDEX, 14: IGNORE_INDEX, 15: 12},
)  # fmt: skip
TO_CITYSCAPES = {
    "synthia": {
        **same("sky building road sidewalk fence vegetation pole car bicycle traffic-light"),
        **{"sign": "traffic-sign", "pedestrian": "person", "lane-marking": "road"},
    }
}
CONDITIONS = tuple(WEATHERS)
SPLITS = ("train", "val", "test")
MIN_SIZE_PX = 32


@dataclass(frozen=True, kw_only=True)
class Options:
    train: int = 720
    """Frames of the train split, over nine conditions and two sites; 0 leaves the split out."""
    val: int = 180
    """Frames of the val split; 0 leaves it out."""
    size: tuple[int, int] = (128, 192)
    """Height and width."""
    seed: int = 0
    """Of the towns; each split is another town."""

    @property
    def num_frames(self) -> dict[str, int]:
        return {split: number for split, number in (("train", self.train), ("val", self.val)) if number}


class Frame(NamedTuple):
    image_HW3: npt.NDArray[np.uint8]
    label_HW: npt.NDArray[np.uint8]  # train ids
    depth_HW: npt.NDArray[np.float32]  # metres along the optical axis; FAR_M (1000) for the sky


def frame(seed: int, site: str, condition: str, index: int, size: tuple[int, int]) -> Frame:
    """The frame `index` of a town, rendered at (height, width) pixels; the framing scales with the height."""
    _check_frame(seed, site, condition, index, size)
    stream = [seed, SITES.index(site), index]
    scene = build_scene(site, np.random.default_rng(stream))
    weather_rng = np.random.default_rng([*stream, 1 + CONDITIONS.index(condition)])  # 0 would repeat the scene's
    return Frame(*render(scene, WEATHERS[condition], size, weather_rng))


def samples(split: str, *, num_frames: int, size: tuple[int, int] = (128, 192), seed: int = 0) -> Iterator[Sample]:
    """`num_frames` samples, dealt in turn to every condition of every site.

    Training frames all show different scenes: geometry, not weather, is what a network overfits in so small a set.
    In the other splits a scene is shown in all conditions before the next begins, so that scores of two conditions
    differ by weather alone and not by what happened to stand in the street.
    """
    if split not in SPLITS:
        raise DataError(f"town has no split {split!r}: choose from {', '.join(SPLITS)}")
    _check_frame(seed, SITES[0], CONDITIONS[0], 0, size)
    town_seed = seed * len(SPLITS) + SPLITS.index(split)
    return (_sample(split, town_seed, number, size) for number in range(num_frames))


def _sample(split: str, town_seed: int, number: int, size: tuple[int, int]) -> Sample:
    turn, place = divmod(number, len(CONDITIONS) * len(SITES))
    condition = CONDITIONS[place // len(SITES)]
    site = SITES[place % len(SITES)]
    index = number if split == "train" else turn
    return Sample(
        key=f"{condition}-{site}-{index:06d}",
        condition=condition,
        site=site,
        sequence=f"town-{site}-{condition}",
        split=split,
        source=f"town/{town_seed}/{site}/{condition}/{index:06d}",
        load=partial(_load, town_seed, site, condition, index, size),
    )


def _load(seed: int, site: str, condition: str, index: int, size: tuple[int, int]) -> LabelledImage:
    images.check_size(size[1], size[0], f"town of --size {size[0]} {size[1]}")  # before hours go into it
    image_HW3, label_HW, _ = frame(seed, site, condition, index, size)
    encoded = io.BytesIO()
    Image.fromarray(image_HW3).save(encoded, format="PNG", compress_level=1)
    return LabelledImage(image=encoded.getvalue(), image_format="png", label_HW=label_HW)


def _check_frame(seed: int, site: str, condition: str, index: int, size: tuple[int, int]) -> None:
    if site not in SITES:
        raise DataError(f"town has no site {site!r}: choose from {', '.join(SITES)}")
    if condition not in CONDITIONS:
        raise DataError(f"town has no condition {condition!r}: choose from {', '.join(CONDITIONS)}")
    if seed < 0 or index < 0:
        raise ConfigError(f"town seed {seed}, index {index}: neither may be negative")
    if min(size) < MIN_SIZE_PX:
        raise ConfigError(f"town size {size[0]} {size[1]}: height and width must be at least {MIN_SIZE_PX} pixels")


def _samples_of(root: str, split: str, options: Options) -> Iterator[Sample]:
    return samples(split, num_frames=options.num_frames[split], size=options.size, seed=options.seed)


DATASET = DataSet(
    name="town",
    layout="The procedural data set: needs nothing but time.",
    labels=lambda root: LABELS,
    recipe="town",
    samples=_samples_of,
    options=Options,
    splits=lambda root, options: tuple(options.num_frames),
    has_files=False,
    are_frames=False,  # each shows a street of its own
    conditions=CONDITIONS,
    to_cityscapes=TO_CITYSCAPES,
)
