"""A checkpoint is everything a run needs to go on, in one directory of two files.

    checkpoint.pt      torch.save of plain containers and tensors (loads with weights_only=True)
    checkpoint.json    step, metrics, configuration, digest of the data, and the SHA-256 of checkpoint.pt; written last,
                       so its presence means complete

A run's directory (`run_uri`) holds `checkpoint_<step>_<token>` directories beside `config.json` and `run.json`.
A damaged checkpoint is refused by name, and so is one whose weights are not finite; `newest` and `best` pass over it
and take the next, saying so.

    Checkpoint                                     what it holds: a field is added there and nowhere else
    to_bytes, from_bytes                           Checkpoint <-> bytes
    as_one_file, as_safetensors                    the one file that is given to others; `from_bytes` reads both
    mean_of                                        the mean of the weights of several
    load_tensors                                   any file of torch.save, if it is tensors and plain values
    write, save, upload                            Checkpoint -> directory
    read, newest, best, resolve, readable          directory -> Checkpoint
    found_in, resume_point                         what can be known without loading the weights
    to_cpu, restore_states, first_not_finite       states of networks and optimisers: into it, back, and what is unsound
    prune, quarantine                              what is removed, and what no longer counts
    check_resumable, check_same_run                whether a run may go on from it

Raises CheckpointError for what is damaged, absent or of another format, StorageError if the storage fails; the checks
raise ConfigError and DataError.
"""

from distseg.training.checkpoint.averaging import mean_of
from distseg.training.checkpoint.compatibility import check_resumable, check_same_run
from distseg.training.checkpoint.content import (
    Checkpoint,
    as_one_file,
    as_safetensors,
    from_bytes,
    load_tensors,
    to_bytes,
)
from distseg.training.checkpoint.soundness import first_not_finite
from distseg.training.checkpoint.states import restore_states, to_cpu
from distseg.training.checkpoint.store import (
    DAMAGED_FILE,
    META_FILE,
    NUM_BEST_KEPT,
    WEIGHTS_FILE,
    CheckpointInfo,
    ResumePoint,
    best,
    found_in,
    is_there,
    new_name,
    newest,
    prune,
    quarantine,
    read,
    readable,
    resolve,
    resume_point,
    save,
    upload,
    write,
)
from distseg.training.checkpoint.version import code_version

__all__ = [
    "DAMAGED_FILE",
    "META_FILE",
    "NUM_BEST_KEPT",
    "WEIGHTS_FILE",
    "Checkpoint",
    "CheckpointInfo",
    "ResumePoint",
    "as_one_file",
    "as_safetensors",
    "best",
    "check_resumable",
    "check_same_run",
    "code_version",
    "first_not_finite",
    "found_in",
    "from_bytes",
    "is_there",
    "load_tensors",
    "mean_of",
    "new_name",
    "newest",
    "prune",
    "quarantine",
    "read",
    "readable",
    "resolve",
    "restore_states",
    "resume_point",
    "save",
    "to_bytes",
    "to_cpu",
    "upload",
    "write",
]
