"""CamVid in SegNet's layout: `<split>/<frame>.png` and `<split>annot/<frame>.png`, for train, val and test.

11 classes; raw id 11 is void. The sequence is the first part of a frame's name and decides the condition: 0001TP was
filmed at dusk, the others by day (Brostow et al. 2009). Everything was filmed in Cambridge, the one site.
"""

import functools
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from distseg.data.sample import IGNORE_INDEX, LabelledImage, LabelSpace, Sample
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
    id_map={**{train_id: train_id for train_id in range(11)}, 11: IGNORE_INDEX},
)

_CONDITION_OF_SEQUENCE = {"0001TP": "dusk", "0006R0": "day", "0016E5": "day", "Seq05VD": "day"}


def samples(root: str, split: str) -> Iterator[Sample]:
    """The frames of a split, sorted by name. Raises DataError for a folder or a file that is not CamVid's."""
    image_dir = Path(root) / split
    label_dir = Path(root) / f"{split}annot"
    for folder in (image_dir, label_dir):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; CamVid's root has <split>/ and <split>annot/ for each split")
    for image_path in sorted(image_dir.glob("*.png")):
        yield _sample(image_path, label_dir / image_path.name, split)


def _sample(image_path: Path, label_path: Path, split: str) -> Sample:
    sequence = image_path.stem.split("_")[0]
    if sequence not in _CONDITION_OF_SEQUENCE:
        known = ", ".join(_CONDITION_OF_SEQUENCE)
        raise DataError(
            f"{image_path}: {sequence!r} is not a sequence of CamVid ({known}), so its condition is unknown"
        )
    if not label_path.is_file():
        raise DataError(f"{image_path}: its annotation {label_path} is missing")
    return Sample(
        key=image_path.stem,
        condition=_CONDITION_OF_SEQUENCE[sequence],
        site="cambridge",
        sequence=sequence,
        split=split,
        source=f"{split}/{image_path.name}",
        load=functools.partial(_load, str(image_path), str(label_path)),
    )


def _load(image_path: str, label_path: str) -> LabelledImage:
    image_bytes, image = _read(image_path)
    _, label = _read(label_path)
    if image.size != label.size:
        raise DataError(f"{label_path}: {_size(label)}, but its image is {_size(image)}")
    if label.mode not in ("L", "P"):
        raise DataError(f"{label_path}: label images are 8-bit ids, this one is {label.mode}")
    is_plain_rgb_png = image.format == "PNG" and image.mode == "RGB"
    return LabelledImage(
        image=image_bytes if is_plain_rgb_png else _encode_rgb_png(image),
        image_format="png",
        label_HW=LABELS.to_train_ids(np.asarray(label), label_path),
    )


def _read(path: str) -> tuple[bytes, Image.Image]:
    try:
        data = Path(path).read_bytes()
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error
    return data, image


def _encode_rgb_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height} pixels"
