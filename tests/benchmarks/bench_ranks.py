"""What a second rank, and what batch norm over both ranks, cost on CPUs: training steps of PSPNet, three in turn.

    python -m tests.benchmarks.bench_ranks [--quick] [--steps 10] [--cases resnet18 resnet50] [--precision auto]

Two gloo ranks on loopback, one thread each. Each of them trains as a rank that is alone, as one of two with plain batch
norm, and as one of two with the synchronised one; all have the same number of images. The three are interleaved step by
step in one run. Prints two JSON lines per case, medians of rank 0:

    ranks        one of two, synchronised, over alone, in CPU seconds of the process, exchanging threads included;
                 the limit 1.05 is an efficiency of 0.95
    batchnorm    one of two, synchronised over plain, in seconds; 1.2 is the limit of the design
"""

import argparse
import os
import socket
import time
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from distseg.config import LossConfig, ModelConfig, OptimConfig, model_config
from distseg.evaluation import World, autocast, resolve_precision
from distseg.models import build_model
from distseg.training.batchnorm import synchronise
from distseg.training.losses import SegmentationLoss
from distseg.training.optim import build_optimizer
from distseg.training.process import layout_of, over_ranks
from tests.benchmarks.cases import Line

WORLD = 2
NUM_CLASSES = 13
LIMIT_OF_A_RANK, LIMIT_OF_BATCH_NORM = 1.05, 1.2

Kind = Literal["alone", "plain", "synchronised"]
KINDS: tuple[Kind, ...] = ("alone", "plain", "synchronised")


@dataclass(frozen=True)
class Case:
    model: ModelConfig
    images_per_rank: int
    size_px: tuple[int, int]


CASES = {
    "resnet18": Case(model_config(backbone="resnet18"), 4, (128, 192)),  # the embedded default
    "resnet50": Case(model_config(backbone="resnet50"), 2, (240, 240)),
}


@dataclass(frozen=True)
class Seconds:
    """Of one step."""

    cpu: float
    wall: float


class Trainer:
    """A network with its optimiser, and one training step on fixed data."""

    def __init__(self, case: Case, kind: Kind, rank: int, precision: str) -> None:
        torch.manual_seed(0)
        model = build_model(case.model, NUM_CLASSES).to(memory_format=layout(case, precision))
        if kind == "synchronised":
            synchronise(model)
        self.world = World() if kind == "alone" else World(rank, WORLD)
        self.optimizer = build_optimizer(model, OptimConfig())
        self.model, self.precision = over_ranks(model, self.world), precision

    def step(self, images_B3HW: Tensor, labels_BHW: Tensor) -> Seconds:
        start = Seconds(time.process_time(), time.perf_counter())
        with autocast(self.precision, images_B3HW.device):
            logits = self.model(images_B3HW)
        loss = SegmentationLoss(LossConfig())(logits, labels_BHW, normaliser=labels_BHW.numel() * self.world.size)
        loss.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Seconds(time.process_time() - start.cpu, time.perf_counter() - start.wall)


def layout(case: Case, precision: str) -> torch.memory_format:
    """As a training chooses it."""
    chosen = layout_of("auto", case.model, precision, torch.device("cpu"))
    return torch.channels_last if chosen == "channels_last" else torch.contiguous_format


def measure(rank: int, port: int, name: str, precision: str, num_steps: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    case, generator = CASES[name], torch.Generator().manual_seed(rank)
    images = torch.randn(case.images_per_rank, 3, *case.size_px, generator=generator)
    images = images.contiguous(memory_format=layout(case, precision))
    labels = torch.randint(NUM_CLASSES, (case.images_per_rank, *case.size_px), generator=generator, dtype=torch.uint8)
    trainers = {kind: Trainer(case, kind, rank, precision) for kind in KINDS}
    took: dict[Kind, list[Seconds]] = {kind: [] for kind in KINDS}
    for step in range(num_steps + 2):
        for kind, trainer in trainers.items():
            dist.barrier()
            seconds = trainer.step(images, labels)
            if step >= 2:  # the first steps allocate and choose kernels
                took[kind].append(seconds)
    dist.destroy_process_group()
    if rank == 0:
        cpu = {kind: [seconds.cpu for seconds in took[kind]] for kind in KINDS}
        wall = {kind: [seconds.wall for seconds in took[kind]] for kind in KINDS}
        title = f"pspnet_{name}_{precision}"
        for line in (
            Line.of_laps(f"ranks/{title}", cpu["synchronised"], cpu["alone"], "CPU s/step", limit=LIMIT_OF_A_RANK),
            Line.of_laps(
                f"batchnorm/{title}", wall["synchronised"], wall["plain"], "s/step", limit=LIMIT_OF_BATCH_NORM
            ),
        ):
            line.print()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="10, with --quick 4")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["resnet18"])
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp64"], default="auto")
    arguments = parser.parse_args()
    precision = resolve_precision(arguments.precision, torch.device("cpu"))
    num_steps = arguments.steps or (4 if arguments.quick else 10)
    for name in arguments.cases:
        spawn(measure, (free_port(), name, precision, num_steps), nprocs=WORLD)


if __name__ == "__main__":
    main()
