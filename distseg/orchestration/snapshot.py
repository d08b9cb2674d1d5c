"""Ray Train's own note of a run's checkpoints: a JSON file beside them, which it reads when the run goes on.

distseg keeps and chooses checkpoints itself. It only has to remove a note that would mislead Ray Train.
"""

import json

import ray

from distseg import storage
from distseg.orchestration import compat
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
        noted = json.loads(storage.read_bytes(uri))
        results = [*noted["checkpoint_results"], *noted["pending_training_results"]]
        files = [storage.join(run_uri, result["checkpoint_dir_name"], checkpoint.META_FILE) for result in results]
        is_sound = noted["ray_version"] == ray.__version__ and all(map(storage.exists, files))
    except (ValueError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        storage.delete(uri)


def _uri(run_uri: str) -> str:
    return storage.join(run_uri, compat.checkpoint_snapshot_name())
