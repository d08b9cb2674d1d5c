"""A checkpoint is everything a run needs to go on, in one directory of two files.

    checkpoint.pt      torch.save of plain containers and tensors (loads with weights_only=True)
    checkpoint.json    step, metrics and the SHA-256 of checkpoint.pt; written last, so its presence means complete

A run's directory (`run_uri`) holds `checkpoint_<step>_<token>` directories beside `config.json` and `run.json`.
A damaged checkpoint is refused by name; `newest` and `best` pass over it and take the next, saying so.
"""

import hashlib
import io
import json
import logging
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import distseg
from distseg import storage
from distseg.config import (
    CheckpointConfig,
    DataConfig,
    RunConfig,
    StyleConfig,
    TrackingConfig,
    dotted_fields,
    from_dict,
    to_dict,
)
from distseg.data import LabelSpace
from distseg.data.shards import Manifest
from distseg.errors import CheckpointError, ConfigError, DataError, StorageError, first_line
from distseg.metric_names import MIOU

log = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS_FILE = "checkpoint.pt"
META_FILE = "checkpoint.json"
DAMAGED_FILE = "checkpoint.damaged.json"  # what META_FILE is then called
NUM_BEST_KEPT = 2  # beside the newest: if one is damaged there is another


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    step: int  # optimiser steps done
    config: RunConfig
    label_space: LabelSpace
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    averaged: dict[str, Tensor] = field(default_factory=dict)  # the moving average of the weights, if one is kept
    source_style: dict[str, Tensor] = field(default_factory=dict)  # of style.direction to_source: mean and std
    next_micro_batch: int  # position in the sample stream
    manifest_digest: str
    run_id: str = ""  # MLflow's
    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)  # the evaluation as JSON, if one was made at this step
    evaluation: dict[str, Any] = field(
        default_factory=dict
    )  # the same in tensors: confusion matrix, counts of images, overlays
    records: list[dict[str, Any]] = field(default_factory=list)  # metrics the tracking server has not confirmed
    code_version: str = ""
    rng: dict[str, int] = field(default_factory=dict)  # generators are seeded from (seed, step, rank): see fit

    @property
    def evaluated(self) -> dict[str, Tensor]:
        """The weights that its metrics are of."""
        return self.averaged or self.model


@dataclass(frozen=True, kw_only=True)
class Found:
    """A complete checkpoint seen in storage, by its META_FILE."""

    uri: str
    step: int
    metrics: dict[str, float]


def new_name(step: int) -> str:
    """A directory name never used before: a step that is done again after a crash does not overwrite."""
    return f"checkpoint_{step:08d}_{secrets.token_hex(3)}"


def write(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes both files, the weights first. The directory must exist."""
    data = _encode(checkpoint)
    meta = {
        "format": FORMAT,
        "step": checkpoint.step,
        "metrics": checkpoint.metrics,
        "sha256": hashlib.sha256(data).hexdigest(),
        "num_bytes": len(data),
    }
    storage.write_bytes(str(directory / WEIGHTS_FILE), data)
    storage.write_bytes(str(directory / META_FILE), json.dumps(meta, indent=1).encode())


def save(run_uri: str, checkpoint: Checkpoint) -> None:
    """Writes it into a run's directory."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), checkpoint)
        upload(Path(folder), storage.join(run_uri, new_name(checkpoint.step)))


def upload(folder: Path, uri: str) -> None:
    """The META_FILE comes last: a checkpoint without one does not count."""
    for name in (WEIGHTS_FILE, META_FILE):
        storage.upload(folder / name, storage.join(uri, name))


def as_one_file(checkpoint: Checkpoint) -> bytes:
    """To be handed on: the weights that its metrics are of, with label space, configuration, metrics and tables.

    Left out is what only the run itself needs: optimiser, position, records, pictures, the places on its machine.
    """
    config = checkpoint.config
    if checkpoint.source_style:
        raise CheckpointError("style.direction = to_source evaluates with a second network; keep the whole checkpoint")
    config = replace(config, checkpoint=CheckpointConfig(), tracking=TrackingConfig(), style=StyleConfig())
    config = replace(config, data=replace(config.data, uri=DataConfig().uri))
    only_the_run_needs: dict[str, Any] = {"averaged": {}, "optimizer": {}, "records": [], "run_id": "", "rng": {}}
    only_the_run_needs["evaluation"] = {k: v for k, v in checkpoint.evaluation.items() if k != "overlays"}
    return _encode(replace(checkpoint, config=config, model=checkpoint.evaluated, **only_the_run_needs))


def _encode(checkpoint: Checkpoint) -> bytes:
    content = {
        "format": FORMAT,
        "step": checkpoint.step,
        "config": to_dict(checkpoint.config),
        "label_space": {
            "name": checkpoint.label_space.name,
            "classes": list(checkpoint.label_space.classes),
            "palette": [list(colour) for colour in checkpoint.label_space.palette],
        },
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "averaged": checkpoint.averaged,
        "source_style": checkpoint.source_style,
        "next_micro_batch": checkpoint.next_micro_batch,
        "manifest_digest": checkpoint.manifest_digest,
        "run_id": checkpoint.run_id,
        "metrics": checkpoint.metrics,
        "tables": checkpoint.tables,
        "evaluation": checkpoint.evaluation,
        "records": checkpoint.records,
        "code_version": checkpoint.code_version,
        "rng": checkpoint.rng,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def read(uri: str) -> Checkpoint:
    """Loads the checkpoint directory at `uri`. Raises CheckpointError naming it if it is absent, damaged or too new."""
    return _decode(_read_weights(uri), uri)


def _read_weights(uri: str) -> bytes:
    """Raises CheckpointError if they are not what was saved."""
    meta = _read_meta(uri)
    data = _read_part(uri, WEIGHTS_FILE)
    if hashlib.sha256(data).hexdigest() != meta["sha256"]:
        raise CheckpointError(f"{uri}: {WEIGHTS_FILE} is damaged (its SHA-256 differs from {META_FILE}); use another")
    return data


def _read_part(uri: str, name: str) -> bytes:
    """Raises CheckpointError for one that is not there: half written by a killed process, or deleted meanwhile."""
    part = storage.join(uri, name)
    try:
        return storage.read_bytes(part)
    except StorageError:
        if storage.exists(part):
            raise
        raise CheckpointError(f"{uri}: has no {name}; use another checkpoint") from None


def _read_meta(uri: str) -> dict[str, Any]:
    try:
        meta = json.loads(_read_part(uri, META_FILE))
        if meta["format"] != FORMAT:
            raise CheckpointError(
                f"{uri}: format {meta['format']}, this distseg reads {FORMAT}; use a matching version"
            )
        return {"step": int(meta["step"]), "metrics": dict(meta["metrics"]), "sha256": str(meta["sha256"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{uri}: {META_FILE} is damaged ({error!r}); use another checkpoint") from None


def _decode(data: bytes, uri: str) -> Checkpoint:
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 — whatever torch makes of bytes that are no checkpoint, such as a text's
        raise CheckpointError(f"{uri}: cannot be loaded as a checkpoint ({first_line(error)})") from None
    try:
        if content.pop("format") != FORMAT:
            raise CheckpointError(f"{uri}: written by another version of distseg; use a matching one")
        space = content.pop("label_space")
        return Checkpoint(
            config=from_dict(content.pop("config")),
            label_space=LabelSpace(
                name=space["name"],
                classes=tuple(space["classes"]),
                palette=tuple((r, g, b) for r, g, b in space["palette"]),
            ),
            **content,
        )
    except (ConfigError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{uri}: not a distseg checkpoint ({error})") from None


def found_in(run_uri: str) -> list[Found]:
    """The complete checkpoints of a run, newest first. Those whose META_FILE is damaged are logged and left out."""
    found = []
    for uri in _written_in(run_uri):
        try:
            meta = _read_meta(uri)
        except CheckpointError as error:
            log.warning("passed over: %s", error)
            continue
        found.append(Found(uri=uri, step=meta["step"], metrics=meta["metrics"]))
    return sorted(found, key=lambda f: (f.step, f.uri), reverse=True)


def _written_in(run_uri: str) -> list[str]:
    """The directories that have a META_FILE, whatever is in it."""
    uris = (entry.uri for entry in storage.list_files(run_uri))
    return [uri.removesuffix(f"/{META_FILE}") for uri in uris if uri.endswith(f"/{META_FILE}")]


def readable(candidates: list[Found]) -> Iterator[tuple[str, Checkpoint]]:
    """Loads one after the other; a damaged one is logged by name and passed over."""
    for candidate in candidates:
        try:
            yield candidate.uri, read(candidate.uri)
        except CheckpointError as error:
            log.warning("passed over: %s", error)


def newest(run_uri: str) -> tuple[str, Checkpoint] | None:
    """(uri, checkpoint) of the newest undamaged one, or None if there is none yet.

    Raises CheckpointError if there are some, all damaged: to begin again at step 0 is the user's decision.
    """
    chosen = next(readable(found_in(run_uri)), None)
    if chosen is None and (damaged := _written_in(run_uri)):
        raise CheckpointError(f"{run_uri}: none of its {len(damaged)} checkpoints can be read; start a new run")
    return chosen


def best(run_uri: str, metric: str = MIOU) -> tuple[str, Checkpoint] | None:
    """(uri, checkpoint) of the best by a metric, else the newest."""
    found = found_in(run_uri)
    ranked = sorted(found, key=lambda f: f.metrics.get(metric, float("-inf")), reverse=True)
    return next(readable(ranked), None)


def prune(run_uri: str, metric: str = MIOU) -> None:
    """Deletes all but the newest and the best by a metric (Ray Train does the same for its own runs)."""
    found = found_in(run_uri)
    ranked = sorted(found, key=lambda f: f.metrics.get(metric, float("-inf")), reverse=True)
    for stale in ranked[NUM_BEST_KEPT:]:
        if stale != found[0]:
            storage.delete_tree(stale.uri)


def set_damaged_aside(run_uri: str, after_step: int) -> None:
    """What a resumed run passed over to go on from `after_step` counts no longer, lest it take the place of a good one.

    Its META_FILE is renamed to DAMAGED_FILE; nothing is deleted.
    """
    for found in found_in(run_uri):
        if found.step <= after_step:
            break
        try:
            _read_weights(found.uri)
        except CheckpointError:
            meta_uri = storage.join(found.uri, META_FILE)
            storage.write_bytes(storage.join(found.uri, DAMAGED_FILE), storage.read_bytes(meta_uri))
            storage.delete(meta_uri)


def resolve(uri: str) -> tuple[str, Checkpoint]:
    """What a user names: a checkpoint's directory, a run's (its best by val/mIoU), or a file of `as_one_file`."""
    uri = uri.rstrip("/")
    if storage.exists(uri):
        return uri, _decode(storage.read_bytes(uri), uri)
    if storage.exists(storage.join(uri, META_FILE)):
        return uri, read(uri)
    chosen = best(uri)
    if chosen is None:
        raise CheckpointError(f"{uri}: no {META_FILE} and no run's checkpoints under it; give a checkpoint or run URI")
    return chosen


def check_resumable(config: RunConfig, manifest: Manifest, saved: Checkpoint) -> None:
    """Raises ConfigError or DataError if going on from `saved` would not be the same run."""
    check_same_run(config, saved)
    if saved.manifest_digest != manifest.digest:
        uris = " or ".join((manifest.uri, *config.data.mix))
        raise DataError(
            f"{uris}: the manifest changed since the checkpoint of step {saved.step} was made (digest "
            f"{saved.manifest_digest[:12]}, now {manifest.digest[:12]}); bring the old data back or start anew"
        )


# What a resumed run may change: how it is run, not what it computes; where its data lie, which have a digest.
_FREE = ("name", "scaling", "checkpoint", "evaluate", "tracking", "precision", "compile")
_FREE_DATA = (
    *("uri", "mix", "num_threads", "prefetch_batches", "deadline_s", "on_bad_sample", "max_bad_samples"),
    *("cache_bytes", "cache_dir"),
)


def check_same_run(config: RunConfig, saved: Checkpoint) -> None:
    """Raises ConfigError for the first field that a resumed run may not change."""
    before, now = saved.config, config
    before = replace(before, **{f: getattr(now, f) for f in _FREE})
    before = replace(before, data=replace(before.data, **{f: getattr(now.data, f) for f in _FREE_DATA}))
    before = replace(before, optim=replace(before.optim, max_steps=now.optim.max_steps))
    if before == now:
        return
    old, new = dotted_fields(before), dotted_fields(now)
    field_name = next(f for f in new if old.get(f) != new[f])
    raise ConfigError(
        f"{field_name} = {new[field_name]!r}: the run being resumed has {old.get(field_name)!r}; "
        "start a new run to change it"
    )


def is_there(uri: str) -> bool:
    """Whether `uri` is a checkpoint's directory or a run's."""
    return any(storage.exists(storage.join(uri, name)) for name in (META_FILE, "run.json"))


def code_version() -> str:
    """DISTSEG_CODE_VERSION (set by `cluster.submit`, as jobs have no .git), else `git describe`, else the version."""
    if version := os.environ.get("DISTSEG_CODE_VERSION"):
        return version
    source = Path(distseg.__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return described.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return distseg.__version__
