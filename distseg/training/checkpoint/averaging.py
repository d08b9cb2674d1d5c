"""The mean of the weights of several checkpoints, as one network (Wortsman et al. 2022, "Robust fine-tuning")."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from distseg.config import to_dict
from distseg.errors import CheckpointError
from distseg.training.checkpoint.content import Checkpoint

_NOT_THE_NETWORK = ("pretrained", "checkpointing")  # fields of `model` by which the same network may differ


def mean_of(saved: Mapping[str, Checkpoint]) -> Checkpoint:
    """Of the weights that are evaluated, and of batch norm's statistics; by URI. All else is the first's, no scores.

    That is a network only if all were trained on from the same weights: then what lies between them scores as high and
    often higher, and what fine-tuning took away from one is kept by the other. Raises CheckpointError if their networks
    or classes differ, or if one restyles its images, which takes a network of its own.
    """
    (first_uri, first), *others = saved.items()
    for uri, other in saved.items():
        if other.source_style:
            raise CheckpointError(f"{uri}: style.direction = to_source cannot be averaged; give others")
    for uri, other in others:
        differing = _difference(first, other)
        if differing:
            raise CheckpointError(
                f"{uri}: {differing} than in {first_uri}; average checkpoints that went on from the same weights"
            )
    states = [each.evaluated for each in saved.values()]
    model = {name: _mean([state[name] for state in states]) for name in states[0]}
    return replace(first, model=model, averaged={}, metrics={}, tables={}, evaluation={})


def _mean(tensors: list[Tensor]) -> Tensor:
    """In float64, in the first's dtype; counters, which are integers, are the first's."""
    first = tensors[0]
    return torch.stack([each.double() for each in tensors]).mean(0).to(first) if first.is_floating_point() else first


def _difference(first: Checkpoint, other: Checkpoint) -> str:
    """In words, before "than in …"; empty if both are of one network."""
    ours, theirs = to_dict(first.config)["model"], to_dict(other.config)["model"]
    for name in ours.keys() | theirs.keys():
        if name not in _NOT_THE_NETWORK and ours.get(name) != theirs.get(name):
            return f"model.{name} = {theirs.get(name)!r} is another"
    if first.label_space.classes != other.label_space.classes:
        return "it has other classes"
    shapes, other_shapes = ({name: t.shape for name, t in each.evaluated.items()} for each in (first, other))
    return "" if shapes == other_shapes else "its weights have other shapes"
