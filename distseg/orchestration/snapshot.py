"""Ray Train's own note of a run's checkpoints: a JSON file beside them, which it reads when the run goes on.

distseg keeps and chooses checkpoints itself. It only has to remove a note that would mislead Ray Train.
"""

from typing import Any

import ray

from distseg import storage, strict_json
from distseg.errors import ConfigError, DataError
from distseg.orchestration import compat
from distseg.strict_json import Name
from distseg.training import checkpoint


def forget_checkpoints(run_uri: str) -> None:
    """Removes the note of a stopped run whose checkpoints are about to be replaced: Ray Train would look for the old
    ones."""
    storage.delete(_uri(run_uri))


def forget_if_broken(run_uri: str) -> None:
    """Removes the note if it names a checkpoint that is gone, or was written by another version of Ray."""
    uri = _uri(run_uri)
    if not storage.exists(uri):
        return
    try:
        noted: dict[str, Any] = storage.read_json(dict[str, Any], uri, DataError, "it is removed")
        results = [*noted["checkpoint_results"], *noted["pending_training_results"]]
        names = [strict_json.build(Name, result["checkpoint_dir_name"], "checkpoint_dir_name") for result in results]
        files = [storage.join(run_uri, name, checkpoint.META_FILE) for name in names]
        is_sound = noted["ray_version"] == ray.__version__ and all(map(storage.exists, files))
    except (DataError, ConfigError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        storage.delete(uri)


def _uri(run_uri: str) -> str:
    return storage.join(run_uri, compat.checkpoint_snapshot_name())
