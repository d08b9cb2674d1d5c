"""Pictures of an evaluation: of each condition a few images that are the same each time, and the worst ones.

The fixed images of a condition have the lowest hashes of their keys, the worst the lowest `metrics.image_iou`. So the
choice depends neither on the number of ranks nor on the order in which images are scored. While it scores, each rank
keeps its own candidates, shrunken. Then the ranks agree on the lowest of all, and the rank that has an image draws it.

Memory: with C conditions a rank keeps at most 2 · count · C images of 6 · side² bytes, and the ranks exchange at most
2 · count · C · 5 · MAX_JPEG_BYTES; a usual image has a third of that. 2 · count · C is at most MAX_OVERLAYS. `side` is
LAYER_PX for up to MAX_LARGE pictures, else TILE_PX: at most 101 MB are kept and 84 MB exchanged. Two images of each of
nine conditions take 57 MB and some 3 MB.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distseg.data.loading import EvalSample
from distseg.evaluation.metrics import image_iou
from distseg.evaluation.pictures.layers import LAYER_PX, Layers, layers_of
from distseg.evaluation.pictures.panels import TILE_PX, Kind, Palette, Segmented, as_jpeg, panel, shrink
from distseg.evaluation.trust.counts import NUM_LEVELS, STRIDE
from distseg.evaluation.world import World
from distseg.label_maps import IGNORE_INDEX

log = logging.getLogger(__name__)

MAX_OVERLAYS = 256  # pictures of one evaluation
MAX_LARGE = 64  # of them with layers of LAYER_PX


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """One image of an evaluation as a picture."""

    kind: Kind  # "fixed": shown at every evaluation; "worst": among the lowest IoUs of its condition
    condition: str
    key: str
    iou: float | None  # metrics.image_iou, weighted by pixels; None: all its pixels are void
    jpeg: bytes  # a panel, at most MAX_JPEG_BYTES
    site: str = ""
    confidence: float | None = None  # the mean over its pixels that are not void; None: not known, or all are void
    layers: Layers | None = None  # None: of a version that kept the panel alone


class _Candidate(NamedTuple):
    """An image that may be chosen: those of the lowest score of each kind and condition are."""

    kind: Kind
    condition: str
    score: float
    key: str
    iou: float | None
    site: str
    confidence: float | None = None  # not known before it is kept


class _Kept(NamedTuple):
    small: Segmented
    level_hw: npt.NDArray[np.uint8]


class Overlays:
    """One rank's part of the choice: give it to `evaluate_shards`, then call `gathered` on every rank."""

    def __init__(
        self, conditions: Iterable[str], palette: Palette, per_condition: int, classes: Sequence[str] = ()
    ) -> None:
        """`per_condition`: the number of fixed images, and of worst ones. With many conditions it is lowered.

        `classes`: their names, for a legend.
        """
        names = sorted(set(conditions))
        self.conditions = frozenset(names[: MAX_OVERLAYS // 2])
        self.count = min(per_condition, MAX_OVERLAYS // (2 * max(1, len(self.conditions))))
        if per_condition and (self.count < per_condition or len(self.conditions) < len(names)):
            log.warning(
                "evaluate.overlays_per_condition = %d: %d conditions would make more than %d pictures; "
                "%d of each kind are made of %d conditions",
                *(per_condition, len(names), MAX_OVERLAYS, self.count, len(self.conditions)),
            )
        self._palette, self._classes = palette, classes
        self._side_px = LAYER_PX if 2 * self.count * len(self.conditions) <= MAX_LARGE else TILE_PX
        self._kept: dict[tuple[Kind, str], list[tuple[_Candidate, _Kept]]] = {
            (kind, name): [] for kind in get_args(Kind) for name in self.conditions
        }

    def update(self, sample: EvalSample, prediction_HW: Tensor, counts_3K: Tensor, level_hw: Tensor) -> None:
        """Keeps the image if it is among the lowest so far. `counts_3K`: `metrics.class_counts` of this image;
        `level_hw`: its confidence, see `trust.counts`.

        The prediction may be on a GPU: it is copied only if the image is kept.
        """
        if not self.count or sample.condition not in self.conditions:
            return
        iou = image_iou(counts_3K)
        scores: list[tuple[Kind, float]] = [("fixed", _hash(sample.key))]
        if iou is not None:
            scores.append(("worst", iou))
        candidates = [_Candidate(kind, sample.condition, score, sample.key, iou, sample.site) for kind, score in scores]
        kept = [self._kept[candidate.kind, candidate.condition] for candidate in candidates]
        entering = [
            (candidate, lowest)
            for candidate, lowest in zip(candidates, kept, strict=True)
            if len(lowest) < self.count or _order(candidate) < _order(lowest[-1][0])
        ]
        if entering:
            small = shrink(sample.image_3HW, sample.label_HW, prediction_HW.cpu(), self._side_px)
            kept_image, confidence = _Kept(small, level_hw.numpy()), _mean_confidence(sample, level_hw)
            for candidate, lowest in entering:
                lowest.append((candidate._replace(confidence=confidence), kept_image))
                lowest.sort(key=lambda item: _order(item[0]))
                del lowest[self.count :]

    def gathered(self, world: World) -> list[Overlay]:
        """The pictures of all ranks, on every rank: by kind and condition, the lowest first."""
        own = {candidate: small for lowest in self._kept.values() for candidate, small in lowest}
        of_all = [_Candidate(*values) for of_rank in world.gather([tuple(each) for each in own]) for values in of_rank]
        chosen = [candidate for key in sorted(self._kept) for candidate in self._lowest(key, of_all)]
        drawn: dict[str, list[bytes]] = {}  # by key: one image may be of both kinds
        for candidate in chosen:
            if candidate in own and candidate.key not in drawn:
                drawn[candidate.key] = self._drawn(own[candidate], candidate.iou)
        keys = list(dict.fromkeys(candidate.key for candidate in chosen))
        parts = all_gather_bytes([part for key in keys for part in drawn.get(key, _NOT_HERE)], world)
        by_key = dict(zip(keys, _of_each_image(parts), strict=True))
        return [_overlay(candidate, *by_key[candidate.key]) for candidate in chosen]

    def _drawn(self, kept: _Kept, iou: float | None) -> list[bytes]:
        layers = layers_of(*kept)
        jpeg = as_jpeg(panel(kept.small, self._palette, self._classes, iou=iou))
        return [jpeg, *(getattr(layers, name) for name in _LAYERS)]

    def _lowest(self, key: tuple[Kind, str], candidates: Sequence[_Candidate]) -> list[_Candidate]:
        return sorted((c for c in candidates if (c.kind, c.condition) == key), key=_order)[: self.count]


def _of_each_image(parts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (parts[start : start + len(_NOT_HERE)] for start in range(0, len(parts), len(_NOT_HERE)))


_LAYERS = tuple(each.name for each in dataclasses.fields(Layers))
_NOT_HERE = (b"",) * (1 + len(_LAYERS))


def _overlay(candidate: _Candidate, jpeg: bytes, *layers: bytes) -> Overlay:
    return Overlay(
        kind=candidate.kind,
        condition=candidate.condition,
        key=candidate.key,
        iou=candidate.iou,
        jpeg=jpeg,
        site=candidate.site,
        confidence=candidate.confidence,
        layers=Layers(**dict(zip(_LAYERS, layers, strict=True))),
    )


def _mean_confidence(sample: EvalSample, level_hw: Tensor) -> float | None:
    level_P = level_hw[sample.label_HW[::STRIDE, ::STRIDE] != IGNORE_INDEX]
    return (float(level_P.float().mean()) + 0.5) / NUM_LEVELS if level_P.numel() else None


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
    return [
        vars(o)
        | {"jpeg": _as_tensor(o.jpeg)}
        | {"layers": {name: _as_tensor(data) for name, data in vars(o.layers).items()} if o.layers else None}
        for o in overlays
    ]


def overlays_from_tensors(saved: Iterable[Mapping[str, Any]]) -> list[Overlay]:
    """Entries that this version does not know are left out."""
    found = []
    for item in saved:
        known = {name: item[name] for name in _FIELDS if name in item}
        layers = item.get("layers")
        known["layers"] = Layers(**{name: _as_bytes(layers[name]) for name in _LAYERS}) if layers else None
        found.append(Overlay(**{**known, "jpeg": _as_bytes(item["jpeg"])}))
    return found


_FIELDS = tuple(each.name for each in dataclasses.fields(Overlay))


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _as_bytes(data: Tensor) -> bytes:
    return bytes(data.numpy().tobytes())


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
