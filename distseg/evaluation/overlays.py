"""Which images of an evaluation are made into pictures: a few of each condition, the same each time, and its worst.

The fixed ones of a condition are those whose keys have the lowest hashes, the worst those of the lowest
`bootstrap.image_iou`: the same images on any number of ranks, whatever the order in which they are scored. Each rank
keeps its own candidates, shrunken, while it scores; then the ranks agree, and who has a chosen one draws it.

Bounded: of C conditions a rank keeps 2 · count · C images of at most 5 · TILE_PX² bytes, and the ranks exchange at most
2 · count · C · MAX_JPEG_BYTES, with 2 · count · C <= MAX_OVERLAYS: at most 84 MB and 16 MiB. With two images of each of
nine conditions that is 12 MB and 2.3 MiB.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import Tensor

from distseg.data.loading import EvalSample
from distseg.evaluation.bootstrap import image_iou
from distseg.evaluation.panels import Kind, Overlay, Palette, Segmented, as_jpeg, panel, shrink
from distseg.evaluation.world import World

log = logging.getLogger(__name__)

MAX_OVERLAYS = 256  # of an evaluation


class _Rank(NamedTuple):
    """Where an image stands among those of its condition: the lowest are chosen."""

    kind: Kind
    condition: str
    score: float
    key: str
    iou: float | None


class Overlays:
    """One rank's part of an evaluation: give it to `evaluate_shards`, then call `gathered` on every rank."""

    def __init__(self, conditions: Iterable[str], palette: Palette, per_condition: int) -> None:
        """`per_condition`: as many fixed ones, and as many of the worst. Of many conditions fewer are kept."""
        names = sorted(set(conditions))
        self.conditions = frozenset(names[: MAX_OVERLAYS // 2])
        self.count = min(per_condition, MAX_OVERLAYS // (2 * max(1, len(self.conditions))))
        if per_condition and (self.count < per_condition or len(self.conditions) < len(names)):
            log.warning(
                "evaluate.overlays_per_condition = %d: %d conditions would make more than %d pictures; "
                "%d of each kind are made of %d conditions",
                *(per_condition, len(names), MAX_OVERLAYS, self.count, len(self.conditions)),
            )
        self._palette = palette
        self._kept: dict[tuple[Kind, str], list[tuple[_Rank, Segmented]]] = {
            (kind, name): [] for kind in get_args(Kind) for name in self.conditions
        }

    def update(self, sample: EvalSample, prediction_HW: Tensor, counts_3K: Tensor) -> None:
        """Keeps the image if it is among the lowest so far. `counts_3K` is `bootstrap.class_counts` of it alone."""
        if not self.count or sample.condition not in self.conditions:
            return
        iou = image_iou(counts_3K)
        places = [_Rank("fixed", sample.condition, _hash(sample.key), sample.key, iou)]
        places += [] if iou is None else [_Rank("worst", sample.condition, iou, sample.key, iou)]
        kept = [self._kept[place.kind, place.condition] for place in places]
        entering = [
            (place, best)
            for place, best in zip(places, kept, strict=True)
            if len(best) < self.count or _order(place) < _order(best[-1][0])
        ]
        if entering:
            small = shrink(sample.image_3HW, sample.label_HW, prediction_HW)
            for place, best in entering:
                best.append((place, small))
                best.sort(key=lambda item: _order(item[0]))
                del best[self.count :]

    def gathered(self, world: World) -> list[Overlay]:
        """The pictures of all ranks, on every rank: by kind and condition, the lowest first."""
        own = {place: small for best in self._kept.values() for place, small in best}
        everyones = [_Rank(*place) for places in world.gather([tuple(place) for place in own]) for place in places]
        chosen = [place for key in sorted(self._kept) for place in self._lowest(key, everyones)]
        drawn: dict[str, bytes] = {}  # by key: one image may be of both kinds
        for place in chosen:
            if place in own and place.key not in drawn:
                drawn[place.key] = as_jpeg(panel(own[place], self._palette))
        jpegs = [drawn.get(place.key, b"") for place in chosen]
        return [
            Overlay(kind=place.kind, condition=place.condition, key=place.key, iou=place.iou, jpeg=jpeg)
            for place, jpeg in zip(chosen, exchanged(jpegs, world), strict=True)
        ]

    def _lowest(self, key: tuple[Kind, str], places: Sequence[_Rank]) -> list[_Rank]:
        return sorted((p for p in places if (p.kind, p.condition) == key), key=_order)[: self.count]


def _order(place: _Rank) -> tuple[float, str]:
    return place.score, place.key


def _hash(key: str) -> float:
    """A number that has nothing to do with what the image shows, below 2^48: exact as a float."""
    return float(int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]))


def exchanged(parts: Sequence[bytes], world: World) -> list[bytes]:
    """Byte strings of which each rank has some and gives b"" for the others, whole on every rank.

    As sums over one buffer of the strings' total length, which does not grow with the number of ranks. Raises nothing
    of its own; each part must be of one rank only.
    """
    lengths = world.sum(torch.tensor([len(part) for part in parts], dtype=torch.int64, device=world.device)).tolist()
    flat = torch.zeros(sum(lengths), dtype=torch.uint8)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    for start, part in zip(starts, parts, strict=True):
        if part:
            flat[start : start + len(part)] = torch.frombuffer(bytearray(part), dtype=torch.uint8)
    data = world.sum(flat.to(world.device)).cpu().numpy().tobytes() if len(flat) else b""
    return [data[start : start + length] for start, length in zip(starts, lengths, strict=True)]


# ---- in a checkpoint, and on the way to MLflow


def overlays_to_tensors(overlays: Sequence[Overlay]) -> list[dict[str, Any]]:
    """What a checkpoint can hold (`weights_only`); `overlays_from_tensors` is the inverse."""
    return [vars(o) | {"jpeg": torch.frombuffer(bytearray(o.jpeg), dtype=torch.uint8)} for o in overlays]


def overlays_from_tensors(saved: Iterable[Mapping[str, Any]]) -> list[Overlay]:
    return [Overlay(**{**item, "jpeg": item["jpeg"].numpy().tobytes()}) for item in saved]


def overlay_pictures(evaluation: Mapping[str, Any]) -> dict[str, bytes]:
    """The fixed images of a checkpoint's evaluation by their names in MLflow: JPEGs `overlay/<condition>`.

    A condition's second one is `overlay/<condition> 2`, since MLflow shows one picture of a name and step.
    """
    found: dict[str, bytes] = {}
    for overlay in overlays_from_tensors(cast(list[dict[str, Any]], evaluation.get("overlays", []))):
        if overlay.kind == "fixed":
            number = 1 + sum(name.partition(" ")[0] == f"overlay/{overlay.condition}" for name in found)
            found[f"overlay/{overlay.condition}" + (f" {number}" if number > 1 else "")] = overlay.jpeg
    return found
