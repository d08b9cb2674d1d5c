"""SYNTHIA: 16-bit label maps, the two tables of ids by hand, and splits that neighbouring frames do not cross."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL.PngImagePlugin import PngImageFile

from distseg.data import raw
from distseg.data.datasets import synthia
from distseg.errors import ConfigError, DataError
from tests.raw_files import png, write_deep_grey, write_grey, write_photograph, write_synthia

DRIVES = ("01-DAWN", "01-WINTERNIGHT", "02-FALL", "04-SOFTRAIN", "05-FALL")


def write_drive(root: Path, name: str, num_frames: int, view: str = "Stereo_Left/Omni_F") -> None:
    """Names are enough: only what is loaded is opened."""
    for part in ("RGB", "GT/LABELS"):
        folder = root / f"SYNTHIA-SEQS-{name}" / part / view
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(num_frames):
            (folder / f"{i:06d}.png").touch()


@pytest.fixture(scope="module")
def seqs(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("synthia")
    for name in DRIVES:
        write_drive(root, name, 30)
    return str(root)


def keys(root: str, split: str, **options: Any) -> list[str]:
    return [sample.key for sample in synthia.samples(root, split, synthia.Options(**options))]


# ---- label maps


def test_the_class_is_the_first_channel_in_both_its_bytes(tmp_path: Path) -> None:
    ids_HW = np.array([[0, 1, 15], [255, 256, 65535]], dtype=np.uint16)
    write_synthia(tmp_path / "l.png", ids_HW)
    assert synthia.read_classes(str(tmp_path / "l.png")).tolist() == ids_HW.tolist()


def test_large_random_label_maps_are_read_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (61, 127, 3), dtype=np.uint16)
    (tmp_path / "l.png").write_bytes(png(values.astype(">u2"), 16))
    assert np.array_equal(synthia.read_classes(str(tmp_path / "l.png")), values[..., 0])


def test_label_maps_of_8_bits_are_refused(tmp_path: Path) -> None:
    write_photograph(tmp_path / "rgb.png", (2, 3))
    write_grey(tmp_path / "grey.png", np.zeros((2, 3), dtype=np.uint16))
    for name, kind in (("rgb.png", "PNG RGB"), ("grey.png", "PNG L")):
        with pytest.raises(DataError, match=rf"{name}: SYNTHIA's label maps are .* this one is {kind} of 8 bits"):
            synthia.read_classes(str(tmp_path / name))


def test_label_maps_of_deep_grey_are_refused_as_what_they_are(tmp_path: Path) -> None:
    write_deep_grey(tmp_path / "deep.png", np.full((2, 3), 700, dtype=np.uint16))
    with pytest.raises(DataError, match="three 16-bit channels, this one is PNG I;16 of 16 bits"):
        synthia.read_classes(str(tmp_path / "deep.png"))


def test_a_damaged_label_map_is_named_by_checking_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    verify = PngImageFile.verify

    def counted(image: PngImageFile) -> None:
        calls.append(image)
        verify(image)

    monkeypatch.setattr(PngImageFile, "verify", counted)
    path = tmp_path / "l.png"
    write_synthia(path, np.zeros((2, 3), dtype=np.uint16))
    synthia.read_classes(str(path))
    assert len(calls) == 1
    data = bytearray(path.read_bytes())
    data[-13] ^= 1  # of the checksum of its pixels
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"l\.png: not a readable image .*checksum"):
        synthia.read_classes(str(path))


def test_tables() -> None:
    seqs, rand = synthia.SEQS_LABELS, synthia.RAND_LABELS
    by_name = {raw_id: seqs.classes[i] for raw_id, i in seqs.id_map.items() if i != 255}
    assert by_name == {
        **{1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car"},
        **{9: "sign", 10: "pedestrian", 11: "bicycle", 12: "lane-marking", 15: "traffic-light"},
    }
    assert {raw_id for raw_id, i in seqs.id_map.items() if i == 255} == {0, 13, 14}
    by_name = {raw_id: rand.classes[i] for raw_id, i in rand.id_map.items() if i != 255}
    assert by_name == {
        **{1: "sky", 2: "building", 3: "road", 4: "sidewalk", 5: "fence", 6: "vegetation", 7: "pole", 8: "car"},
        **{9: "traffic-sign", 10: "person", 11: "bicycle", 12: "motorcycle", 15: "traffic-light", 17: "rider"},
        **{19: "bus", 21: "wall"},
    }
    assert {raw_id for raw_id, i in rand.id_map.items() if i == 255} == {0, 13, 14, 16, 18, 20, 22}


# ---- splits


def test_val_is_the_end_of_each_sequence_behind_a_gap(seqs: str) -> None:
    train, val = keys(seqs, "train"), keys(seqs, "val")
    assert len(train) == 14 * len(DRIVES)  # of 30: 6 are val, 10 the gap
    assert len(val) == 6 * len(DRIVES)
    assert val[:6] == [f"01-dawn-{i:06d}" for i in range(24, 30)]
    assert train[:14] == [f"01-dawn-{i:06d}" for i in range(14)]
    assert not set(train) & set(val)


def cut(num_frames: int, val_share: float, gap_frames: int | None) -> tuple[list[raw.Pair], ...]:
    """Frames, and which of them are train and val."""
    pairs = [raw.Pair(f"{i:06d}", f"f/{i:06d}.png", "l") for i in range(num_frames)]
    return pairs, *(synthia._cut(pairs, split, val_share, gap_frames) for split in ("train", "val"))


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 30))
def test_cuts_never_overlap_and_keep_the_gap(num_frames: int, val_share: float, gap_frames: int) -> None:
    try:
        pairs, train, val = cut(num_frames, val_share, gap_frames)
    except DataError:
        assert num_frames - max(1, round(num_frames * val_share)) <= gap_frames
        return
    assert train == pairs[: len(train)]
    assert val == pairs[-len(val) :]
    assert len(train) + gap_frames + len(val) == num_frames


@given(st.integers(2, 200), st.floats(0.01, 0.99))
def test_every_sequence_can_be_cut_with_the_gap_it_can_spare(num_frames: int, val_share: float) -> None:
    pairs, train, val = cut(num_frames, val_share, None)
    assert train == pairs[: len(train)]
    assert val == pairs[-len(val) :]
    gap = num_frames - len(train) - len(val)
    assert gap == 10 or (gap < 10 and len(train) == 1)


@pytest.mark.parametrize(
    ("num_frames", "num_train", "num_val"), [(1, 1, 0), (2, 1, 1), (4, 1, 1), (13, 1, 3), (14, 1, 3), (15, 2, 3)]
)
def test_short_sequences_are_cut_too(tmp_path: Path, num_frames: int, num_train: int, num_val: int) -> None:
    """A fifth is val; between 2 and 15 frames the gap is 0, 0, 2, 9, 10 and 10."""
    write_drive(tmp_path, "06-FOG", num_frames)
    write_drive(tmp_path, "01-DAWN", 30)
    assert len(keys(str(tmp_path), "train", conditions=["fog"])) == num_train
    assert len(keys(str(tmp_path), "val", conditions=["fog"])) == num_val
    assert len(keys(str(tmp_path), "train")) == 14 + num_train  # the other one is packed as it was


@pytest.mark.parametrize(
    ("val_sequences", "expected"),
    [
        (("05",), {"05-FALL"}),
        (("01",), {"01-DAWN", "01-WINTERNIGHT"}),
        (("01-DAWN", "02"), {"01-DAWN", "02-FALL"}),
    ],
)
def test_whole_sequences_can_be_val(seqs: str, val_sequences: tuple[str, ...], expected: set[str]) -> None:
    options = synthia.Options(val_sequences=val_sequences)
    by_split = {
        split: {s.sequence.removeprefix("SYNTHIA-SEQS-") for s in synthia.samples(seqs, split, options)}
        for split in ("train", "val")
    }
    assert by_split == {"val": expected, "train": set(DRIVES) - expected}
    assert len(keys(seqs, "val", val_sequences=val_sequences)) == 30 * len(expected)


def test_a_sequence_too_short_for_its_gap_is_named(tmp_path: Path) -> None:
    write_drive(tmp_path, "06-FOG", 12)
    with pytest.raises(DataError, match=r"SYNTHIA-SEQS-06-FOG/RGB/.*: 12 frames are too few for train, a gap of 10"):
        keys(str(tmp_path), "train", gap_frames=10)
    assert len(keys(str(tmp_path), "train", gap_frames=1)) == 9


# ---- what is chosen


def test_groups_come_from_the_folder(seqs: str) -> None:
    groups = {(s.sequence, s.condition, s.site) for s in synthia.samples(seqs, "val")}
    assert groups == {
        ("SYNTHIA-SEQS-01-DAWN", "dawn", "highway"),
        ("SYNTHIA-SEQS-01-WINTERNIGHT", "winter-night", "highway"),
        ("SYNTHIA-SEQS-02-FALL", "fall", "new-york"),
        ("SYNTHIA-SEQS-04-SOFTRAIN", "soft-rain", "european"),
        ("SYNTHIA-SEQS-05-FALL", "fall", "new-york"),
    }


def test_sites_and_conditions_can_be_chosen(seqs: str) -> None:
    chosen = synthia.samples(seqs, "val", synthia.Options(sites=("highway", "new-york"), conditions=("fall", "dawn")))
    assert {s.sequence[-7:] for s in chosen} == {"01-DAWN", "02-FALL", "05-FALL"}


def test_one_sequence_can_be_the_root(seqs: str) -> None:
    assert keys(f"{seqs}/SYNTHIA-SEQS-05-FALL/", "val") == [f"05-fall-{i:06d}" for i in range(24, 30)]
    assert synthia.labels(f"{seqs}/SYNTHIA-SEQS-05-FALL").name == "synthia"
    alone = list(synthia.samples(f"{seqs}/SYNTHIA-SEQS-05-FALL", "val"))
    assert alone == [s for s in synthia.samples(seqs, "val") if s.sequence == "SYNTHIA-SEQS-05-FALL"]


def test_a_sequence_without_cameras_is_not_taken_for_single_views(tmp_path: Path) -> None:
    root = tmp_path / "SYNTHIA-SEQS-01-DAWN"
    for part in ("RGB", "GT/LABELS"):
        (root / part).mkdir(parents=True)
        (root / part / "000000.png").touch()
    assert synthia.labels(str(root)).name == "synthia"
    with pytest.raises(DataError, match=r"RGB/Stereo_Left/Omni_F: no such folder, .*--view names another camera"):
        keys(str(root), "train")


def test_another_camera(tmp_path: Path) -> None:
    write_drive(tmp_path, "06-FOG", 30, "Stereo_Right/Omni_B")
    assert len(keys(str(tmp_path), "val", view="Stereo_Right/Omni_B")) == 6
    with pytest.raises(DataError, match=r"RGB/Stereo_Left/Omni_F: no such folder, .*; --view names another camera"):
        keys(str(tmp_path), "val")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"view": "Omni_F"}, ConfigError, "view 'Omni_F': must be"),
        ({"val_share": 1.0}, ConfigError, "val_share 1.0"),
        ({"gap_frames": -1}, ConfigError, "gap_frames -1"),
        ({"sites": ["mars"]}, DataError, "sites 'mars': not below .*, which has european, highway, new-york"),
        ({"conditions": ["hail"]}, DataError, "conditions 'hail': not below .*, which has dawn, fall"),
        ({"val_sequences": ["06"]}, DataError, "val_sequences '06': not below"),
    ],
)
def test_options_that_do_not_fit(seqs: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        keys(seqs, "train", **options)


@pytest.mark.parametrize("name", ["03-DAWN", "01-HAIL", "01"])
def test_a_sequence_that_is_not_synthias_is_named(tmp_path: Path, name: str) -> None:
    write_drive(tmp_path, name, 1)
    with pytest.raises(DataError, match=f"SYNTHIA-SEQS-{name}: not a sequence of SYNTHIA; <NN> is one of 01, 02"):
        keys(str(tmp_path), "train")


def test_single_views_have_no_sequences_to_choose_from(tmp_path: Path) -> None:
    for part in ("RGB", "GT/LABELS"):
        (tmp_path / part).mkdir(parents=True)
        for i in range(20):
            (tmp_path / part / f"{i:07d}.png").touch()
    root = str(tmp_path)
    assert keys(root, "train") == [f"{i:07d}" for i in range(16)]  # no gap: neighbours are no neighbours
    assert keys(root, "val") == [f"{i:07d}" for i in range(16, 20)]
    assert keys(root, "train", gap_frames=10) == [f"{i:07d}" for i in range(6)]
    assert synthia.labels(root).name == "cityscapes-16"
    with pytest.raises(ConfigError, match="has no sites, conditions or sequences"):
        keys(root, "train", sites=["highway"])


def test_beside_sequences_single_views_are_another_data_set(tmp_path: Path) -> None:
    write_drive(tmp_path, "06-FOG", 2)
    (tmp_path / "RAND_CITYSCAPES/RGB").mkdir(parents=True)
    assert keys(str(tmp_path), "train") == ["06-fog-000000"]
    assert synthia.labels(str(tmp_path)).name == "synthia"
    assert synthia.labels(str(tmp_path / "RAND_CITYSCAPES")).name == "cityscapes-16"
