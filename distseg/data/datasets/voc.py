"""PASCAL VOC 2012: `JPEGImages/*.jpg`, `SegmentationClass/*.png` (palette), `ImageSets/Segmentation/<split>.txt`.

21 classes; 255, the border of objects, is void. Annotations may be RGB PNGs of the palette's colours instead.
Packed are the lists train and val, or, where neither is there, all lists that are. Root is VOC2012, or a folder that
has it (or VOCdevkit/VOC2012).

The split train_aug adds the Semantic Boundaries Dataset (Hariharan et al. 2011), in either of the usual forms:
with `sbd`, its folder of `cls/*.mat`: its train and val and VOC's train, without VOC's val, 10,582 images, of which
VOC's train keep VOC's annotations, and photographs that VOC lacks are those of its `img/`; else
`SegmentationClassAug/*.png` and `ImageSets/Segmentation/train_aug.txt` or `trainaug.txt` in VOC's root.
"""

import functools
import io
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from distseg import storage
from distseg.data import LabelSpace, Sample, raw
from distseg.data.datasets import DataSet, same
from distseg.errors import DataError, first_line

LABELS = LabelSpace(
    name="voc",
    classes=(
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    ),
    palette=raw.bit_palette(21),
)  # fmt: skip

_COLOURS: raw.Colours = (*((colour, i) for i, colour in enumerate(LABELS.palette)), ((224, 224, 192), 255))
_LAYOUT = "VOC's root has JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/"
_LISTS = "ImageSets/Segmentation"
_AUG_LISTS = ("train_aug", "trainaug")


@dataclass(frozen=True, kw_only=True)
class Options:
    sbd: str = ""
    """For train_aug: the Semantic Boundaries Dataset, with cls/*.mat; not needed beside a SegmentationClassAug/."""


_DEFAULTS = Options()
_FIRST_FILE = re.compile(r"(.+?)\.(?:jpe?g|png)(?=\s|$)", re.IGNORECASE)  # of a line: all before its ending
_PLACES = ("VOC2012", "VOCdevkit/VOC2012")


def splits(root: str, options: Options = _DEFAULTS) -> tuple[str, ...]:
    home = raw.place(root, "JPEGImages", _PLACES) or root
    files = (entry.uri.rpartition("/")[2] for entry in storage.list_files(storage.join(home, _LISTS)))
    lists = [name.removesuffix(".txt") for name in files if name.endswith(".txt") and not raw.is_left_behind(name)]
    return tuple(name for name in ("train", "val") if name in lists) or tuple(lists) or ("train", "val")


def samples(root: str, split: str, options: Options = _DEFAULTS) -> Iterator[Sample]:
    """The images of a list, sorted by name."""
    root = raw.home(root, "JPEGImages", _PLACES, _LAYOUT)
    images = raw.find(root, raw.Files("JPEGImages", (".jpg",)), _LAYOUT)
    if split in _AUG_LISTS and options.sbd:
        yield from _with_sbd(root, split, storage.absolute(options.sbd), images)
        return
    folder = "SegmentationClass"
    if split in _AUG_LISTS:
        folder = "SegmentationClassAug"
        if folder not in storage.list_folders(root):
            raise DataError(f"{root}: no {folder}/ for split {split!r}; name SBD's folder (--sbd)")
    names = _listed(root, _list_names(root, split), images)
    there = raw.find(root, raw.Files(folder, (".png",)), _LAYOUT)
    expected = {name: there.get(name, storage.join(root, folder, f"{name}.png")) for name in names}
    yield from _annotated(root, split, images, expected, set(there.values()))


def _with_sbd(root: str, split: str, sbd: str, images: dict[str, str]) -> Iterator[Sample]:
    layout = "SBD's root has cls/*.mat, train.txt and val.txt"
    home = raw.home(sbd, "cls", ("dataset", "benchmark_RELEASE/dataset"), layout)
    train, val = (set(_listed(root, f"{_LISTS}/{name}.txt", images)) for name in ("train", "val"))
    added = {name for part in ("train", "val") for name in _listed(home, f"{part}.txt", images)} - train - val
    if added - images.keys() and "img" in storage.list_folders(home):
        images = {**raw.find(home, raw.Files("img", (".jpg",)), layout), **images}
    by_voc = raw.find(root, raw.Files("SegmentationClass", (".png",)), _LAYOUT).values()
    by_sbd = raw.find(home, raw.Files("cls", (".mat",)), layout).values()
    expected = {
        **{name: storage.join(root, "SegmentationClass", f"{name}.png") for name in train},
        **{name: storage.join(home, "cls", f"{name}.mat") for name in added},
    }
    yield from _annotated(root, split, images, expected, {*by_voc, *by_sbd}, sbd_home=home)


def _annotated(
    root: str, split: str, images: dict[str, str], annotations: dict[str, str], there: set[str], *, sbd_home: str = ""
) -> Iterator[Sample]:
    for name, label in sorted(annotations.items()):
        if name not in images:
            raise DataError(f"{storage.join(root, 'JPEGImages', name)}.jpg: missing, though split {split!r} lists it")
        if label not in there:
            raise DataError(f"{images[name]}: its annotation {label} is missing, though split {split!r} lists it")
        pair = raw.Pair(name, images[name], label)
        read = read_mat if label.endswith(".mat") else functools.partial(raw.read_ids, colours=_COLOURS)
        home = sbd_home if sbd_home and pair.image.startswith(storage.join(sbd_home, "img") + "/") else root
        yield raw.sample(home, pair, LABELS, split=split, sequence=name.partition("_")[0], read=read)


def _list_names(root: str, split: str) -> str:
    """The list of a split; train_aug goes by two names."""
    for name in _AUG_LISTS if split in _AUG_LISTS else (split,):
        if storage.exists(storage.join(root, _LISTS, f"{name}.txt")):
            return f"{_LISTS}/{name}.txt"
    raise DataError(f"{storage.join(root, _LISTS, split)}.txt: no such list of images; {_LAYOUT}")


def _listed(root: str, list_name: str, images: Collection[str]) -> list[str]:
    """Names of images, which may have spaces; `images` are those that are there. Some lists have a number after the
    name, or paths of both files: "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png"."""
    try:
        text = unicodedata.normalize("NFC", storage.read_bytes(storage.join(root, list_name)).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{storage.join(root, list_name)}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    lines = (line.strip().replace("\\", "/") for line in text.splitlines())
    return [_named_in(line, images) for line in lines if line]


def _named_in(line: str, images: Collection[str]) -> str:
    """The image that a line of a list names; what can be read in several ways is what is there."""
    first_file = _FIRST_FILE.match(line)
    readings = [first_file[1]] if first_file else [line, line.split()[0]]
    names = [reading.rpartition("/")[2] for reading in readings]
    return next((name for name in names if name in images), names[-1 if "/" in line else 0])


def read_mat(uri: str) -> raw.Ids:
    """The ids (H, W) of SBD's `GTcls.Segmentation`."""
    from scipy.io import loadmat  # a while that the other splits need not wait

    data = storage.read_bytes(uri)
    try:
        content = loadmat(io.BytesIO(data), squeeze_me=True, struct_as_record=False)
        ids_HW = np.asarray(content["GTcls"].Segmentation)
    except NotImplementedError as error:
        raise DataError(f"{uri}: not readable, of MATLAB's version 7.3; save it as version 7, as SBD's are") from error
    except Exception as error:  # of a damaged file, anything, an UnboundLocalError as well as an OverflowError
        raise DataError(f"{uri}: no readable GTcls.Segmentation in it ({first_line(error)})") from error
    if np.issubdtype(ids_HW.dtype, np.floating) and ((np.abs(ids_HW) < 2**16) & (ids_HW == np.rint(ids_HW))).all():
        ids_HW = ids_HW.astype(np.int64)  # MATLAB's numbers are floats unless somebody sees to it
    if ids_HW.ndim != 2 or not np.issubdtype(ids_HW.dtype, np.integer):
        raise DataError(f"{uri}: GTcls.Segmentation is {ids_HW.dtype} {ids_HW.shape}, must be ids (height, width)")
    return ids_HW


DATASET = DataSet(
    name="voc",
    layout=__doc__,
    labels=lambda root: LABELS,
    recipe="pspnet_voc",
    samples=samples,
    options=Options,
    splits=splits,
    splits_help="Those to pack; by default the lists train and val, or all that are there.",
    are_frames=False,  # the first part of a name is a year
    # Not background, which is anything. Its person includes riders.
    to_cityscapes={"voc": {**same("bicycle bus car person train"), "motorbike": "motorcycle"}},
)
