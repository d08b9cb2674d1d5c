"""What a checkpoint holds of its evaluation: the table, which is JSON, and the tensors beside it.

They are checked as far as figures, tables and tests rely on them, so that a page is made of what was measured or not
at all. Entries that this version does not know are let through. Errors are ConfigErrors that name the entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distseg.data import LabelSpace
from distseg.strict_json import Count, Line, build, require

_MAX_JPEG_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """Of all images together, or of one condition or site: the entries that figures and tables take."""

    num_images: Count = 0
    mIoU: float | None = None
    classes: dict[Line, float | None] = field(default_factory=dict)


def check_evaluated(table: Mapping[str, Any], tensors: Mapping[str, Any], labels: LabelSpace) -> None:
    """Raises ConfigError unless both are of an evaluation on these classes. Both may be empty."""
    if "conditions" in table:
        _check_entry(table, "tables", labels)
        for part in ("conditions", "sites"):
            for name, entry in build(dict[Line, dict[str, Any]], table.get(part, {}), f"tables.{part}").items():
                _check_entry(entry, f"tables.{part}.{name}", labels)
        build(tuple[Line, ...], table.get("trained_on", ()), "tables.trained_on")
        worst = table.get("worst_condition")
        is_known = worst is None or (isinstance(worst, str) and worst in table["conditions"])
        require(is_known, "tables.worst_condition", worst, "must be one of the conditions")
    _check_tensors(tensors, labels.num_classes)


def _check_entry(entry: Mapping[str, Any], where: str, labels: LabelSpace) -> None:
    known = {name: entry[name] for name in _Entry.__annotations__ if name in entry}
    found: _Entry = build(_Entry, known, where)
    is_whole = "classes" not in entry or tuple(found.classes) == labels.classes
    require(is_whole, f"{where}.classes", list(found.classes), "must be those of the label space")
    for name, value in entry.items():
        if isinstance(value, float):
            build(float, value, f"{where}.{name}")
    build(dict[Line, Count], entry.get("support", {}), f"{where}.support")
    if trust := build(dict[str, Any], entry.get("trust") or {}, f"{where}.trust"):
        _check_trust(trust, f"{where}.trust")


def _check_tensors(tensors: Mapping[str, Any], num_classes: int) -> None:
    matrix_KK = tensors.get("matrix_KK")
    if matrix_KK is not None:
        is_matrix = isinstance(matrix_KK, Tensor) and matrix_KK.shape == (num_classes, num_classes)
        require(is_matrix, "evaluation.matrix_KK", _shape(matrix_KK), f"must be {num_classes} x {num_classes}")
    if images := build(dict[str, Any], tensors.get("images") or {}, "evaluation.images"):
        keys = build(tuple[Line, ...], images.get("keys"), "evaluation.images.keys")
        conditions = build(tuple[Line, ...], images.get("conditions"), "evaluation.images.conditions")
        counts_N3K = images.get("counts_N3K")
        is_counted = isinstance(counts_N3K, Tensor) and counts_N3K.dtype == torch.int64
        is_counted = is_counted and len(conditions) == len(keys)
        is_counted = is_counted and _shape(counts_N3K) == (len(keys), 3, num_classes)
        require(is_counted, "evaluation.images.counts_N3K", _shape(counts_N3K), "must be three counts of each class")
    for overlay in build(list[dict[str, Any]], tensors.get("overlays", []), "evaluation.overlays"):
        _check_bytes(overlay.get("jpeg"), "evaluation.overlays: jpeg")
        _check_layers(overlay)


def _check_layers(overlay: Mapping[str, Any]) -> None:
    build(float | None, overlay.get("confidence"), "evaluation.overlays: confidence")
    build(Line, overlay.get("site", ""), "evaluation.overlays: site")
    layers = build(dict[str, Any], overlay.get("layers") or {}, "evaluation.overlays: layers")
    for name in ("photograph", "truth", "predicted", "confidence") if layers else ():
        _check_bytes(layers.get(name), f"evaluation.overlays: layers.{name}")


def _check_bytes(data: object, where: str) -> None:
    is_bytes = isinstance(data, Tensor) and data.dtype == torch.uint8 and data.ndim == 1
    is_bytes = is_bytes and _num_bytes(data) <= _MAX_JPEG_BYTES
    require(is_bytes, where, _shape(data), "must be the bytes of a picture")


def _num_bytes(data: object) -> int:
    return data.numel() if isinstance(data, Tensor) else 0


@dataclass(frozen=True, kw_only=True)
class _Trust:
    """What distseg.evaluation.trust.readings gives, as far as a page is made of it."""

    pixels: Count
    confidence: float | None
    ece: float | None
    aurc: float | None
    boundary_iou: float | None
    reliability: list[dict[str, float | None]]
    risk_coverage: list[list[float | None]]
    borders: list[dict[str, float | None]]
    objects: list[dict[str, float | None]]


def _check_trust(trust: Mapping[str, Any], where: str) -> None:
    found: _Trust = build(_Trust, {name: trust[name] for name in _Trust.__annotations__ if name in trust}, where)
    keys = {"reliability": _BIN, "borders": _BAND, "objects": _SIZE}
    for name, needed in keys.items():
        is_whole = all(needed <= each.keys() for each in getattr(found, name))
        require(is_whole, f"{where}.{name}", sorted(needed), "must be in each of its entries")
    is_pairs = all(len(pair) == 2 for pair in found.risk_coverage)
    require(is_pairs, f"{where}.risk_coverage", len(found.risk_coverage), "must be pairs of coverage and risk")


_BIN, _BAND = frozenset(("confidence", "accuracy", "pixels")), frozenset(("up_to_px", "pixels", "wrong"))
_SIZE = frozenset(("below", "objects", "found", "right"))


def _shape(value: object) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
