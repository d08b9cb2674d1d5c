"""SYNTHIA: the driven sequences (SYNTHIA-SEQS) and the single views (SYNTHIA-RAND-CITYSCAPES), told apart by layout.

    SYNTHIA-SEQS-<NN>-<COND>/{RGB,GT/LABELS}/Stereo_{Left,Right}/Omni_{F,B,L,R}/%06d.png    any of them below root
    {RGB,GT/LABELS}/*.png                                                                  RAND-CITYSCAPES

Root may also be one sequence, the folder of SYNTHIA-SEQS/, or, if it has no sequences, that of RAND_CITYSCAPES/.

Label maps are PNG of three 16-bit channels: the class, the instance, nothing (Ros et al. 2016). The two parts number
classes differently, so they have label spaces of their own: `synthia`, 13 classes, and `cityscapes-16`.

Neighbouring frames are nearly the same photograph, so a split is never of single frames. By default val is the end of
each sequence, `val_share` of its frames, train its beginning, and the `gap_frames` between them are in neither: 10, or
what a short sequence can spare; none between single views, which are no neighbours. The sequences of one number are
drives along the same streets in different weather, frame by frame at other places: to keep whole streets for val, name
`val_sequences`.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distseg import storage
from distseg.data import IGNORE_INDEX, LabelSpace, Sample, raw
from distseg.data.datasets import DataSet, cityscapes, town
from distseg.errors import ConfigError, DataError

SEQS_LABELS = town.LABELS  # `town` draws SYNTHIA's classes and numbers them as SYNTHIA-SEQS does
_RAND_IDS = {
    "sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7, "car": 8,
    "traffic-sign": 9, "person": 10, "bicycle": 11, "motorcycle": 12, "traffic-light": 15, "rider": 17, "bus": 19,
    "wall": 21,
}  # fmt: skip
RAND_LABELS = dataclasses.replace(
    cityscapes.LABELS_16,
    id_map={
        # Void are 0 void, 13 parking slot, 14 road work, 16 terrain, 18 truck, 20 train, 22 lane marking.
        **dict.fromkeys(range(23), IGNORE_INDEX),
        **{raw_id: cityscapes.LABELS_16.classes.index(name) for name, raw_id in _RAND_IDS.items()},
    },
)

_SITES = {"01": "highway", "02": "new-york", "04": "european", "05": "new-york", "06": "highway"}
_CONDITIONS = {
    **{name.upper(): name for name in ("dawn", "fall", "fog", "night", "rain", "spring", "summer", "sunset", "winter")},
    "RAINNIGHT": "rain-night",
    "SOFTRAIN": "soft-rain",
    "WINTERNIGHT": "winter-night",
}
_PREFIX = "SYNTHIA-SEQS-"
_VIEW = re.compile(r"Stereo_(Left|Right)/Omni_[FBLR]")
_MAX_GAP_FRAMES = 10
_LAYOUT = "SYNTHIA's root has SYNTHIA-SEQS-<NN>-<COND>/ with RGB/ and GT/LABELS/, or RGB/ and GT/LABELS/ themselves"
_VIEW_LAYOUT = f"--view names another camera; {_LAYOUT}"


@dataclass(frozen=True, kw_only=True)
class Options:
    view: str = "Stereo_Left/Omni_F"
    """Of the cameras of SYNTHIA-SEQS."""
    sites: tuple[str, ...] = ()
    """Those of highway, new-york and european to pack; all by default."""
    conditions: tuple[str, ...] = ()
    """Those of dawn, fall, fog … to pack; all by default."""
    val_share: float = 0.2
    """Share of the frames of each sequence, at its end, that become val."""
    gap_frames: int | None = None
    """Frames before these that are left out; by default 10, fewer where a sequence is too short for that, and none of
    SYNTHIA-RAND-CITYSCAPES."""
    val_sequences: tuple[str, ...] = ()
    """Instead, whole sequences that become val: 05, or 05-FALL."""


_DEFAULTS = Options()


def labels(root: str) -> LabelSpace:
    return SEQS_LABELS if _rand_home(root) is None else RAND_LABELS


def samples(root: str, split: str, options: Options = _DEFAULTS) -> Iterator[Sample]:
    """The frames of "train" or "val"."""
    _check(split, options)
    rand_home = _rand_home(root)
    if rand_home is None:
        yield from _of_sequences(root, split, options)
        return
    if options.sites or options.conditions or options.val_sequences:
        raise ConfigError("SYNTHIA-RAND-CITYSCAPES has no sites, conditions or sequences to choose from; name none")
    for pair in _cut(_pairs(rand_home, "", _LAYOUT), split, options.val_share, options.gap_frames or 0):
        yield raw.sample(rand_home, pair, RAND_LABELS, split=split, sequence="rand-cityscapes", read=read_classes)


def _check(split: str, options: Options) -> None:
    if split not in ("train", "val"):
        raise DataError(f"SYNTHIA has no split {split!r}; choose from train, val, which are cut here")
    if not _VIEW.fullmatch(options.view):
        expected = "Stereo_<Left or Right>/Omni_<F, B, L or R>, as Stereo_Left/Omni_F"
        raise ConfigError(f"view {options.view!r}: must be {expected}")
    val_share, gap_frames = options.val_share, options.gap_frames
    if not 0 < val_share < 1 or (gap_frames is not None and gap_frames < 0):
        raise ConfigError(f"val_share {val_share}, gap_frames {gap_frames}: must be between 0 and 1, and at least 0")


def _of_sequences(root: str, split: str, options: Options) -> Iterator[Sample]:
    drives = _drives(root, options.sites, options.conditions)
    held_out = _held_out(root, drives, options.val_sequences)
    for drive in drives:
        if held_out and (drive in held_out) != (split == "val"):
            continue
        pairs = _pairs(drive.uri, options.view, _VIEW_LAYOUT)
        if not held_out:
            pairs = _cut(pairs, split, options.val_share, options.gap_frames)
        for pair in pairs:
            yield raw.sample(
                drive.uri.rpartition("/")[0],
                pair,
                SEQS_LABELS,
                key=f"{drive.number}-{drive.condition}-{pair.stem}",
                split=split,
                condition=drive.condition,
                site=_SITES[drive.number],
                sequence=f"{_PREFIX}{drive.name}",
                read=read_classes,
            )


# ---- which frames


class _Drive(NamedTuple):
    name: str  # "05-WINTERNIGHT"
    uri: str  # of the folder that has RGB/

    @property
    def number(self) -> str:
        return self.name.partition("-")[0]

    @property
    def condition(self) -> str:
        return _CONDITIONS[self.name.partition("-")[2]]


def _rand_home(root: str) -> str | None:
    """The folder of SYNTHIA-RAND-CITYSCAPES' RGB/ and GT/; None if root is not of it."""
    if _last_name(root).startswith(_PREFIX):
        return None
    home = raw.place(root, "RGB", () if _sequences(root) else ("RAND_CITYSCAPES",))
    if home is None or any(name.startswith("Stereo_") for name in storage.list_folders(storage.join(home, "RGB"))):
        return None
    return home


def _sequences(root: str) -> list[str]:
    """The folders that are named as sequences: root itself, or those below."""
    if _last_name(root).startswith(_PREFIX) and "RGB" in storage.list_folders(root):
        return [root.rstrip("/")]
    for place in raw.places(root, ("SYNTHIA-SEQS",)):
        names = [name for name in storage.list_folders(place) if name.startswith(_PREFIX)]
        if names:
            return [storage.join(place, name) for name in names]
    return []


def _last_name(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def _drives(root: str, sites: Sequence[str], conditions: Sequence[str]) -> list[_Drive]:
    drives = [
        _Drive(name.removeprefix(_PREFIX), raw.place(uri, "RGB", (name,)) or uri)  # its archive unpacks into its name
        for uri in _sequences(root)
        for name in (_last_name(uri),)
    ]
    if not drives:
        raise DataError(f"{root}: no sequence of SYNTHIA here; {_LAYOUT}")
    for drive in drives:
        number, _, condition = drive.name.partition("-")
        if number not in _SITES or condition not in _CONDITIONS:
            known = f"<NN> is one of {', '.join(_SITES)}, <COND> one of {', '.join(_CONDITIONS)}"
            raise DataError(f"{drive.uri}: not a sequence of SYNTHIA; {known}")
    _check_found("sites", sites, {_SITES[drive.number] for drive in drives}, root)
    _check_found("conditions", conditions, {drive.condition for drive in drives}, root)
    return [
        drive
        for drive in drives
        if (not sites or _SITES[drive.number] in sites) and (not conditions or drive.condition in conditions)
    ]


def _held_out(root: str, drives: Sequence[_Drive], val_sequences: Sequence[str]) -> set[_Drive]:
    _check_found("val_sequences", val_sequences, {part for d in drives for part in (d.name, d.number)}, root)
    return {drive for drive in drives if drive.name in val_sequences or drive.number in val_sequences}


def _check_found(option: str, wanted: Sequence[str], found: set[str], root: str) -> None:
    for name in wanted:
        if name not in found:
            raise DataError(f"{option} {name!r}: not below {root}, which has {', '.join(sorted(found))}")


def _pairs(uri: str, view: str, layout: str) -> list[raw.Pair]:
    images, annotations = (storage.join(part, view) for part in ("RGB", "GT/LABELS"))
    return raw.pairs(uri, raw.Files(images, (".png",)), raw.Files(annotations, (".png",)), layout)


def _cut(pairs: list[raw.Pair], split: str, val_share: float, gap_frames: int | None) -> list[raw.Pair]:
    """The beginning of a sequence for train, its end for val, and a gap between; a single frame is train's."""
    num_frames = len(pairs)
    num_val = min(num_frames - 1, max(1, round(num_frames * val_share)))
    gap = min(_MAX_GAP_FRAMES, num_frames - num_val - 1) if gap_frames is None else gap_frames
    num_train = num_frames - gap - num_val
    if num_train < 1:
        raise DataError(
            f"{pairs[0].image.rpartition('/')[0]}: {num_frames} frames are too few for train, a gap of {gap} "
            f"and val ({val_share:g} of them); change gap_frames or val_share, or name val_sequences"
        )
    return pairs[num_frames - num_val :] if split == "val" else pairs[:num_train]


# ---- label maps


def read_classes(uri: str) -> raw.Ids:
    """The class ids (H, W): the first channel. Pillow gives one byte of each channel; two passes give both."""
    data = storage.read_bytes(uri)
    high = raw.decode(data, uri)
    if not raw.is_16_bit_rgb(data, high):
        kind = f"{high.format} {high.mode} of {raw.bit_depth(data, high)} bits"
        raise DataError(f"{uri}: SYNTHIA's label maps are PNG of three 16-bit channels, this one is {kind}")
    low = raw.decode(data, uri, rawmode="RGB;16L")  # the second byte of each two, which PNG writes high byte first
    ids_HW: raw.Ids = np.asarray(high, dtype=np.uint16)[..., 0] * 256 + np.asarray(low)[..., 0]
    return ids_HW


DATASET = DataSet(
    name="synthia",
    layout=__doc__,
    labels=labels,
    samples=samples,
    options=Options,
    conditions=(*_CONDITIONS.values(), "all"),  # "all": SYNTHIA-RAND-CITYSCAPES
    to_cityscapes=town.TO_CITYSCAPES,
)
