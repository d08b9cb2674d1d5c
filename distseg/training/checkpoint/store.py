"""Checkpoints in a run's directory, local or S3: written atomically, found, chosen, pruned, and refused if damaged."""

import contextlib
import functools
import hashlib
import json
import logging
import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distseg import metric_names, storage
from distseg.config import RunConfig, from_dict, to_dict
from distseg.errors import CheckpointError, ConfigError, StorageError
from distseg.strict_json import Count, Line, Sha256
from distseg.strict_json import read as read_json
from distseg.training.checkpoint.content import FORMAT, Checkpoint, from_bytes, not_finite, to_bytes

log = logging.getLogger(__name__)

WEIGHTS_FILE = "checkpoint.pt"
META_FILE = "checkpoint.json"
DAMAGED_FILE = "checkpoint.damaged.json"  # the name of META_FILE once the checkpoint is in quarantine
NUM_BEST_KEPT = 2  # beside the newest: if one is damaged there is another
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """A complete checkpoint in storage, as far as its META_FILE tells."""

    uri: str
    step: int
    metrics: dict[str, float]
    sha256: str  # of WEIGHTS_FILE
    config: dict[str, Any] | None  # as JSON, and the digest of the data; None in those written by early versions
    manifest_digest: str | None
    not_finite: str | None  # the name of a tensor that is not; "" if all are, None if only the weights tell


class ResumePoint(NamedTuple):
    """What must be known of a checkpoint before a run goes on from it."""

    uri: str
    step: int
    config: RunConfig
    manifest_digest: str


# -------------------------------------------------------------------------------------------------------------- writing


def new_name(step: int) -> str:
    """A directory name never used before: a step that is done again after a crash does not overwrite."""
    return f"checkpoint_{step:08d}_{secrets.token_hex(3)}"


def write(directory: str | Path, checkpoint: Checkpoint) -> None:
    """Writes both files into a directory, a path or URI, the weights first."""
    data = to_bytes(checkpoint)
    meta = {
        "format": FORMAT,
        "step": checkpoint.step,
        "metrics": {name: value for name, value in checkpoint.metrics.items() if math.isfinite(value)},
        "sha256": hashlib.sha256(data).hexdigest(),
        "num_bytes": len(data),
        "config": to_dict(checkpoint.config),
        "manifest_digest": checkpoint.manifest_digest,
        "not_finite": checkpoint.first_not_finite or "",
    }
    storage.write_bytes(storage.join(str(directory), WEIGHTS_FILE), data)
    storage.write_bytes(storage.join(str(directory), META_FILE), json.dumps(meta, indent=1).encode())


def save(run_uri: str, checkpoint: Checkpoint) -> None:
    """Writes it into a run's directory."""
    uri = storage.join(run_uri, new_name(checkpoint.step))
    if not storage.is_remote(run_uri):
        write(uri, checkpoint)
        return
    with contextlib.ExitStack() as opened:
        try:
            folder = opened.enter_context(storage.scratch_folder())
            write(folder, checkpoint)
        except StorageError as error:  # no room on this machine need not mean that there is none where it belongs
            log.warning("%s; the checkpoint is sent without a copy here", error)
            write(uri, checkpoint)
        else:
            upload(folder, uri)  # in parts, each retried for itself


def upload(folder: Path, uri: str) -> None:
    """The META_FILE comes last: a checkpoint without one does not count."""
    for name in (WEIGHTS_FILE, META_FILE):
        storage.upload(folder / name, storage.join(uri, name))


# -------------------------------------------------------------------------------------------------------------- reading


def read(uri: str) -> Checkpoint:
    """Loads the checkpoint directory at `uri`. Raises CheckpointError naming it if it is absent, damaged or too new."""
    info = _read_info(uri)
    if info.not_finite:
        raise not_finite(uri, info.not_finite)
    data = _read_part(uri, WEIGHTS_FILE)
    _check_sha256(info, hashlib.sha256(data).hexdigest())
    return from_bytes(data, uri)


def _check_sound(info: CheckpointInfo) -> None:
    """Reads the weights without loading them, a chunk at a time, unless only they tell whether they are finite.

    Raises CheckpointError if they are not as saved, or not finite.
    """
    if info.not_finite is None:
        read(info.uri)
        return
    if info.not_finite:
        raise not_finite(info.uri, info.not_finite)
    weights_uri, digest = storage.join(info.uri, WEIGHTS_FILE), hashlib.sha256()
    if not storage.exists(weights_uri):
        raise _lacks(info.uri, WEIGHTS_FILE)
    with storage.open_read(weights_uri) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    _check_sha256(info, digest.hexdigest())


def _check_sha256(info: CheckpointInfo, found: str) -> None:
    if found != info.sha256:
        raise CheckpointError(
            f"{info.uri}: {WEIGHTS_FILE} is damaged (its SHA-256 differs from {META_FILE}); use another"
        )


def _read_part(uri: str, name: str) -> bytes:
    """Raises CheckpointError if it is missing: half written by a killed process, or deleted meanwhile."""
    part = storage.join(uri, name)
    try:
        return storage.read_bytes(part)
    except StorageError:
        if storage.exists(part):
            raise
        raise _lacks(uri, name) from None


def _lacks(uri: str, name: str) -> CheckpointError:
    return CheckpointError(f"{uri}: has no {name}; use another checkpoint")


@dataclass(frozen=True, kw_only=True)
class _MetaFile:
    """META_FILE. Early versions wrote no config and no manifest_digest."""

    format: int
    step: Count
    metrics: dict[Line, float]
    sha256: Sha256
    num_bytes: Count = 0
    config: dict[str, Any] | None = None
    manifest_digest: str | None = None
    not_finite: str | None = None


def _read_info(uri: str) -> CheckpointInfo:
    data = _read_part(uri, META_FILE)
    meta: _MetaFile = read_json(_MetaFile, data, f"{uri}: {META_FILE}", CheckpointError, "use another checkpoint")
    if meta.format != FORMAT:
        raise CheckpointError(f"{uri}: format {meta.format}, this distseg reads {FORMAT}; use a matching version")
    return CheckpointInfo(
        uri=uri,
        step=meta.step,
        metrics=meta.metrics,
        sha256=meta.sha256,
        config=meta.config,
        manifest_digest=meta.manifest_digest,
        not_finite=meta.not_finite,
    )


# ------------------------------------------------------------------------------------------------------------- choosing


def found_in(run_uri: str) -> list[CheckpointInfo]:
    """The complete checkpoints of a run, newest first. Those whose META_FILE is damaged are logged and left out."""
    found = []
    for uri in _complete_in(run_uri):
        try:
            found.append(_read_info(uri))
        except CheckpointError as error:
            _log_passed_over(str(error))
    return sorted(found, key=lambda info: (info.step, info.uri), reverse=True)


def _complete_in(run_uri: str) -> list[str]:
    """The directories that have a META_FILE, whatever its content."""
    uris = (entry.uri for entry in storage.list_files(run_uri))
    return [uri.removesuffix(f"/{META_FILE}") for uri in uris if uri.endswith(f"/{META_FILE}")]


def readable(candidates: list[CheckpointInfo]) -> Iterator[tuple[str, Checkpoint]]:
    """Loads one after the other; a damaged one is logged by name and passed over."""
    for candidate in candidates:
        try:
            yield candidate.uri, read(candidate.uri)
        except CheckpointError as error:
            _log_passed_over(str(error))


@functools.cache  # a program chooses more than once: what it starts from, what it prunes, what is best
def _log_passed_over(problem: str) -> None:
    log.warning("passed over: %s", problem)


def newest(run_uri: str) -> tuple[str, Checkpoint] | None:
    """(uri, checkpoint) of the newest undamaged one, or None if there is none yet.

    Raises CheckpointError if there are some, all damaged: to begin again at step 0 is the user's decision.
    """
    chosen = next(readable(found_in(run_uri)), None)
    if chosen is None:
        _check_none_written(run_uri)
    return chosen


def resume_point(run_uri: str) -> ResumePoint | None:
    """Of the checkpoint that `newest` would load, without loading it; raises as `newest` does."""
    for info in found_in(run_uri):
        try:
            return _as_resume_point(info)
        except CheckpointError as error:
            _log_passed_over(str(error))
    _check_none_written(run_uri)
    return None


def _as_resume_point(info: CheckpointInfo) -> ResumePoint:
    """Raises CheckpointError if the checkpoint is damaged or not finite."""
    if info.config is None or info.manifest_digest is None:  # its META_FILE lacks them: only the whole one tells
        saved = read(info.uri)
        return ResumePoint(info.uri, saved.step, saved.config, saved.manifest_digest)
    _check_sound(info)
    try:
        return ResumePoint(info.uri, info.step, from_dict(info.config), info.manifest_digest)
    except ConfigError as error:
        raise CheckpointError(f"{info.uri}: not a distseg checkpoint ({error})") from None


def _check_none_written(run_uri: str) -> None:
    if damaged := _complete_in(run_uri):
        raise CheckpointError(f"{run_uri}: none of its {len(damaged)} checkpoints can be read; start a new run")


def best(run_uri: str) -> tuple[str, Checkpoint] | None:
    """(uri, checkpoint) of the best by the run's checkpoint.best_by, else the newest."""
    return next(readable(_ranked(found_in(run_uri))), None)


def _ranked(found: list[CheckpointInfo]) -> list[CheckpointInfo]:
    """Best first, by what the newest one's configuration says; those without that metric last, newest first."""
    group = ((found[0].config if found else None) or {}).get("checkpoint")
    metric = str(group.get("best_by", metric_names.MIOU)) if isinstance(group, dict) else metric_names.MIOU
    return sorted(found, key=lambda info: info.metrics.get(metric, float("-inf")), reverse=True)


def resolve(uri: str) -> tuple[str, Checkpoint]:
    """What a user names: a checkpoint's directory, a run's (its best), or a file of `as_one_file`."""
    uri = uri.rstrip("/")
    if not uri:
        raise CheckpointError("'' names no checkpoint; give a checkpoint or run URI")
    if storage.exists(uri):
        return uri, from_bytes(storage.read_bytes(uri), uri)
    if storage.exists(storage.join(uri, META_FILE)):
        return uri, read(uri)
    runs = sorted({each.rpartition("/")[0] for each in _complete_in(uri)})
    if len(runs) > 1:
        some = ", ".join(runs[:3]) + (", …" if len(runs) > 3 else "")
        raise CheckpointError(f"{uri}: has the checkpoints of {len(runs)} runs; give one of them: {some}")
    chosen = best(uri)
    if chosen is None:
        raise CheckpointError(f"{uri}: no {META_FILE} and no run's checkpoints under it; give a checkpoint or run URI")
    return chosen


def is_there(uri: str) -> bool:
    """Whether `uri` is a checkpoint's directory or a run's."""
    return any(storage.exists(storage.join(uri, name)) for name in (META_FILE, "run.json"))


# ------------------------------------------------------------------------------------------------------------- removing


def prune(run_uri: str) -> None:
    """Deletes all but the newest and the best NUM_BEST_KEPT (Ray Train does the same for its own runs)."""
    found = found_in(run_uri)
    for stale in _ranked(found)[NUM_BEST_KEPT:]:
        if stale != found[0]:
            storage.delete_tree(stale.uri)


def quarantine(run_uri: str, after_step: int) -> None:
    """Hides damaged checkpoints newer than `after_step`, so that `prune` does not keep them instead of good ones.

    A run that goes on from `after_step` has passed over them. Their META_FILE is renamed to DAMAGED_FILE; nothing is
    deleted.
    """
    for info in found_in(run_uri):
        if info.step <= after_step:
            break
        try:
            _check_sound(info)
        except CheckpointError:
            meta_uri = storage.join(info.uri, META_FILE)
            storage.write_bytes(storage.join(info.uri, DAMAGED_FILE), storage.read_bytes(meta_uri))
            storage.delete(meta_uri)
