"""What a second rank costs on CPUs: a training step of two ranks against the same step of a rank that is alone.

    python tests/benchmarks/bench_ranks.py [--quick] [--steps 10] [--cases resnet18 …] [--precision fp32]

Two gloo ranks on loopback, one thread each. Alone: plain batch norm, no exchange, as many images as a rank of the two
has. Both are interleaved step by step in one run and counted in CPU seconds of the process, exchanging threads
included. Prints one JSON line per case: medians of rank 0. The limit 1.05 is an efficiency of 0.95.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from distseg.config import LossConfig, OptimConfig
from distseg.evaluation import World, autocast
from distseg.models import build_model
from distseg.training.batchnorm import synchronise
from distseg.training.losses import SegmentationLoss
from distseg.training.optim import build_optimizer
from distseg.training.process import over_ranks
from tests.benchmarks.bench_batchnorm import CASES, NUM_CLASSES, WORLD, Case, free_port
from tests.benchmarks.cases import Line

LIMIT = 1.05


class Trainer:
    """A network with its optimiser, and one training step on fixed data."""

    def __init__(self, case: Case, world: World, precision: str) -> None:
        torch.manual_seed(0)
        model = build_model(case.model, NUM_CLASSES).to(memory_format=torch.channels_last)
        if world.size > 1:
            synchronise(model)
        self.optimizer = build_optimizer(model, OptimConfig())
        self.model, self.world, self.precision = over_ranks(model, world), world, precision

    def step(self, images_B3HW: Tensor, labels_BHW: Tensor) -> float:
        """CPU seconds."""
        start_s = time.process_time()
        with autocast(self.precision, images_B3HW.device):
            logits = self.model(images_B3HW)
        loss = SegmentationLoss(LossConfig())(logits, labels_BHW, normaliser=labels_BHW.numel() * self.world.size)
        loss.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - start_s


def measure(rank: int, port: int, name: str, precision: str, num_steps: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    case, generator = CASES[name], torch.Generator().manual_seed(rank)
    images = torch.randn(case.images_per_rank, 3, *case.size_px, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(NUM_CLASSES, (case.images_per_rank, *case.size_px), generator=generator, dtype=torch.uint8)
    worlds = {"peer": World(), "ours": World(rank, WORLD)}
    trainers = {which: Trainer(case, world, precision) for which, world in worlds.items()}
    seconds: dict[str, list[float]] = {which: [] for which in trainers}
    for step in range(num_steps + 2):
        for which, trainer in trainers.items():
            dist.barrier()
            elapsed_s = trainer.step(images, labels)
            if step >= 2:  # the first steps allocate and choose kernels
                seconds[which].append(elapsed_s)
    if rank == 0:
        title = f"ranks/pspnet_{name}_{precision}"
        Line.of_laps(title, seconds["ours"], seconds["peer"], "CPU s/step", limit=LIMIT).print()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="10, with --quick 4")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["resnet18"])
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp64"], default="bf16")
    arguments = parser.parse_args()
    num_steps = arguments.steps or (4 if arguments.quick else 10)
    for name in arguments.cases:
        spawn(measure, (free_port(), name, arguments.precision, num_steps), nprocs=WORLD)


if __name__ == "__main__":
    main()
