"""Training steps on synthetic batches: ours, and plain loops of torchvision's networks."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distseg.config import model_config, recipes
from distseg.data.loading import Batch
from distseg.errors import first_line
from distseg.evaluation import World
from distseg.models import build_model
from distseg.training.process import step_kernels
from distseg.training.segmentation import Segmentation
from tests.benchmarks.gpu.bench import Bench

_BACKWARD_AND_FORWARD = 3  # a step's operations over those of its forward pass


def steps(bench: Bench) -> dict[str, Any]:
    """Ours and torchvision's on the same synthetic batch, one after the other, each after warming up."""
    sizes, peak = bench.sizes, peak_tflops(bench, "bf16")
    crop = sizes.crop_px
    fcn, deeplab = torchvision.models.segmentation.fcn_resnet50, torchvision.models.segmentation.deeplabv3_resnet50
    networks: dict[str, Callable[[], Stepper]] = {
        f"pspnet {bench.backbone}": lambda: _ours(bench, "pspnet", crop, backbone=bench.backbone),
        f"pspnet {bench.backbone} compiled": lambda: _ours(
            bench, "pspnet", crop, compiled=True, backbone=bench.backbone
        ),
        f"pspnet {bench.backbone} checkpointed": lambda: _ours(
            bench, "pspnet", crop, backbone=bench.backbone, checkpointing=True
        ),
        "pspnet resnet101": lambda: _ours(bench, "pspnet", crop, backbone="resnet101"),
        "enet": lambda: _ours(bench, "enet", (crop[0] // 8 * 8, crop[1] // 8 * 8)),
        "torchvision fcn_resnet50": lambda: _plain(bench, fcn),
        "torchvision deeplabv3_resnet50": lambda: _plain(bench, deeplab),
    }
    if bench.is_small:
        networks = {
            name: networks[name]
            for name in (f"pspnet {bench.backbone}", f"pspnet {bench.backbone} checkpointed", "enet")
        }
    found: dict[str, Any] = {}
    for name, build in networks.items():
        try:
            found[name] = _timed(bench, build(), peak)
        except Exception as error:  # one network that does not fit must not hide the others
            found[name] = {"error": f"{type(error).__name__}: {first_line(error)}"}
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    return found


@dataclass(frozen=True)
class Stepper:
    step: Callable[[], object]
    batch_size: int
    forward_flops: float  # of one image


def _ours(bench: Bench, network: str, crop_px: tuple[int, int], *, compiled: bool = False, **options: Any) -> Stepper:
    config = recipes.find("town")
    model = model_config(network, **options)
    config = replace(
        config,
        model=model,
        compile=compiled,
        loss=replace(
            config.loss, aux_weight=0.4 if network == "pspnet" else 0.0, class_weights="none", dice_weight=0.0
        ),
        data=replace(config.data, uri=bench.town_uri, crop_px=crop_px, batch_size=bench.sizes.batch_size),
        optim=replace(config.optim, name="sgd", lr=0.01),
    )
    objective = Segmentation(config, World(device=bench.device))
    num_classes = objective.manifest.label_space.num_classes
    images_B3HW, labels_BHW = _synthetic(bench, crop_px, num_classes)
    batch = Batch(images_B3HW, labels_BHW, ("synthetic",) * len(images_B3HW), tuple(range(len(images_B3HW))), 0)
    taken = iter(range(1 << 30))
    flops = _forward_flops(lambda: build_model(model, num_classes), crop_px)

    def step() -> None:
        with step_kernels(objective.precision, bench.device):  # as in a training
            objective.train_step([batch], next(taken))

    return Stepper(step, len(images_B3HW), flops)


def _plain(bench: Bench, build: Callable[..., nn.Module]) -> Stepper:
    """A loop as in torchvision's reference training: AMP, the fastest of cuDNN's kernels, cross entropy with 0.5 of an
    auxiliary one; and channels_last."""
    num_classes, crop_px = 13, bench.sizes.crop_px

    def network() -> nn.Module:
        return build(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True)

    model = network().to(bench.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images_B3HW, labels_BHW = _synthetic(bench, crop_px, num_classes)

    def step() -> None:
        images = images_B3HW.to(bench.device, non_blocking=True).float().div(255)
        labels = labels_BHW.to(bench.device, non_blocking=True).long()
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.precision == "bf16"):
            logits = model(images.contiguous(memory_format=torch.channels_last))
            losses = {name: F.cross_entropy(value, labels, ignore_index=255) for name, value in logits.items()}
        optimizer.zero_grad(set_to_none=True)
        (losses["out"] + 0.5 * losses["aux"]).backward()
        optimizer.step()

    def step_as_fast_as_ours() -> None:
        with step_kernels(bench.precision, bench.device):  # the reference training sets cudnn.benchmark, too
            step()

    return Stepper(step_as_fast_as_ours, bench.sizes.batch_size, _forward_flops(network, crop_px))


def _synthetic(bench: Bench, crop_px: tuple[int, int], num_classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images_BHW3 = torch.randint(0, 256, (bench.sizes.batch_size, *crop_px, 3), dtype=torch.uint8, generator=generator)
    shape = (bench.sizes.batch_size, *crop_px)
    labels_BHW = torch.randint(0, num_classes, shape, dtype=torch.uint8, generator=generator)
    return images_BHW3.permute(0, 3, 1, 2), labels_BHW


def _forward_flops(build: Callable[[], nn.Module], size: tuple[int, int]) -> float:
    with torch.device("meta"):
        model = build().train()
        counter = FlopCounterMode(display=False)
        with counter:
            model(torch.empty(2, 3, *size))
    return counter.get_total_flops() / 2


def _timed(bench: Bench, stepper: Stepper, peak_tflops: float) -> dict[str, float]:
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        stepper.step()
    bench.synchronize()
    laps_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        for _ in range(bench.sizes.num_steps):
            stepper.step()
        bench.synchronize()
        laps_s.append((time.perf_counter() - start_s) / bench.sizes.num_steps)
    step_s = statistics.median(laps_s)
    tflops = _BACKWARD_AND_FORWARD * stepper.forward_flops * stepper.batch_size / step_s / 1e12
    found = {
        "step_ms": 1000 * step_s,
        "spread": (max(laps_s) - min(laps_s)) / step_s,
        "images_per_s": stepper.batch_size / step_s,
        "tflops": tflops,
        "of_bf16_peak": tflops / peak_tflops,
    }
    if bench.device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def peak_tflops(bench: Bench, kind: str) -> float:
    """Of a square matrix product, the median of 5."""
    side = bench.sizes.matrix
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
    laps_s = []
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
    try:
        for _ in range(7):
            start_s = time.perf_counter()
            a @ b
            bench.synchronize()
            laps_s.append(time.perf_counter() - start_s)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return float(2 * side**3 / statistics.median(laps_s[2:]) / 1e12)
