"""States of networks and optimisers, into a checkpoint and back."""

from typing import Any

import torch
from torch import Tensor, nn

from distseg.errors import CheckpointError, first_line
from distseg.training.checkpoint.content import Checkpoint


def to_cpu(value: Any) -> Any:
    """A copy of a state dict on the CPU, which training does not change any more."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_cpu(item) for item in value]
    return value


def restore_states(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Checkpoint) -> None:
    """Loads the weights and the optimiser's state in place. Raises CheckpointError if they are of another model."""
    try:
        # Learning rate, weight decay and `fused` are those of this configuration and device, not of the checkpoint:
        # population based training changes the first two when a trial takes over another one's checkpoint.
        pairs = zip(saved.optimizer["param_groups"], optimizer.param_groups, strict=True)
        groups = [theirs | ours | {"params": theirs["params"]} for theirs, ours in pairs]
        model.load_state_dict(saved.model)
        optimizer.load_state_dict({**saved.optimizer, "param_groups": groups})
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint of step {saved.step} does not fit this model: {first_line(error)}"
        ) from None
