"""Images that can be looked into: photograph, truth and each run's prediction, errors and confidence as layers.

The page shows them side by side, without a script. With one, `templates/viewer.js` lays them over each other: it takes
the pictures from the page, and what else it needs from one block of JSON. Class maps become PNGs in the classes'
colours, void transparent; the script tells classes by their colours, so no two are alike.

A page's pictures are at most MAX_PICTURE_BYTES together. Where there are more, each condition has its first before any
has its second, and the page says how many are left out.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from distseg.errors import DataError
from distseg.evaluation import WRONG_RGB, ImageCounts, Overlay, Palette
from distseg.review.images.gallery import by_condition, in_turn, kinds, legend, score

MAX_SIDE_PX = 4096  # of a layer: what is larger is damaged
_RIGHT_RGB, _VOID_RGB = (225, 225, 225), (150, 150, 150)

Ids = npt.NDArray[np.uint8]
Colours = Sequence[tuple[int, int, int]]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An image as one run sees it."""

    run: str  # "": there is only one
    caption: str
    predicted: bytes  # PNGs
    confidence: bytes
    errors: bytes  # empty: no truth is known


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An image on the page."""

    number: int
    key: str
    condition: str
    photograph: bytes  # JPEG
    truth: bytes  # PNG; empty: not known
    runs: Sequence[Seen]


@dataclass(frozen=True, kw_only=True)
class Viewer:
    title: str
    note: str
    has_truth: bool
    group: str  # what images are grouped by, as "Condition"
    legend: Sequence[tuple[str, Sequence[int]]]
    blocks: Sequence[tuple[str, Sequence[Shot]]]  # (heading, images) of each group
    num_shown: int
    num_images: int
    data: Mapping[str, Any]  # what the script is given


class Look(NamedTuple):
    """What one run has of images."""

    overlays: Sequence[Overlay]  # those without layers are not shown
    images: ImageCounts | None = None  # for the IoU of a class in an image
    shares: Mapping[str, Sequence[float]] = MappingProxyType(
        {}
    )  # key -> of an image's pixels, by class, without a truth


def viewer(
    runs: Mapping[str, Look],
    classes: Sequence[str],
    palette: Palette,
    *,
    title: str,
    note: str,
    miou: Mapping[str, float],
) -> Viewer | None:
    """Of the images that all `runs` have with layers, conditions in the order of `miou`; None if there are none.

    Raises DataError for a layer that cannot be read.
    """
    by_key = [_by_key(run.overlays) for run in runs.values()]
    of_all = [[images[key][0] for images in by_key] for key in by_key[0] if all(key in images for images in by_key)]
    chosen = in_turn(of_all, miou, lambda row: sum(_num_bytes(image, k == 0) for k, image in enumerate(row)))
    if not chosen or not palette:
        return None
    rows, colours = _sorted(chosen, miou), distinct(palette)
    shots = [_shot(number, row, list(runs), by_key, colours) for number, row in enumerate(rows)]
    blocks: dict[str, list[Shot]] = {}
    for shot in shots:
        blocks.setdefault(shot.condition, []).append(shot)
    has_truth = any(shot.truth for shot in shots)
    data = [
        {
            "key": row[0].key,
            "condition": row[0].condition,
            "site": row[0].site,
            "runs": [_numbers(image, run, len(classes)) for image, run in zip(row, runs.values(), strict=True)],
        }
        for row in rows
    ]
    return Viewer(
        title=title,
        note=note,
        has_truth=has_truth,
        group="Condition" if has_truth else "Folder",
        legend=legend(classes, colours)[: None if has_truth else len(classes)],
        blocks=[(_heading(name, miou, has_truth and len(runs) == 1), found) for name, found in blocks.items()],
        num_shown=len(shots),
        num_images=len(of_all),
        data={
            "runs": list(runs),
            "classes": [{"name": name, "rgb": rgb} for name, rgb in zip(classes, colours, strict=True)],
            "wrong": WRONG_RGB,
            "has_truth": has_truth,
            "images": data,
        },
    )


def _heading(name: str, miou: Mapping[str, float], has_score: bool) -> str:
    return f"{name}: {score(name, miou)}" if has_score else name or "All"


def _by_key(overlays: Sequence[Overlay]) -> dict[str, list[Overlay]]:
    """Those with layers, the worst first; an image may be of both kinds."""
    found: dict[str, list[Overlay]] = {}
    for image in sorted(overlays, key=lambda image: image.kind == "fixed"):
        if image.layers is not None:
            found.setdefault(image.key, []).append(image)
    return found


def _num_bytes(image: Overlay, is_first: bool) -> int:
    assert image.layers is not None
    shared = ("photograph", "truth") if is_first else ()
    errors = len(image.layers.predicted)  # a map of three colours, which is smaller
    return errors + sum(len(getattr(image.layers, name)) for name in (*shared, "predicted", "confidence"))


def _sorted(rows: Sequence[list[Overlay]], miou: Mapping[str, float]) -> list[list[Overlay]]:
    """By condition, and in each by the least IoU of any run; those without truth stay as they are given."""

    def least(row: list[Overlay]) -> float:
        return min((image.iou for image in row if image.iou is not None), default=math.inf)

    return [row for of_it in by_condition(rows, miou).values() for row in sorted(of_it, key=least)]


def _shot(
    number: int, row: list[Overlay], names: Sequence[str], by_key: Sequence[dict[str, list[Overlay]]], colours: Colours
) -> Shot:
    key, layers = row[0].key, row[0].layers
    assert layers is not None
    truth_HW = read_map(layers.truth, key) if layers.truth else None
    what = kinds(by_key[0][key], has_truth=truth_HW is not None)
    runs = [
        _seen(image, truth_HW, name if len(row) > 1 else "", what, colours)
        for image, name in zip(row, names, strict=True)
    ]
    return Shot(
        number=number,
        key=key,
        condition=row[0].condition,
        photograph=layers.photograph,
        truth=b"" if truth_HW is None else in_colours(truth_HW, colours),
        runs=runs,
    )


def _seen(image: Overlay, truth_HW: Ids | None, run: str, what: str, colours: Colours) -> Seen:
    assert image.layers is not None
    predicted_HW = read_map(image.layers.predicted, image.key)
    return Seen(
        run=run,
        caption=f"{run or what}: {_told(image, truth_HW is not None)}",
        predicted=in_colours(predicted_HW, colours),
        confidence=image.layers.confidence,
        errors=b"" if truth_HW is None else errors_png(truth_HW, predicted_HW),
    )


def _told(image: Overlay, has_truth: bool) -> str:
    if not has_truth:
        return f"confidence {image.confidence:.2f}"
    return "all void" if image.iou is None else f"pixel-weighted IoU {image.iou:.2f}"


def _numbers(image: Overlay, run: Look, num_classes: int) -> dict[str, Any]:
    assert image.layers is not None
    if image.layers.truth:
        of_classes = _ious(image.key, run.images, num_classes)
    else:  # not of its layer, which is smaller: there, small classes get lost
        of_classes = [share or None for share in run.shares.get(image.key, [0.0] * num_classes)]
    return {
        "iou": _rounded(image.iou),
        "confidence": _rounded(image.confidence),
        "classes": [*map(_rounded, of_classes)],
    }


def _ious(key: str, images: ImageCounts | None, num_classes: int) -> Sequence[float | None]:
    """Of each class in one image, all its pixels counted."""
    if images is None or key not in images.keys:
        return [None] * num_classes
    truth_K, predicted_K, hit_K = images.counts_N3K[images.keys.index(key)].tolist()
    counts = zip(truth_K, predicted_K, hit_K, strict=True)
    return [hit / (truth + predicted - hit) if truth + predicted else None for truth, predicted, hit in counts]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# ---- class maps as pictures


def distinct(palette: Palette) -> list[tuple[int, int, int]]:
    """The palette, where a colour that is there already is changed by as little as makes it another one."""
    found: dict[tuple[int, int, int], None] = {}
    for red, green, blue in palette:
        colour = (int(red), int(green), int(blue))
        while colour in found:
            number = (colour[0] << 16 | colour[1] << 8 | colour[2]) + 1
            colour = (number >> 16 & 255, number >> 8 & 255, number & 255)
        found[colour] = None
    return list(found)


def read_map(png: bytes, key: str) -> Ids:
    """Raises DataError for what is no such map."""
    try:
        image = Image.open(io.BytesIO(png), formats=("PNG",))
        if image.mode != "L" or max(image.size) > MAX_SIDE_PX:
            raise ValueError(f"{image.mode}, {image.size}")
        return np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{key}: a layer of it cannot be read ({error}); evaluate again") from None


def in_colours(ids_HW: Ids, colours: Colours) -> bytes:
    """Everything that is no class, as void is, is transparent."""
    return _paletted(np.minimum(ids_HW, len(colours)).astype(np.uint8), [*colours, _VOID_RGB], len(colours))


def errors_png(truth_HW: Ids, predicted_HW: Ids) -> bytes:
    if predicted_HW.shape != truth_HW.shape:
        size = truth_HW.shape[1], truth_HW.shape[0]
        predicted_HW = np.asarray(Image.fromarray(predicted_HW).resize(size, Image.Resampling.NEAREST))
    kind_HW = np.where(truth_HW == 255, 2, truth_HW != predicted_HW).astype(np.uint8)
    return _paletted(kind_HW, [_RIGHT_RGB, WRONG_RGB, _VOID_RGB])


def _paletted(index_HW: Ids, colours: Colours, transparent: int | None = None) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(index_HW)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([channel for colour in colours for channel in colour])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **({} if transparent is None else {"transparency": transparent}))
    return buffer.getvalue()
