"""A training step of our networks against the same networks of others in the loop that goes with them.

    python -m tests.benchmarks.bench_peers [--quick] [--steps 8] [--precisions fp32 bf16] [--cases fcn_resnet50 …]
    python -m tests.benchmarks.bench_peers --peer pspnet_resnet50_deep=my_peers:pspnet     # from the working directory

torchvision's FCN is measured as its reference training steps it, smp's DeepLabV3+ if segmentation_models_pytorch is
installed. Other code is brought by `--peer CASE=module:function`: the function takes the number of classes and returns a
network from images to logits, or to logits and auxiliary logits; they are resized to the labels if they are smaller.

The peer's step is a plain loop: cross entropy, 0.4 times that of the auxiliary logits, SGD with momentum, its own memory
layout (contiguous). Ours is that of `distseg.train`, its layout chosen by `layout = "auto"`, its loss and optimiser. One
thread, fixed data, in turn in one process, in CPU seconds. Prints one JSON line per case.
"""

import argparse
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.config import ModelConfig, model_config
from distseg.evaluation import autocast
from distseg.training.process import layout_of
from tests.benchmarks.bench_layout import CASES, NUM_CLASSES, Case, Trainer
from tests.benchmarks.cases import Line, laps_in_turn, say

LIMIT = 0.95  # ours over the peer's
AUX_WEIGHT = 0.4
Build = Callable[[int], nn.Module]


def torchvision_fcn(num_classes: int) -> nn.Module:
    import torchvision

    return torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True
    )


def smp_deeplabv3plus(num_classes: int) -> nn.Module:
    smp = importlib.import_module("segmentation_models_pytorch")
    network: nn.Module = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=num_classes)
    return network


PEERS: dict[str, Build] = {"fcn_resnet50": torchvision_fcn}
if importlib.util.find_spec("segmentation_models_pytorch"):
    PEERS["deeplabv3plus_resnet18"] = smp_deeplabv3plus


class PlainLoop:
    """A peer's network, with SGD."""

    def __init__(self, build: Build, precision: str) -> None:
        torch.manual_seed(0)
        self.model, self.precision = build(NUM_CLASSES).train(), precision
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-4)

    def step(self, images_B3HW: Tensor, labels_BHW: Tensor) -> None:
        labels_BHW = labels_BHW.long()
        self.optimizer.zero_grad()
        with autocast(self.precision, images_B3HW.device):
            losses = [
                F.cross_entropy(_at_size_of(labels_BHW, logits_BKhw), labels_BHW, ignore_index=255)
                for logits_BKhw in _logits(self.model(images_B3HW))
            ]
        total = losses[0] + AUX_WEIGHT * losses[1] if len(losses) > 1 else losses[0]
        total.backward()
        self.optimizer.step()


def _logits(output: Any) -> list[Tensor]:
    if isinstance(output, Mapping):  # torchvision's
        return [output["out"], *([output["aux"]] if "aux" in output else [])]
    return [output] if isinstance(output, Tensor) else list(output)


def _at_size_of(labels_BHW: Tensor, logits_BKhw: Tensor) -> Tensor:
    size = labels_BHW.shape[1:]
    if logits_BKhw.shape[2:] == size:
        return logits_BKhw
    return F.interpolate(logits_BKhw, size, mode="bilinear", align_corners=False)


def measure(name: str, build: Build, precision: str, num_steps: int) -> Line:
    case, generator = CASES[name], torch.Generator().manual_seed(0)
    images = torch.randn(case.batch_size, 3, *case.size_px, generator=generator)
    labels = torch.randint(NUM_CLASSES, (case.batch_size, *case.size_px), generator=generator, dtype=torch.uint8)
    chosen = layout_of("auto", case.model, precision, torch.device("cpu"))
    ours, theirs = Trainer(case, chosen, precision), PlainLoop(build, precision)
    steps = {
        "ours": functools.partial(ours.step, images, labels),
        "peer": functools.partial(theirs.step, images, labels),
    }
    seconds = laps_in_turn(steps, num_steps)
    return Line.of_laps(f"peers/{name}_{precision}", seconds["ours"], seconds["peer"], "CPU s/step", limit=LIMIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="8, with --quick 3")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="all that have a peer")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16", "fp64"], default=["fp32"])
    parser.add_argument("--peer", action="append", default=[], metavar="CASE=module:function")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))
    peers = PEERS | {case: _imported(target) for case, _, target in (each.partition("=") for each in arguments.peer)}
    torch.set_num_threads(1)
    for name in arguments.cases or peers:
        if name not in peers:
            say(f"{name}: no peer is installed; give --peer {name}=module:function")
            continue
        for precision in arguments.precisions:
            measure(name, peers[name], precision, arguments.steps or (3 if arguments.quick else 8)).print()


def _imported(target: str) -> Build:
    module, _, function = target.partition(":")
    build: Build = getattr(importlib.import_module(module), function)
    return build


if __name__ == "__main__":
    main()
