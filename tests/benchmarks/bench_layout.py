"""The two memory layouts of a training step on this CPU: that which a training chooses against the other one.

    python -m tests.benchmarks.bench_layout [--quick] [--steps 8] [--cases pspnet_resnet18 …] [--precisions fp32 bf16]

A CPU without AVX512 is emulated, but for its clock and caches, by

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m tests.benchmarks.bench_layout

One thread; forward, loss, backward and optimiser on fixed data, both layouts in turn in one process, in CPU seconds.
Prints one JSON line per case; its name says which layout is ours, that of `layout = "auto"`.
"""

import argparse
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from distseg.config import LossConfig, ModelConfig, OptimConfig, model_config
from distseg.evaluation import autocast
from distseg.models import build_model
from distseg.training.losses import SegmentationLoss
from distseg.training.optim import build_optimizer
from distseg.training.process import layout_of
from tests.benchmarks.cases import Line, laps_in_turn

LIMIT = 1.05  # the choice may be wrong where there is next to nothing between them
NUM_CLASSES = 13
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Case:
    model: ModelConfig
    batch_size: int
    size_px: tuple[int, int]


CASES = {
    "pspnet_resnet18": Case(model_config(backbone="resnet18"), 4, (128, 192)),  # the embedded default
    "pspnet_resnet50_deep": Case(model_config(backbone="resnet50", stem="deep"), 2, (113, 113)),
    "enet": Case(model_config("enet"), 2, (360, 480)),
    "unet_quarter": Case(model_config("unet", width=0.25), 2, (128, 192)),
    "fcn_attention_quarter": Case(model_config("fcn_attention", width=0.25, se_ratio=16), 2, (128, 192)),
    "deeplabv3plus_resnet18": Case(model_config("deeplabv3plus", backbone="resnet18"), 2, (128, 192)),
    "segformer_b0": Case(model_config("segformer"), 2, (128, 192)),
    "fcn_resnet50": Case(model_config("fcn", backbone="resnet50"), 2, (113, 113)),
}


class Trainer:
    """A network in one layout, with its optimiser."""

    def __init__(self, case: Case, layout: str, precision: str) -> None:
        torch.manual_seed(0)
        self.format, self.precision = FORMATS[layout], precision
        self.model = build_model(case.model, NUM_CLASSES, aux=case.model.has_aux_head).to(memory_format=self.format)
        self.optimizer = build_optimizer(self.model, OptimConfig())
        self.loss = SegmentationLoss(LossConfig())

    def step(self, images_B3HW: Tensor, labels_BHW: Tensor) -> None:
        with autocast(self.precision, images_B3HW.device):
            logits = self.model(images_B3HW.contiguous(memory_format=self.format))
        self.loss(logits, labels_BHW, normaliser=labels_BHW.numel()).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(name: str, precision: str, num_steps: int) -> Line:
    case, generator = CASES[name], torch.Generator().manual_seed(0)
    images = torch.randn(case.batch_size, 3, *case.size_px, generator=generator)
    labels = torch.randint(NUM_CLASSES, (case.batch_size, *case.size_px), generator=generator, dtype=torch.uint8)
    trainers = {layout: Trainer(case, layout, precision) for layout in FORMATS}
    chosen = layout_of("auto", case.model, precision, torch.device("cpu"))
    (other,) = FORMATS.keys() - {chosen}
    steps = {layout: functools.partial(trainer.step, images, labels) for layout, trainer in trainers.items()}
    seconds = laps_in_turn(steps, num_steps)
    title = f"layout/{name}_{precision} {chosen}"
    return Line.of_laps(title, seconds[chosen], seconds[other], "CPU s/step", limit=LIMIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="8, with --quick 3")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["pspnet_resnet18", "enet"])
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16", "fp64"], default=["fp32"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.cases:
        for precision in arguments.precisions:
            measure(name, precision, arguments.steps or (3 if arguments.quick else 8)).print()


if __name__ == "__main__":
    main()
