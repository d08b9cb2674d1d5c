"""Cost of synchronised batch norm on CPUs: a training step of PSPNet with it against the same step with the plain one.

    python tests/benchmarks/bench_batchnorm.py [--quick] [--steps 15] [--cases resnet18 resnet50]

Two gloo ranks on loopback, one thread each, bf16 autocast and channels_last, DistributedDataParallel; both variants are
interleaved step by step in one run. Prints one JSON line per case: medians of rank 0, ratio = ours / peer, and the
limit of the design, 1.2.
"""

import argparse
import os
import socket
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from distseg.config import LossConfig, ModelConfig, OptimConfig, model_config
from distseg.models import build_model
from distseg.training.batchnorm import synchronise
from distseg.training.losses import SegmentationLoss
from distseg.training.optim import build_optimizer
from tests.benchmarks.cases import Line

LIMIT = 1.2
WORLD = 2
NUM_CLASSES = 13


@dataclass(frozen=True)
class Case:
    model: ModelConfig
    images_per_rank: int
    size_px: tuple[int, int]


CASES = {
    "resnet18": Case(model_config(backbone="resnet18"), 4, (128, 192)),  # the embedded default
    "resnet50": Case(model_config(backbone="resnet50"), 2, (240, 240)),
}


class Trainer:
    """A network with its optimiser, and one training step on fixed data."""

    def __init__(self, case: Case, synchronised: bool) -> None:
        torch.manual_seed(0)
        model = build_model(case.model, NUM_CLASSES)
        model.to(memory_format=torch.channels_last)
        if synchronised:
            synchronise(model)
        self.optimizer = build_optimizer(model, OptimConfig())
        self.model = DistributedDataParallel(model)

    def step(self, images_B3HW: Tensor, labels_BHW: Tensor) -> float:
        """Seconds."""
        start_s = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(images_B3HW)
        normaliser = labels_BHW.numel() * WORLD
        loss = SegmentationLoss(LossConfig())(logits, labels_BHW, normaliser=normaliser)
        loss.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start_s


def measure(rank: int, port: int, case: Case, num_steps: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(case.images_per_rank, 3, *case.size_px, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(NUM_CLASSES, (case.images_per_rank, *case.size_px), generator=generator, dtype=torch.uint8)
    trainers = {"peer": Trainer(case, synchronised=False), "ours": Trainer(case, synchronised=True)}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for step in range(num_steps + 2):
        for name, trainer in trainers.items():
            dist.barrier()
            elapsed_s = trainer.step(images, labels)
            if step >= 2:  # the first steps allocate and choose kernels
                seconds[name].append(elapsed_s)
    if rank == 0:
        name = f"batchnorm/pspnet_{case.model.known_backbone}"
        Line.of_laps(name, seconds["ours"], seconds["peer"], "s/step", limit=LIMIT).print()
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="15, with --quick 5")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["resnet18"])
    arguments = parser.parse_args()
    num_steps = arguments.steps or (5 if arguments.quick else 15)
    for name in arguments.cases:
        spawn(measure, (free_port(), CASES[name], num_steps), nprocs=WORLD)


if __name__ == "__main__":
    main()
