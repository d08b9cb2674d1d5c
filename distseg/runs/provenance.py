"""Where a run's numbers come from: the data it reads, and the machine and packages it computes with.

environment.json in a run's directory (config/environment.json in MLflow) is of rank 0, written anew by each resume.
Environment variables are never stored, since they can hold secrets.
"""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from distseg import evaluation, strict_json
from distseg.config import RunConfig
from distseg.data import num_cores
from distseg.data.shards import Manifest, Shard, load_manifest
from distseg.errors import DataError
from distseg.strict_json import Count
from distseg.tracking import DataInput
from distseg.training import checkpoint

ENVIRONMENT_FILE = "environment.json"


def data_inputs(config: RunConfig) -> list[DataInput]:
    """The data that the run trains on, takes styles from and is evaluated on. `config` must have been checked."""
    data = config.data
    first, *others = map(load_manifest, (data.uri, *data.mix))
    inputs = []
    for manifest in (first, *others):
        # In a mixture, a data set may lack some of the conditions.
        own = [name for name in data.train_conditions if name in manifest.conditions(data.train_split)]
        inputs.append(_input(manifest, manifest.select(data.train_split, own), "train"))
    if config.style.conditions:
        inputs.append(_input(first, first.select(data.train_split, config.style.conditions), "style"))
    if not config.model.is_style_network:
        shards = evaluation.evaluation_shards(first, data.val_split, data.val_conditions)
        inputs.append(_input(first, shards, "eval"))
    return inputs


def _input(manifest: Manifest, shards: Sequence[Shard], context: str) -> DataInput:
    """One input. Its name holds the chosen part, since for MLflow two inputs with one name and digest are the same."""
    chosen: dict[str, list[str]] = {}
    for shard in shards:
        conditions = chosen.setdefault(shard.split, [])
        if shard.condition not in conditions:
            conditions.append(shard.condition)
    parts = []
    for split, conditions in chosen.items():
        is_whole = len(conditions) == len(manifest.conditions(split))
        parts.append(split if is_whole else f"{split}: {' '.join(conditions)}")
    suffix = " (unlabelled)" if context == "style" else ""
    return DataInput(
        name=f"{manifest.dataset} {' + '.join(parts)}{suffix}",
        digest=manifest.digest,
        uri=manifest.uri,
        context=context,
        shards_digest=hashlib.sha256(" ".join(sorted(shard.sha256 for shard in shards)).encode()).hexdigest(),
        num_images=sum(shard.num_samples for shard in shards),
        conditions=chosen,
    )


def environment(job_id: str = "") -> dict[str, Any]:
    """Python, packages, processor and GPUs of this process, as JSON."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    installed = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": num_cores()},
        "torch": {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus},
        "git_commit": checkpoint.code_version(),
        "ray_job_id": job_id,
        "packages": dict(sorted(installed.items(), key=lambda item: item[0].lower())),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    as_tracking_error = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(as_tracking_error, platform.processor() or platform.machine())


def opening_tags(manifest: Manifest, job_id: str) -> dict[str, str]:
    """Tags of a run that begins. `job_id`: Ray's, empty without Ray."""
    return {"data.digest": manifest.digest, "git.commit": checkpoint.code_version(), "ray.job_id": job_id}


def environment_tags(data: bytes) -> dict[str, str]:
    """Three tags that tell machines apart in MLflow's table. Raises DataError if environment.json is damaged."""
    found: _Environment = strict_json.read(_Environment, data, ENVIRONMENT_FILE, DataError, "it is not shown")
    gpus = found.torch.gpus
    device = f"{len(gpus)} x {gpus[0]}" if gpus else f"{found.cpu.cores} cores of {found.cpu.model}"
    return {"env.python": found.python, "env.torch": found.torch.version, "env.device": device}


@dataclass(frozen=True, kw_only=True)
class _Cpu:
    model: str
    cores: Count


@dataclass(frozen=True, kw_only=True)
class _Torch:
    version: str
    gpus: tuple[str, ...]
    cuda: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Environment:
    """environment.json, as `environment` makes it."""

    python: str
    cpu: _Cpu
    torch: _Torch
    platform: str = ""
    git_commit: str = ""
    ray_job_id: str = ""
    packages: dict[str, str] = field(default_factory=dict)
