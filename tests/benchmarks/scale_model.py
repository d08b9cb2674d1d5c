"""What 8 to 1,024 GPUs would do, worked out from measured parts: throughput, and where the rest of the time goes.

    python -m tests.benchmarks.scale_model [--bench_gpu build/gpu.json] [--node_mtbf_h 20000] …   all inputs are options

Prints one Markdown table, a row for each number of GPUs. Nothing is trained: the formulas and what they leave out are
in docs/operations.md, under "At scale". A default is an assumption unless its option names the command that measured
it; give your own. `--bench_gpu` takes the step of PSPNet-50 from the file that `make bench-gpu` has written.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import tyro

from distseg.review import markdown_table


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Of one training. Times in seconds; rates in GB/s are 10^9 bytes per second."""

    gpus_per_node: int = 8
    images_per_gpu: int = 16
    step_s: float = 0.25
    """Of one GPU alone, forward to update. Assumed, unless --bench_gpu is given."""
    bench_gpu: str = ""
    """JSON of `make bench-gpu`, for step_s and images_per_gpu of PSPNet-50."""
    hidden_share: float = 0.5
    """The share of a step during which gradients can be exchanged: most of its backward pass."""
    gradient_MB: float = 196.0
    """What each rank exchanges in a step: four bytes for each of the 49.1 million parameters of PSPNet-50."""
    gpu_GBps: float = 25.0
    """Network of a node divided by its GPUs. Assumed: 400 Gbit/s for two GPUs."""
    latency_us: float = 20.0
    """Of one message between nodes. Assumed."""
    num_norms: int = 61
    """Batch norms, 61 in PSPNet-50; their sums are exchanged forward and backward, with nothing to hide behind."""
    image_kB: float = 400.0
    """Image and label as packed. Assumed: Cityscapes' size as JPEG."""
    node_read_GBps: float = 2.0
    """What a node reads from its cache or from the store, the lower of both. Assumed."""
    store_GBps: float = 40.0
    """What the store gives to all nodes together. Assumed."""
    decoded_per_core: float = 85.0
    """Images that one core decodes and augments in a second. tests/benchmarks/bench_reader.py gave 909 of 480x360 on
    one core; a photograph of 2048x1024 has 12 times their pixels."""
    cores_per_gpu: int = 16
    checkpoint_s: float = 0.5
    """How long training waits for a checkpoint: the copy of the weights. Assumed."""
    writing_s: float = 10.0
    """From then until it is safe in the store; training goes on meanwhile. Assumed."""
    restart_s: float = 180.0
    """From a failure to the next step: noticing, starting, loading. Assumed."""
    node_mtbf_h: float = 20_000.0
    """Mean time between failures of one node, in hours. Assumed."""
    interval_s: float = 0.0
    """Training between two checkpoints; 0: the best one."""


def measured(inputs: Inputs) -> Inputs:
    """With the step that --bench_gpu measured."""
    if not inputs.bench_gpu:
        return inputs
    try:
        step = json.loads(Path(inputs.bench_gpu).read_text())["steps"]["pspnet resnet50"]
        step_s = step["step_ms"] / 1000
        return replace(inputs, step_s=step_s, images_per_gpu=round(step["images_per_s"] * step_s))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"--bench_gpu {inputs.bench_gpu}: has no step of PSPNet-50 ({error!r})") from None


class Step(NamedTuple):
    """Seconds of one step; `exchange` and `reading` are what is not hidden behind the others."""

    compute: float
    exchange: float
    reading: float

    @property
    def total(self) -> float:
        return self.compute + self.exchange + self.reading


class Shares(NamedTuple):
    """Of the whole time; they add up to 1."""

    useful: float
    exchange: float
    reading: float
    checkpoints: float
    failures: float


def step_of(inputs: Inputs, num_gpus: int) -> Step:
    num_nodes = math.ceil(num_gpus / inputs.gpus_per_node)
    latency_s = inputs.latency_us * 1e-6 * math.ceil(math.log2(num_nodes)) if num_nodes > 1 else 0.0
    # A ring moves 2 (N - 1) / N of the bytes through each rank (Patarasuk and Yuan 2009); a tree has log2 of latencies.
    ring_s = 2 * (num_gpus - 1) / num_gpus * inputs.gradient_MB * 1e-3 / inputs.gpu_GBps
    gradients_s = max(0.0, ring_s + 2 * latency_s - inputs.hidden_share * inputs.step_s)
    exchange_s = gradients_s + 2 * inputs.num_norms * 2 * latency_s
    images = inputs.images_per_gpu
    per_node = min(num_gpus, inputs.gpus_per_node) * images
    read_s = max(
        images / (inputs.decoded_per_core * inputs.cores_per_gpu),
        per_node * inputs.image_kB * 1e-6 / inputs.node_read_GBps,
        num_gpus * images * inputs.image_kB * 1e-6 / inputs.store_GBps,
    )
    return Step(inputs.step_s, exchange_s, max(0.0, read_s - inputs.step_s - exchange_s))


def young_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Young 1974, "A first order approximation to the optimum checkpoint interval"."""
    return math.sqrt(2 * checkpoint_s * mtbf_s)


def daly_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps"."""
    if checkpoint_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = checkpoint_s / (2 * mtbf_s)
    return math.sqrt(2 * checkpoint_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint_s


def trained_share(interval_s: float, checkpoint_s: float, restart_s: float, mtbf_s: float) -> float:
    """Training in the whole time, for failures that come at random (Daly 2006), also during a restart."""
    per_interval_s = mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + checkpoint_s) / mtbf_s)
    return interval_s / per_interval_s


def interval_of(inputs: Inputs, num_gpus: int) -> float:
    """The one asked for, or the best; never shorter than a checkpoint takes to be written."""
    best_s = inputs.interval_s or daly_s(inputs.checkpoint_s, mtbf_s(inputs, num_gpus))
    return max(best_s, inputs.writing_s)


def mtbf_s(inputs: Inputs, num_gpus: int) -> float:
    """Of the nodes together: one that fails stops all."""
    return inputs.node_mtbf_h * 3600 / math.ceil(num_gpus / inputs.gpus_per_node)


def shares_of(inputs: Inputs, num_gpus: int) -> Shares:
    step, interval_s = step_of(inputs, num_gpus), interval_of(inputs, num_gpus)
    # A checkpoint counts from when it is written: a failure costs that much more.
    lost_s = inputs.restart_s + inputs.writing_s
    trained = trained_share(interval_s, inputs.checkpoint_s, lost_s, mtbf_s(inputs, num_gpus))
    checkpoints = trained * inputs.checkpoint_s / interval_s
    useful, exchange, reading = (trained * part / step.total for part in step)
    return Shares(useful, exchange, reading, checkpoints, 1 - trained - checkpoints)


def rows(inputs: Inputs) -> Iterator[list[str]]:
    num_gpus = 8
    while num_gpus <= 1024:
        shares = shares_of(inputs, num_gpus)
        images_per_s = shares.useful * num_gpus * inputs.images_per_gpu / inputs.step_s
        percents = (f"{100 * share:.2f}" for share in shares)
        yield [f"{num_gpus:,}", f"{images_per_s:,.0f}", *percents, f"{interval_of(inputs, num_gpus) / 60:.1f}"]
        num_gpus *= 2


HEADER = ("GPUs", "images/s", "useful %", "exchange %", "reading %", "checkpoints %", "failures %", "interval, min")


def main() -> None:
    inputs = measured(tyro.cli(Inputs, description=__doc__))
    print(markdown_table(HEADER, rows(inputs)))


if __name__ == "__main__":
    main()
