"""What one machine has: versions, disk, shared memory, GPUs. It is sent between processes as JSON."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import distseg

PACKAGES = ("ray", "torch")
SHM = Path("/dev/shm")  # noqa: S108 — looked at, not written to


@dataclass(frozen=True)
class Facts:
    """`where` names the machine. Sizes are bytes."""

    where: str
    versions: dict[str, str]  # python, ray, torch, distseg; 'none' where it is not installed
    temp_dir: str
    disk_free: int
    shm_size: int  # 0: there is none
    shm_free: int
    gpus: list[str]  # names, as torch sees them
    cuda: str  # the CUDA that torch was built for; empty: a build for CPUs
    ray_gpus: int = 0  # how many Ray counts
    ray_cpus: int = 0
    ray_store: int = 0  # the shared memory that Ray wants
    clock_s: float = 0.0  # how far this clock is ahead of the head's


def facts(where: str, *, ray_gpus: int = 0, ray_cpus: int = 0, ray_store: int = 0) -> Facts:
    """Of this machine."""
    shm = shutil.disk_usage(SHM) if SHM.is_dir() else None
    gpus, cuda = _gpus()
    return Facts(
        where=where,
        versions=versions(),
        temp_dir=tempfile.gettempdir(),
        disk_free=shutil.disk_usage(tempfile.gettempdir()).free,
        shm_size=shm.total if shm else 0,
        shm_free=shm.free if shm else 0,
        gpus=gpus,
        cuda=cuda,
        ray_gpus=ray_gpus,
        ray_cpus=ray_cpus,
        ray_store=ray_store,
    )


def versions() -> dict[str, str]:
    """Of distseg also a digest of its code: a job brings its own, and an installed one may be older."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "none"
    return installed | {"distseg": f"{distseg.__version__} ({code_digest(Path(distseg.__file__).parent)})"}


def code_digest(package: Path) -> str:
    """Eight hex digits that differ where any file of Python in the package does."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def _gpus() -> tuple[list[str], str]:
    """Names of the GPUs, and the CUDA that torch was built for."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        del os.environ["CUDA_VISIBLE_DEVICES"]  # Ray hides the GPUs from what has not asked for one
    try:
        import torch
    except ImportError:
        return [], ""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return names, str(torch.version.cuda or "")
