"""Pictures of an evaluation: of each condition a few images that are the same each time, and the worst ones.

The fixed images of a condition have the lowest hashes of their keys, the worst the lowest `metrics.image_iou`. So the
choice depends neither on the number of ranks nor on the order in which images are scored. While it scores, each rank
keeps its own candidates, shrunken. Then the ranks agree on the lowest of all, and the rank that has an image draws it.

Memory: with C conditions a rank keeps at most 2 · count · C images of 5 · TILE_PX² bytes, and the ranks exchange at
most 2 · count · C · MAX_JPEG_BYTES. 2 · count · C is at most MAX_OVERLAYS, which makes 84 MB and 16 MiB. Two images of
each of nine conditions take 12 MB and 2.3 MiB.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import Tensor

from distseg.data.loading import EvalSample
from distseg.evaluation.metrics import image_iou
from distseg.evaluation.panels import Kind, Overlay, Palette, Segmented, as_jpeg, panel, shrink
from distseg.evaluation.world import World

log = logging.getLogger(__name__)

MAX_OVERLAYS = 256  # pictures of one evaluation


class _Candidate(NamedTuple):
    """An image that may be chosen: those of the lowest score of each kind and condition are."""

    kind: Kind
    condition: str
    score: float
    key: str
    iou: float | None


class Overlays:
    """One rank's part of the choice: give it to `evaluate_shards`, then call `gathered` on every rank."""

    def __init__(self, conditions: Iterable[str], palette: Palette, per_condition: int) -> None:
        """`per_condition`: the number of fixed images, and of worst ones. With many conditions it is lowered."""
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
        self._kept: dict[tuple[Kind, str], list[tuple[_Candidate, Segmented]]] = {
            (kind, name): [] for kind in get_args(Kind) for name in self.conditions
        }

    def update(self, sample: EvalSample, prediction_HW: Tensor, counts_3K: Tensor) -> None:
        """Keeps the image if it is among the lowest so far. `counts_3K`: `metrics.class_counts` of this image.

        The prediction may be on a GPU: it is copied only if the image is kept.
        """
        if not self.count or sample.condition not in self.conditions:
            return
        iou = image_iou(counts_3K)
        candidates = [_Candidate("fixed", sample.condition, _hash(sample.key), sample.key, iou)]
        if iou is not None:
            candidates.append(_Candidate("worst", sample.condition, iou, sample.key, iou))
        kept = [self._kept[candidate.kind, candidate.condition] for candidate in candidates]
        entering = [
            (candidate, lowest)
            for candidate, lowest in zip(candidates, kept, strict=True)
            if len(lowest) < self.count or _order(candidate) < _order(lowest[-1][0])
        ]
        if entering:
            small = shrink(sample.image_3HW, sample.label_HW, prediction_HW.cpu())
            for candidate, lowest in entering:
                lowest.append((candidate, small))
                lowest.sort(key=lambda item: _order(item[0]))
                del lowest[self.count :]

    def gathered(self, world: World) -> list[Overlay]:
        """The pictures of all ranks, on every rank: by kind and condition, the lowest first."""
        own = {candidate: small for lowest in self._kept.values() for candidate, small in lowest}
        of_all = [_Candidate(*values) for of_rank in world.gather([tuple(each) for each in own]) for values in of_rank]
        chosen = [candidate for key in sorted(self._kept) for candidate in self._lowest(key, of_all)]
        drawn: dict[str, bytes] = {}  # by key: one image may be of both kinds
        for candidate in chosen:
            if candidate in own and candidate.key not in drawn:
                drawn[candidate.key] = as_jpeg(panel(own[candidate], self._palette))
        jpegs = all_gather_bytes([drawn.get(candidate.key, b"") for candidate in chosen], world)
        return [
            Overlay(kind=c.kind, condition=c.condition, key=c.key, iou=c.iou, jpeg=jpeg)
            for c, jpeg in zip(chosen, jpegs, strict=True)
        ]

    def _lowest(self, key: tuple[Kind, str], candidates: Sequence[_Candidate]) -> list[_Candidate]:
        return sorted((c for c in candidates if (c.kind, c.condition) == key), key=_order)[: self.count]


def _order(candidate: _Candidate) -> tuple[float, str]:
    return candidate.score, candidate.key


def _hash(key: str) -> float:
    """A number that has nothing to do with what the image shows, below 2^48: exact as a float."""
    return float(int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]))


def all_gather_bytes(parts: Sequence[bytes], world: World) -> list[bytes]:
    """All byte strings on every rank, where each rank has some of them and gives b"" for the others.

    Each string must come from one rank only: the ranks sum one buffer of the strings' total length, whose size does not
    grow with the number of ranks.
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
