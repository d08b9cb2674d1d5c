"""Runs `train_run` as N real ranks (processes, gloo on loopback) and gives back what rank 0 reported."""

import contextlib
import json
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from distseg.config import RunConfig, from_dict, to_dict
from distseg.evaluation import World
from distseg.training import checkpoint, train_run
from distseg.training.checkpoint import Checkpoint


class StoppedError(Exception):
    """The report asked the training to end here, as a lost machine would."""


@dataclass
class Recorder:
    """A Reporter that remembers, and that writes checkpoints into `folder` if one is given."""

    folder: Path | None = None
    stop_at: int | None = None
    logged: dict[int, dict[str, float]] = field(default_factory=dict)
    drawn: dict[int, dict[str, bytes]] = field(default_factory=dict)

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        self.logged.setdefault(step, {}).update(metrics)

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None:
        self.drawn[step] = pictures

    def pending_records(self) -> list[dict[str, Any]]:
        return []

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        if saved is not None and self.folder is not None:
            target = self.folder / checkpoint.new_name(step)
            target.mkdir(parents=True)
            checkpoint.write(target, saved)
        if step == self.stop_at:
            raise StoppedError(f"stopped at step {step}")

    def losses(self) -> list[float]:
        return [metrics["train/loss"] for _, metrics in sorted(self.logged.items()) if "train/loss" in metrics]


def train(
    config: RunConfig, num_ranks: int, *, folder: Path | None = None, stop_at: int | None = None
) -> dict[int, dict[str, float]]:
    """{step: metrics} of a training by `num_ranks` processes; goes on from the newest checkpoint in `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        options = {
            "config": to_dict(config),
            "folder": str(folder) if folder else None,
            "stop_at": stop_at,
            "result": str(result),
            "port": free_port(),
        }
        start_ranks(_rank, (num_ranks, options), num_ranks)
        return {int(step): metrics for step, metrics in json.loads(result.read_text()).items()}


def start_ranks(function: Callable[..., None], arguments: tuple[Any, ...], num_ranks: int) -> None:
    """`function(rank, *arguments)` in as many processes, forked from one that has imported torch, no more."""
    multiprocessing.set_forkserver_preload(["tests.ranks", "torch._dynamo"])  # the latter by every optimiser
    start_processes(function, arguments, nprocs=num_ranks, start_method="forkserver")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(rank: int, num_ranks: int, options: Mapping[str, Any]) -> None:
    torch.set_num_threads(1)
    if num_ranks > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options["port"]))
        dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    folder = Path(options["folder"]) if options["folder"] else None
    found = checkpoint.newest(str(folder)) if folder and folder.exists() else None
    recorder = Recorder(folder, options["stop_at"])
    with contextlib.suppress(StoppedError):
        train_run(
            from_dict(options["config"]),
            World(rank, num_ranks),
            recorder,
            resume=found[1] if found else None,
            run_id="",
        )
    if rank == 0:
        Path(options["result"]).write_text(json.dumps(recorder.logged))
    if num_ranks > 1:
        dist.destroy_process_group()
