"""What a run trains: the interface between the training loop and the networks' two kinds of training.

What a search maximises is another thing, see search/objectives.py.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from distseg.config import RunConfig
from distseg.data.loading import Batch, TrainReader
from distseg.data.shards import Manifest
from distseg.evaluation import World
from distseg.training.checkpoint import Checkpoint
from distseg.training.optim import Update


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """An evaluation over all ranks; the same on each."""

    metrics: dict[str, float]  # by the names under which they are logged
    tables: dict[str, Any]  # as JSON
    tensors: dict[str, Any]  # confusion matrix, counts of images, overlays
    worst_condition: str  # empty if there is none


class Objective(Protocol):
    """A network at step 0 with all that trains it. Made on every rank; all ranks make the same calls.

    The constructor raises ConfigError, DataError, CheckpointError or StorageError for what the configuration asks for
    and is not there.
    """

    manifest: Manifest  # of data.uri, with the digest of all data sets that are trained on
    precision: str  # as `evaluation.resolve_precision` gives it; the same on all ranks
    optimizer: torch.optim.Optimizer  # its learning rate is set by the loop
    update: Update  # what ends each step, and what it changes

    def __init__(self, config: RunConfig, world: World) -> None: ...

    @classmethod
    def check(cls, config: RunConfig) -> Manifest:
        """Raises what the constructor would raise, without making anything large; returns the data's manifest."""
        ...

    def open_readers(self, step: int) -> AbstractContextManager[TrainReader]:
        """This rank's micro-batches from an optimiser step on."""
        ...

    def train_step(self, micro_batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """Does step number `step`, counted from 0: forward, loss, backward, update.

        Returns this rank's parts of the global losses by the names under which they are logged, the main loss first:
        scalars that add up over the ranks.
        """
        ...

    def evaluate(self, step: int) -> EvaluationResult | None:
        """Scores the network on held-out images; None if this kind of network has nothing to be scored by."""
        ...

    def checkpoint_content(self) -> dict[str, Any]:
        """Fields of Checkpoint that only this objective knows: `model` and what belongs to it, on the CPU."""
        ...

    def restore(self, saved: Checkpoint) -> None:
        """Puts network and optimiser where `saved` was taken. Raises CheckpointError if it does not fit."""
        ...
