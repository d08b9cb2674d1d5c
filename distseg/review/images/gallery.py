"""Photographs on a page as panels, of runs without layers (see `viewer`): the worst ones, and those always shown.

A page's photographs are at most MAX_PICTURE_BYTES together. Where there are more, each condition has its first before
any has its second, and the page says how many are left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from distseg.evaluation import WRONG_RGB, Overlay, Palette

MAX_PICTURE_BYTES = 2_400_000  # before they are written as text, which makes them a third larger

NOTE_OF_RUN = (
    "Of each condition the worst images, and some that were chosen by their names alone: those are the same at every "
    "evaluation and for every run on this data. The IoU of one image weights its classes by their pixels, so it is "
    "mostly higher than mIoU."
)
_COMPARED = (
    "Images chosen by their names alone, whatever the networks make of them. The IoU of one image weights its classes "
    "by their pixels, so it is mostly higher than mIoU."
)


@dataclass(frozen=True)
class Card:
    jpeg: bytes
    alt: str
    caption: str  # its further lines are small


@dataclass(frozen=True, kw_only=True)
class Gallery:
    title: str
    note: str
    legend: Sequence[tuple[str, Sequence[int]]]  # (what a colour means, RGB)
    blocks: Sequence[tuple[str, Sequence[Card]]]  # (heading, photographs) of each condition
    num_shown: int
    num_images: int


def images_of_run(
    overlays: Sequence[Overlay], miou: Mapping[str, float], classes: Sequence[str], palette: Palette
) -> Gallery | None:
    """Conditions in the order of `miou`, then those that have none; None if there are no pictures."""
    by_key: dict[str, list[Overlay]] = {}
    for image in sorted(overlays, key=lambda image: image.kind == "fixed"):
        by_key.setdefault(image.key, []).append(image)
    return _gallery(
        [[images[0]] for images in by_key.values()],
        miou,
        title="Images of each condition",
        note=NOTE_OF_RUN,
        legend=legend(classes, palette),
        heading=lambda condition: f"{condition}: {score(condition, miou)}",
        cards=lambda row: [_card(image, kinds(by_key[image.key])) for image in row],
    )


def images_compared(
    runs: Mapping[str, Sequence[Overlay]], miou: Mapping[str, float], classes: Sequence[str], palette: Palette
) -> Gallery | None:
    """Of each condition images that all `runs` have, run after run; None if there are none."""
    fixed = [{image.key: image for image in overlays if image.kind == "fixed"} for overlays in runs.values()]
    return _gallery(
        [[images[key] for images in fixed] for key in fixed[0] if all(key in images for images in fixed)],
        miou,
        title="The same images, run by run",
        note=_COMPARED,
        legend=legend(classes, palette),
        heading=lambda condition: condition,
        cards=lambda row: [_card(image, run) for run, image in zip(runs, row, strict=True)],
    )


def _gallery(
    rows: Sequence["_Row"],
    miou: Mapping[str, float],
    *,
    title: str,
    note: str,
    legend: Sequence[tuple[str, Sequence[int]]],
    heading: Callable[[str], str],  # of a condition
    cards: Callable[["_Row"], Sequence[Card]],
) -> Gallery | None:
    shown = in_turn(rows, miou, _panel_bytes)
    if not shown:
        return None
    return Gallery(
        title=title,
        note=note,
        legend=legend,
        blocks=[
            (heading(condition), [card for row in of_it for card in cards(row)])
            for condition, of_it in by_condition(shown, miou).items()
        ],
        num_shown=len(shown),
        num_images=len(rows),
    )


def legend(classes: Sequence[str], palette: Palette) -> list[tuple[str, Sequence[int]]]:
    if not palette:
        return []
    return [*((name, tuple(map(int, rgb))) for name, rgb in zip(classes, palette, strict=True)), ("wrong", WRONG_RGB)]


_Row = list[Overlay]  # pictures that are shown together or not at all


def _panel_bytes(row: _Row) -> int:
    return sum(len(image.jpeg) for image in row)


def in_turn(rows: Sequence[_Row], miou: Mapping[str, float], num_bytes_of: Callable[[_Row], int]) -> list[_Row]:
    """The first of each condition, in the order of `miou`, then the second, … while within MAX_PICTURE_BYTES."""
    by_turn = [(turn, row) for of_it in by_condition(rows, miou).values() for turn, row in enumerate(of_it)]
    fitting, num_bytes = [], 0
    for _, row in sorted(by_turn, key=lambda item: item[0]):
        num_bytes += num_bytes_of(row)
        if num_bytes > MAX_PICTURE_BYTES:
            break
        fitting.append(row)
    return fitting


def by_condition(rows: Iterable[_Row], miou: Mapping[str, float]) -> dict[str, list[_Row]]:
    found: dict[str, list[_Row]] = {condition: [] for condition in miou}
    for row in rows:
        found.setdefault(row[0].condition, []).append(row)
    return {condition: of_it for condition, of_it in found.items() if of_it}


def _card(image: Overlay, what: str) -> Card:
    iou = "all void" if image.iou is None else f"pixel-weighted IoU {image.iou:.2f}"
    return Card(image.jpeg, f"input, truth, prediction, errors of {image.key}", f"{what}: {iou}\n{image.key}")


def kinds(images: Sequence[Overlay], *, has_truth: bool = True) -> str:
    """Why an image is shown: it may be for both reasons."""
    worst, fixed = ("Among the worst", "always shown") if has_truth else ("Among the least sure", "evenly chosen")
    if len(images) > 1:
        return f"{worst}, and {fixed}"
    return worst if images[0].kind == "worst" else fixed.capitalize()


def score(condition: str, miou: Mapping[str, float]) -> str:
    return f"mIoU {miou[condition]:.2f}" if condition in miou else "all void"
