"""Whether a run may go on from a checkpoint: it must stay the same run, on the same data."""

from dataclasses import replace

from distseg.config import RunConfig, dotted_fields
from distseg.data.shards import Manifest
from distseg.errors import ConfigError, DataError
from distseg.training.checkpoint.content import Checkpoint
from distseg.training.checkpoint.store import ResumePoint

# What a resumed run may change: how it is run, not what it computes; where its data lie, which have a digest.
_FREE = ("name", "scaling", "checkpoint", "evaluate", "tracking", "precision", "layout", "compile")
# `on_bad_sample` too: who is stopped by a damaged sample may go on without it.
_FREE_DATA = (
    *("uri", "mix", "num_threads", "prefetch_batches", "deadline_s", "on_bad_sample", "max_bad_samples"),
    *("max_megapixels", "cache_bytes", "cache_dir"),
)


def check_resumable(config: RunConfig, manifest: Manifest, saved: Checkpoint | ResumePoint) -> None:
    """Raises ConfigError or DataError if going on from `saved` would not be the same run."""
    check_same_run(config, saved)
    if saved.manifest_digest != manifest.digest:
        uris = " or ".join((manifest.uri, *config.data.mix))
        raise DataError(
            f"{uris}: the manifest changed since the checkpoint of step {saved.step} was made (digest "
            f"{saved.manifest_digest[:12]}, now {manifest.digest[:12]}); bring the old data back or start anew"
        )


def check_same_run(config: RunConfig, saved: Checkpoint | ResumePoint) -> None:
    """Raises ConfigError for the first field that a resumed run may not change, and if it has gone too far already."""
    if config.optim.max_steps < saved.step:
        raise ConfigError(
            f"optim.max_steps = {config.optim.max_steps}: the run being resumed has done {saved.step} steps; give at "
            "least that, or start a new run"
        )
    before, now = saved.config, config
    before = replace(before, **{f: getattr(now, f) for f in _FREE})
    before = replace(before, data=replace(before.data, **{f: getattr(now.data, f) for f in _FREE_DATA}))
    before = replace(before, adapt=replace(before.adapt, uri=now.adapt.uri))
    before = replace(before, model=replace(before.model, checkpointing=now.model.checkpointing))
    before = replace(before, optim=replace(before.optim, max_steps=now.optim.max_steps))
    if before == now:
        return
    old, new = dotted_fields(before), dotted_fields(now)
    field_name = next(f for f in new if old.get(f) != new[f])
    raise ConfigError(
        f"{field_name} = {new[field_name]!r}: the run being resumed has {old.get(field_name)!r}; "
        "start a new run to change it"
    )
