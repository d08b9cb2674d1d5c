"""A training step of our networks against the same networks of others in the loop that goes with them.

    python -m tests.benchmarks.bench_peers [--quick] [--steps 8] [--precisions fp32 bf16] [--cases fcn_resnet50 …]
    python -m tests.benchmarks.bench_peers --peer pspnet_resnet50_deep=my_peers:pspnet --peer enet=plain

torchvision's FCN is measured as its reference training steps it. Other code is brought by `--peer CASE=module:function`
from the working directory: the function takes the number of classes and returns a network from images to logits, or to
logits and auxiliary logits; they are resized to the labels if they are smaller. `plain` is our own network as it is,
in the peer's loop.

The peer's step is a plain loop: cross entropy, 0.4 times that of the auxiliary logits, SGD with momentum, its own
memory layout (contiguous). Ours is that of `distseg.train`: its loss and optimiser, the layout chosen by `layout =
"auto"`, and the memory of one step kept for the next. Each has a process of its own, since that is a setting of the
process, and is idle while the other one steps. One thread, fixed data, in turn, in CPU seconds. Prints one JSON line
per case.
"""

import argparse
import importlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distseg.evaluation import autocast
from distseg.models import build_model
from distseg.training.process import keep_freed_memory, layout_of
from tests.benchmarks.bench_layout import CASES, NUM_CLASSES, Case, Trainer
from tests.benchmarks.cases import Line, laps_in_turn, say

LIMIT = 0.95  # ours over the peer's
AUX_WEIGHT = 0.4
OURS, PLAIN = "", "plain"


def torchvision_fcn(num_classes: int) -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True
    )
    return network


PEERS = {"fcn_resnet50": "tests.benchmarks.bench_peers:torchvision_fcn"}


class PlainLoop:
    """A peer's network, with SGD."""

    def __init__(self, build: Callable[[], nn.Module], precision: str) -> None:
        torch.manual_seed(0)
        self.model, self.precision = build().train(), precision
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
    return [output] if isinstance(output, Tensor) else [logits for logits in output if logits is not None]


def _at_size_of(labels_BHW: Tensor, logits_BKhw: Tensor) -> Tensor:
    size = labels_BHW.shape[1:]
    if logits_BKhw.shape[2:] == size:
        return logits_BKhw
    return F.interpolate(logits_BKhw, size, mode="bilinear", align_corners=False)


def stepping(orders: Connection, case: str, build: str, precision: str) -> None:
    """The program of a contestant's process: for each order a step, answered by its CPU seconds."""
    sys.path.insert(0, str(Path.cwd()))
    torch.set_num_threads(1)
    shape, generator = CASES[case], torch.Generator().manual_seed(0)
    images = torch.randn(shape.batch_size, 3, *shape.size_px, generator=generator)
    labels = torch.randint(NUM_CLASSES, (shape.batch_size, *shape.size_px), generator=generator, dtype=torch.uint8)
    contestant: Trainer | PlainLoop
    if build == OURS:
        keep_freed_memory(images.device)
        contestant = Trainer(shape, layout_of("auto", shape.model, precision, images.device), precision)
    else:
        contestant = PlainLoop(partial(network_of_peer, shape, build), precision)
    while orders.recv():
        began_s = time.process_time()
        contestant.step(images, labels)
        orders.send(time.process_time() - began_s)


def network_of_peer(case: Case, build: str) -> nn.Module:
    if build == PLAIN:
        return build_model(case.model, NUM_CLASSES)
    module, _, function = build.partition(":")
    network: nn.Module = getattr(importlib.import_module(module), function)(NUM_CLASSES)
    return network


@contextmanager
def contestant_process(case: str, build: str, precision: str) -> Iterator[Callable[[], float]]:
    """What has it do a step, and gives the CPU seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=stepping, args=(theirs, case, build, precision), daemon=True)
    process.start()
    theirs.close()  # so that a process that has died is an EOFError

    def step() -> float:
        ours.send(True)
        seconds: float = ours.recv()
        return seconds

    try:
        yield step
        ours.send(False)
    finally:
        process.join(10)
        process.terminate()


def measure(name: str, build: str, precision: str, num_steps: int) -> Line:
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    with contestant_process(name, OURS, precision) as ours, contestant_process(name, build, precision) as peer:
        laps_in_turn(
            {"ours": lambda: seconds["ours"].append(ours()), "peer": lambda: seconds["peer"].append(peer())}, num_steps
        )
    return Line.of_laps(
        f"peers/{name}_{precision}", seconds["ours"][1:], seconds["peer"][1:], "CPU s/step", limit=LIMIT
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="8, with --quick 3")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="all that have a peer")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16", "fp64"], default=["fp32"])
    parser.add_argument("--peer", action="append", default=[], metavar="CASE=module:function|plain")
    arguments = parser.parse_args()
    peers = PEERS | {case: target for case, _, target in (each.partition("=") for each in arguments.peer)}
    for name in arguments.cases or peers:
        if name not in peers:
            say(f"{name}: no peer is installed; give --peer {name}=module:function")
            continue
        for precision in arguments.precisions:
            measure(name, peers[name], precision, arguments.steps or (3 if arguments.quick else 8)).print()


if __name__ == "__main__":
    main()
