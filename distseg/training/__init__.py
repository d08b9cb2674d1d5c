"""Training: configuration and ranks in, reports and checkpoints out. Free of Ray and MLflow.

    check_run(config)                     everything that can fail before a cluster is asked for anything
    train_run(config, world, reporter)    the loop, for every kind of network; `Reporter` says where results go
    checkpoint                            a package of its own: what a checkpoint holds, and where it is kept
    losses, optim, batchnorm              the numerics (inside)
    load_style_network, RestylingOptions and the functions beside it: restyled copies of a data set
    keep_freed_memory(device)             for a process that segments on CPUs, too

Images are uint8 RGB (B, 3, H, W) from the readers, normalised on the device; labels are train ids, uint8 (B, H, W),
255 is void. Losses and metrics are logged under the names of `distseg.metric_names`; values are fractions.

Raises ConfigError, DataError, StorageError and CheckpointError before the first step for what is asked for and is not
there, TrainingError if the loss, its gradient or the weights become NaN or infinite.

A kind of training is added as a class that is an `Objective` (objective.py) and a line in `objective_of`; a loss as a
file in losses/terms, or outside as `--loss.terms module:name`.
"""

from distseg.training.objective import EvaluationResult, Objective
from distseg.training.process import keep_freed_memory
from distseg.training.restyled_copies import (
    PackedImage,
    RestylingOptions,
    images_to_restyle,
    load_image,
    original_samples,
    restyle_image,
    restyled_samples,
    style_image_for,
)
from distseg.training.restyling import SourceStyle, TowardsSource, load_style_network
from distseg.training.trainer import Reporter, check_run, train_run

__all__ = [
    "EvaluationResult",
    "Objective",
    "PackedImage",
    "Reporter",
    "RestylingOptions",
    "SourceStyle",
    "TowardsSource",
    "check_run",
    "images_to_restyle",
    "keep_freed_memory",
    "load_image",
    "load_style_network",
    "original_samples",
    "restyle_image",
    "restyled_samples",
    "style_image_for",
    "train_run",
]
