"""`town`: pure, aligned, complete, evenly dealt; and each weather does to the picture what it is there for."""

import hashlib
import io
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from distseg.data.datasets import town
from distseg.data.datasets.townscape.raster import hull
from distseg.data.datasets.townscape.scene import FAR_M, Label
from distseg.data.sample import Sample
from distseg.errors import ConfigError, DataError
from distseg.label_maps import IGNORE_INDEX

SIZE = (48, 72)
NUM_CLASSES = town.LABELS.num_classes


@cache
def shot(site: str, condition: str, index: int = 0, size: tuple[int, int] = SIZE, seed: int = 5) -> town.Frame:
    return town.frame(seed, site, condition, index, size)


def digest(frame: town.Frame) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in frame)).hexdigest()


def brightness(site: str, condition: str, label: Label | None = None) -> float:
    """Mean value (0 … 255) over some frames, of one class or of everything."""
    frames = [shot(site, condition, index) for index in range(4)]
    return float(np.mean(np.concatenate([f.image_HW3[(f.label_HW == label) | (label is None)] for f in frames])))


# --- A pure function --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", town.SITES)
def test_a_frame_is_the_same_bytes_every_time(site: str) -> None:
    first = town.frame(5, site, "sunset", 3, SIZE)
    assert digest(first) == digest(town.frame(5, site, "sunset", 3, SIZE))


def test_a_frame_is_the_same_bytes_in_another_process() -> None:
    program = (
        "import hashlib; from distseg.data.datasets import town;"
        "frame = town.frame(5, 'new-york', 'winter-night', 1, (48, 72));"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in frame)).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == digest(shot("new-york", "winter-night", 1))


def test_a_frame_neither_uses_nor_moves_the_global_generators() -> None:
    np.random.seed(0)
    random.seed(0)
    before = np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index]
    first = town.frame(1, "highway", "night", 0, SIZE)
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == before  # type: ignore[index]
    np.random.seed(99)
    random.seed(99)
    assert digest(town.frame(1, "highway", "night", 0, SIZE)) == digest(first)


def test_every_argument_changes_the_picture() -> None:
    frames = [
        town.frame(5, "highway", "spring", 0, SIZE),
        town.frame(6, "highway", "spring", 0, SIZE),
        town.frame(5, "new-york", "spring", 0, SIZE),
        town.frame(5, "highway", "summer", 0, SIZE),
        town.frame(5, "highway", "spring", 1, SIZE),
    ]
    assert len({digest(frame) for frame in frames}) == len(frames)


# --- Shapes and labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 64), (128, 192), (33, 47), (61, 40), (32, 32)])
@pytest.mark.parametrize("site", town.SITES)
def test_shapes_and_dtypes(size: tuple[int, int], site: str) -> None:
    image_HW3, label_HW, depth_HW = town.frame(2, site, "winter", 0, size)
    assert (image_HW3.shape, label_HW.shape, depth_HW.shape) == ((*size, 3), size, size)
    assert [array.dtype.name for array in (image_HW3, label_HW, depth_HW)] == ["uint8", "uint8", "float32"]


def test_labels_are_train_ids() -> None:
    for site in town.SITES:
        for index in range(6):
            label_HW = shot(site, "dawn", index).label_HW
            assert ((label_HW < NUM_CLASSES) | (label_HW == IGNORE_INDEX)).all()


def test_the_generators_labels_are_the_label_spaces() -> None:
    assert [label.name.lower().replace("_", "-") for label in Label] == list(town.LABELS.classes)
    assert [label.value for label in Label] == list(range(NUM_CLASSES))


@pytest.mark.parametrize("site", town.SITES)
def test_the_condition_changes_the_picture_alone(site: str) -> None:
    frames = [shot(site, condition, 2) for condition in town.CONDITIONS]
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame.label_HW, frames[0].label_HW)
        np.testing.assert_array_equal(frame.depth_HW, frames[0].depth_HW)
    assert len({frame.image_HW3.tobytes() for frame in frames}) == len(town.CONDITIONS) == 9


def test_depth_is_that_of_the_labelled_thing() -> None:
    for site in town.SITES:
        label_HW, depth_HW = shot(site, "summer", 1)[1:]
        assert (depth_HW[label_HW == Label.SKY] == FAR_M).all()
        assert 0.6 <= depth_HW.min() < 6.0  # the road at the lower edge
        assert (depth_HW[label_HW == Label.CAR] < 130.0).all()


def test_depth_of_the_road_falls_towards_the_lower_edge() -> None:
    label_HW, depth_HW = shot("highway", "summer", 1)[1:]
    on_road_HW = np.isin(label_HW, (Label.ROAD, Label.LANE_MARKING))
    rows = [float(depth_HW[row][on_road_HW[row]].mean()) for row in range(len(label_HW)) if on_road_HW[row].sum() > 8]
    assert len(rows) > 10
    assert all(upper > lower for upper, lower in pairwise(rows))


@cache
def classes_of(site: str, index: int) -> frozenset[int]:
    return frozenset(np.unique(shot(site, "fog", index, (96, 144)).label_HW).tolist())


@pytest.mark.parametrize("site", town.SITES)
def test_every_class_occurs_in_both_sites(site: str) -> None:
    seen = frozenset[int]().union(*(classes_of(site, index) for index in range(16)))
    assert seen == set(range(NUM_CLASSES))


def test_most_new_york_frames_show_nearly_every_class() -> None:
    counts = Counter(label for index in range(16) for label in classes_of("new-york", index))
    rare = {town.LABELS.classes[label]: counts[label] for label in range(NUM_CLASSES) if counts[label] <= 8}
    assert not rare


# --- Weather ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", town.SITES)
def test_nights_are_dark(site: str) -> None:
    assert brightness(site, "night") < 0.65 * brightness(site, "summer")
    assert brightness(site, "winter-night") < 0.65 * brightness(site, "winter")


@pytest.mark.parametrize("site", town.SITES)
def test_snow_brightens_the_ground(site: str) -> None:
    assert brightness(site, "winter", Label.ROAD) > brightness(site, "fall", Label.ROAD) + 10
    assert brightness(site, "winter", Label.ROAD) > brightness(site, "dawn", Label.ROAD) + 20
    assert brightness(site, "winter-night", Label.ROAD) > brightness(site, "night", Label.ROAD)


def test_snow_lies_thick_on_pavements() -> None:
    fall, winter = (brightness("new-york", condition, Label.SIDEWALK) for condition in ("fall", "winter"))
    assert winter > fall + 20


def contrast(frame: town.Frame, near_m: float, far_m: float) -> float:
    between_HW = (frame.depth_HW >= near_m) & (frame.depth_HW < far_m)
    assert between_HW.sum() > 50
    return float(frame.image_HW3[between_HW].astype(np.float32).mean(axis=1).std())


@pytest.mark.parametrize("site", town.SITES)
def test_fog_takes_more_contrast_the_farther_things_are(site: str) -> None:
    pairs = [(shot(site, "fog", index), shot(site, "summer", index)) for index in range(4)]
    near, far = (
        np.mean([contrast(fog, *span) / contrast(clear, *span) for fog, clear in pairs])
        for span in ((0.0, 12.0), (60.0, 200.0))
    )
    assert far < 0.75 * near
    assert far < 0.45


def test_dusk_is_red_and_day_is_blue() -> None:
    def red_less_blue(condition: str) -> float:
        frames = [shot("highway", condition, index) for index in range(4)]
        sky_N3 = np.concatenate([f.image_HW3[f.label_HW == Label.SKY] for f in frames]).astype(np.float32)
        return float((sky_N3[:, 0] - sky_N3[:, 2]).mean())

    assert red_less_blue("sunset") > 20 > 0 > red_less_blue("summer")


# --- Samples ----------------------------------------------------------------------------------------------------------


def test_samples_are_dealt_evenly() -> None:
    for num_frames, most in ((36, 2), (19, 2), (18, 1)):
        counts = Counter((s.condition, s.site) for s in town.samples("val", num_frames=num_frames))
        assert counts.total() == num_frames
        assert len(counts) == len(town.CONDITIONS) * len(town.SITES)
        assert max(counts.values()) == most
        assert min(counts.values()) == num_frames // 18


@pytest.mark.parametrize("split", town.SPLITS)
def test_keys_are_unique_and_name_tar_members(split: str) -> None:
    keys = [sample.key for sample in town.samples(split, num_frames=200)]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in keys)


def scenes(split: str, seed: int) -> set[tuple[str, str]]:
    """(town and index, site) of a split's scenes: `source` without the condition."""
    sources = [sample.source.split("/") for sample in town.samples(split, num_frames=60, seed=seed)]
    return {(f"{town_seed}/{index}", site) for _, town_seed, site, _, index in sources}


def test_no_scene_is_in_two_splits_or_in_two_seeds() -> None:
    drawn = [scenes(split, seed) for seed in (0, 1, 2) for split in town.SPLITS]
    assert len(set().union(*drawn)) == sum(len(some) for some in drawn)


def test_no_picture_is_in_two_splits() -> None:
    train, val = (
        {s.load().label_HW.tobytes() for s in town.samples(split, num_frames=8, size=SIZE)}
        for split in ("train", "val")
    )
    assert len(train) == 8  # training frames all show different scenes
    assert not train & val


def test_scenes_of_val_are_shown_in_all_conditions() -> None:
    shown: dict[tuple[str, str], set[str]] = {}
    for sample in town.samples("val", num_frames=36):
        shown.setdefault((sample.site, sample.key.rsplit("-", 1)[1]), set()).add(sample.condition)
    assert len(shown) == 4
    assert all(conditions == set(town.CONDITIONS) for conditions in shown.values())


def decoded(sample: Sample) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(sample.load().image)))


def test_a_sample_travels_to_another_process_and_holds_the_frame() -> None:
    sample = next(iter(town.samples("train", num_frames=1, size=SIZE, seed=4)))
    loaded = pickle.loads(pickle.dumps(sample)).load()
    frame = town.frame(4 * len(town.SPLITS), sample.site, sample.condition, 0, SIZE)
    assert loaded.image_format == "png"
    np.testing.assert_array_equal(loaded.label_HW, frame.label_HW)
    np.testing.assert_array_equal(decoded(sample), frame.image_HW3)
    assert (sample.split, sample.sequence) == ("train", f"town-{sample.site}-{sample.condition}")


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no site 'paris': choose from highway, new-york"):
        town.frame(0, "paris", "dawn", 0, SIZE)
    with pytest.raises(DataError, match=r"no condition 'rain': choose from dawn, .*winter-night"):
        town.frame(0, "highway", "rain", 0, SIZE)
    with pytest.raises(DataError, match=r"no split 'trian': choose from train, val, test"):
        town.samples("trian", num_frames=1)


@pytest.mark.parametrize("size", [(31, 64), (64, 0), (-64, 64)])
def test_sizes_too_small_to_show_anything_are_refused_at_once(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=rf"size {size[0]} {size[1]}: .* at least 32"):
        town.samples("train", num_frames=1, size=size)


def test_sizes_too_large_are_refused_before_anything_is_rendered() -> None:
    (sample,) = town.samples("train", num_frames=1, size=(400_000, 400_000), seed=0)
    with pytest.raises(DataError, match=r"town of --size 400000 400000: .* megapixels, max_megapixels is 100"):
        sample.load()


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match="seed -1"):
        town.frame(-1, "highway", "dawn", 0, SIZE)


# --- Geometry ---------------------------------------------------------------------------------------------------------


def test_hull_drops_inner_and_collinear_points() -> None:
    square = {(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0)}
    outline = hull(square | {(1.0, 1.0), (1.0, 0.0), (2.0, 1.0)})
    assert len(outline) == 4
    assert set(outline) == square
