"""What a training sets up in its process: the memory of one that trains on CPUs, the layout, and kernels of GPUs."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from distseg import evaluation
from distseg.config import ModelConfig, RunConfig, model_config
from distseg.evaluation import World
from distseg.orchestration.environment import NEW_CLUSTER_OF_CPUS
from distseg.training.process import DeviceCopies, HostCopy, agreed_precision, layout_of, step_kernels

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)

FRESH_PAGES = """
import resource
import sys
import threading

import torch

from distseg.training.process import keep_freed_memory


def step():
    [torch.ones(size) for size in (1 << 20, 1 << 20, 1 << 20, 9 << 20)]


def train():
    if sys.argv[1] == "kept":
        keep_freed_memory(torch.device("cpu"))
    step()
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


if sys.argv[2] == "main":
    train()
else:
    threading.Thread(target=train).start()
"""


@pytest.mark.parametrize(
    ("thread", "tunables"),
    [("main", ""), ("main", NEW_CLUSTER_OF_CPUS["GLIBC_TUNABLES"]), ("another", NEW_CLUSTER_OF_CPUS["GLIBC_TUNABLES"])],
)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of other C libraries is left alone")
def test_a_step_uses_the_memory_of_the_one_before(thread: str, tunables: str) -> None:
    """Ten steps of three blocks of 4 MiB and one of 36 MiB: 12,288 pages each, or 24 if they are huge ones."""

    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))
    }

    def num_fresh_pages(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FRESH_PAGES, how, thread],
            env=env | {"GLIBC_TUNABLES": tunables},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    # Where the C library lays its blocks is chance, and now and then it gives back none.
    assert any(10 * num_fresh_pages("kept") < num_fresh_pages("given back") for _ in range(3))


@dataclass(frozen=True)
class OtherMachine(World):
    """The other of two ranks is on a machine that computes in something else."""

    is_first: bool = False

    def gather(self, value: Any) -> list[Any]:
        both = [value, "fp32" if value == "bf16" else "bf16"]
        return both[::-1] if self.is_first else both


def test_machines_that_differ_train_in_what_both_have() -> None:
    for is_first in (False, True):
        assert agreed_precision(RunConfig(precision="auto"), OtherMachine(is_first=is_first)) == "fp32"
    assert agreed_precision(RunConfig(precision="fp16"), World()) == "fp16"


BOTTLENECKS = [
    model_config(backbone="resnet50"),
    model_config("fcn", backbone="resnet101"),
    model_config(backbone="resnet269", stem="deep"),
]
OTHERS = [model_config(backbone="resnet18"), model_config("fcn", backbone="vgg16"), model_config("unet")]


@pytest.mark.parametrize("model", [*BOTTLENECKS, *OTHERS, model_config("enet")], ids=lambda model: model.name)
def test_the_layout_is_that_which_was_measured_to_be_faster(model: ModelConfig) -> None:
    precisions = [p for p in ("bf16", "fp32", "fp64") if layout_of("auto", model, p, CPU) == "contiguous"]
    is_enet = model.name == "enet"
    assert precisions == (["bf16", "fp32", "fp64"] if is_enet else ["fp32"] if model in BOTTLENECKS else [])
    assert layout_of("auto", model, "fp32", GPU) == "channels_last"
    assert layout_of("channels_last", model, "fp32", CPU) == "channels_last"
    assert layout_of("contiguous", model, "bf16", GPU) == "contiguous"


def flags() -> tuple[bool, bool, bool]:
    backends = torch.backends
    return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark


def test_fp32_is_exact_on_gpus_and_tf32_is_for_those_who_ask() -> None:
    """The settings exist without a GPU, too."""
    before = flags()
    with step_kernels("fp32", GPU):
        assert flags() == (False, False, True)
    with step_kernels("tf32", GPU):
        assert flags() == (True, True, True)
    with evaluation.products("tf32", GPU):
        assert flags() == (True, True, False), "cuDNN would try its kernels for each size of image"
    with step_kernels("fp32", CPU):
        assert flags() == before
    assert flags() == before


def test_copies_hold_what_was_copied() -> None:
    """On a CPU; on a GPU they are made while other work goes on."""
    images, labels = torch.arange(6).view(2, 3), torch.arange(2)
    for copy, original in zip(DeviceCopies(CPU)(images, labels), (images, labels), strict=True):
        assert torch.equal(copy, original)
    assert torch.equal(HostCopy(images).wait(), images)
