"""What a checkpoint holds, and how that becomes bytes: torch.save of plain containers and tensors, or safetensors.

A field is added by one line in `Checkpoint`, with a default, so that older checkpoints still load.
"""

import dataclasses
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distseg.config import (
    AdaptConfig,
    CheckpointConfig,
    DataConfig,
    RunConfig,
    StyleConfig,
    TrackingConfig,
    to_dict,
)
from distseg.data import LabelSpace
from distseg.errors import CheckpointError, ConfigError, first_line
from distseg.strict_json import Count, build_group
from distseg.training.checkpoint import portable
from distseg.training.checkpoint.evaluated import check_evaluated
from distseg.training.checkpoint.soundness import first_not_finite

FORMAT = 1
_RETIRED = ("next_micro_batch", "rng")  # fields of older checkpoints, which nothing reads


def _saved_as(encode: Callable[[Any], Any]) -> dict[str, Any]:
    """Field metadata: the value in the file, which distseg.strict_json makes the field of again."""
    return {"encode": encode}


_ONLY_TO_RESUME = {"is_shared": False}
"""Field metadata: left out of the one file that is given to others."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that a run needs to go on, and its newest evaluation. Tensors are on the CPU."""

    step: Count  # optimiser steps done
    config: RunConfig = field(metadata=_saved_as(to_dict))
    label_space: LabelSpace = field(metadata=_saved_as(LabelSpace.as_json))
    model: dict[str, Tensor]
    optimizer: dict[str, Any] = field(metadata=_ONLY_TO_RESUME)
    averaged: dict[str, Tensor] = field(default_factory=dict)  # the moving average of the weights, if one is kept
    loss_scale: dict[str, Tensor] = field(default_factory=dict, metadata=_ONLY_TO_RESUME)  # of fp16: optim.LossScale
    source_style: dict[str, Tensor] = field(default_factory=dict)  # of style.direction to_source: mean and std
    manifest_digest: str
    run_id: str = field(default="", metadata=_ONLY_TO_RESUME)  # MLflow's
    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)  # the evaluation as JSON, if one was made at this step
    evaluation: dict[str, Any] = field(default_factory=dict)  # its tensors: confusion matrix, image counts, overlays
    records: list[dict[str, Any]] = field(  # metrics that no segment of the journal had yet
        default_factory=list, metadata=_ONLY_TO_RESUME
    )
    code_version: str = ""

    @property
    def evaluated(self) -> dict[str, Tensor]:
        """The weights that its metrics are of."""
        return self.averaged or self.model

    @property
    def first_not_finite(self) -> str | None:
        """The name of a tensor in which a network or the optimiser holds NaN or infinity; None if all are finite."""
        names = ("model", "averaged", "loss_scale", "source_style", "optimizer")
        found = first_not_finite({name: getattr(self, name) for name in names})
        return found.name if found else None


def to_bytes(checkpoint: Checkpoint) -> bytes:
    buffer = io.BytesIO()
    torch.save(_encoded(checkpoint), buffer)
    return buffer.getvalue()


def _encoded(checkpoint: Checkpoint) -> dict[str, Any]:
    """Plain containers and tensors."""
    content: dict[str, Any] = {"format": FORMAT}
    for each in dataclasses.fields(Checkpoint):
        value = getattr(checkpoint, each.name)
        content[each.name] = each.metadata["encode"](value) if "encode" in each.metadata else value
    return content


def from_bytes(data: bytes, uri: str) -> Checkpoint:
    """The inverse of `to_bytes` and of `as_safetensors`; nothing in the data is executed.

    Raises CheckpointError naming `uri`, also for weights that are not finite, as early versions could save them.
    """
    try:
        content = portable.read(data) if portable.is_safetensors(data) else load_tensors(data)
    except ValueError as error:
        raise CheckpointError(f"{uri}: cannot be loaded as a checkpoint ({error})") from None
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{uri}: not a distseg checkpoint (it says no format); give one that distseg wrote")
    if content.pop("format") != FORMAT:
        raise CheckpointError(f"{uri}: written by another version of distseg; use a matching one")
    for name in _RETIRED:
        content.pop(name, None)
    try:
        saved: Checkpoint = build_group(Checkpoint, content, "")
        check_evaluated(saved.tables, saved.evaluation, saved.label_space)
    except ConfigError as error:
        raise CheckpointError(f"{uri}: not a distseg checkpoint ({error}); use another") from None
    if saved.first_not_finite:
        raise not_finite(uri, saved.first_not_finite)
    return saved


def not_finite(uri: str, name: str) -> CheckpointError:
    return CheckpointError(f"{uri}: {name} holds values that are not finite; use an earlier checkpoint")


def load_tensors(data: bytes) -> Any:
    """What torch.save wrote, if it is tensors and plain values, or a file of safetensors. Nothing else is loaded, since
    it could run code.

    Raises ValueError that says why in a few words: torch's own text advises to load such a file all the same.
    """
    if portable.is_safetensors(data):
        return portable.read(data) if portable.is_of_distseg(data) else portable.tensors(data)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it is not tensors and plain values alone, and nothing else is loaded") from None
    except RuntimeError as error:
        raise ValueError(first_line(error)) from None
    except Exception:  # noqa: BLE001 — whatever torch makes of bytes that are no weights, such as a text's
        raise ValueError("it is no file of torch.save") from None


def as_one_file(checkpoint: Checkpoint) -> bytes:
    """For others: the weights that its metrics are of, with label space, configuration, metrics and tables.

    Left out is what only the run itself needs: optimiser, records, pictures, and the paths on its machine.
    """
    return to_bytes(_shared(checkpoint))


def as_safetensors(checkpoint: Checkpoint, metadata: Mapping[str, str]) -> bytes:
    """The same without the tensors of the evaluation, as a file of safetensors; `from_bytes` reads it too.

    `metadata`: names and texts for other programs, beside the entry that `from_bytes` reads.
    """
    content = _encoded(replace(_shared(checkpoint), evaluation={}))
    return portable.write(content, metadata)


def _shared(checkpoint: Checkpoint) -> Checkpoint:
    if checkpoint.source_style:
        raise CheckpointError("style.direction = to_source evaluates with a second network; keep the whole checkpoint")
    shared: dict[str, Any] = {
        each.name: type(getattr(checkpoint, each.name))()
        for each in dataclasses.fields(Checkpoint)
        if not each.metadata.get("is_shared", True)
    }
    evaluation = {name: value for name, value in checkpoint.evaluation.items() if name != "overlays"}
    weights = {"model": checkpoint.evaluated, "averaged": {}}
    return replace(checkpoint, **(shared | weights), config=_without_places(checkpoint.config), evaluation=evaluation)


def _without_places(config: RunConfig) -> RunConfig:
    """Without the paths and addresses of whoever trained it, which say nothing to others and are not for them."""
    began_with, default = config.model.pretrained, DataConfig()
    pretrained = began_with if began_with == "imagenet" else None
    data = replace(config.data, uri=default.uri, mix=(), mix_weights=(), cache_dir=default.cache_dir)
    config = replace(config, data=data, adapt=replace(config.adapt, uri=AdaptConfig().uri))
    config = replace(config, model=replace(config.model, pretrained=pretrained))
    return replace(config, checkpoint=CheckpointConfig(), tracking=TrackingConfig(), style=StyleConfig())
