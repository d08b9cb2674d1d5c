"""The other sections of the file."""

import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch.multiprocessing.spawn import start_processes

from distseg import evaluation, metric_names
from distseg.config import AugmentConfig, RunConfig, model_config, network_names, options_class, recipes
from distseg.data.processes import num_cores
from distseg.data.shards import load_manifest
from distseg.evaluation import World
from distseg.models import build_model
from distseg.training import train_run
from distseg.training.optim import learning_rate, set_learning_rate
from distseg.training.process import step_kernels
from distseg.training.segmentation import Segmentation
from tests.benchmarks.gpu.bench import NUM_STEPS, Bench, Recorder
from tests.benchmarks.gpu.steps import peak_tflops


def machine(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "device": bench.device.type,
        "precision": bench.precision,
    }
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(bench.device)
        found |= {"gpu": properties.name, "gpu_gib": properties.total_memory / 2**30, "cuda": torch.version.cuda}
    found["peak_tflops"] = {name: peak_tflops(bench, name) for name in ("fp32", "tf32", "bf16")}
    return found


def equality(bench: Bench) -> dict[str, Any]:
    """The largest relative difference of losses from the CPU's in fp64, over the steps.

    In fp64 it must be tiny; in fp32 and bf16 the first two steps are looked at, since later ones grow apart on any
    device.
    """
    found: dict[str, Any] = {}
    for network in ["pspnet", "enet"] if bench.is_small else _networks():
        entry: dict[str, Any] = {}
        exact = _losses(bench.config(network, precision="fp64"), torch.device("cpu"), NUM_STEPS)
        for precision, num_steps in (("fp64", NUM_STEPS), ("fp32", 2), ("bf16", 2)):
            losses = _losses(bench.config(network, precision=precision), bench.device, num_steps)
            apart = (abs(a - b) / abs(b) for a, b in zip(losses, exact[:num_steps], strict=True))
            entry[precision] = max(apart)
        found[network] = entry
    return found


def two_ranks(bench: Bench) -> dict[str, Any]:
    config = bench.config("pspnet", precision="fp64")
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for num_ranks in (1, 2):
            result = Path(folder) / f"{num_ranks}.json"
            arguments = (num_ranks, config, str(bench.device), str(result))
            start_processes(_train_rank, arguments, nprocs=num_ranks, start_method="spawn")
            losses[num_ranks] = json.loads(result.read_text())
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses[1], losses[2], strict=True))
    return {"largest_relative_difference": apart, "steps": len(losses[1])}


def reader(bench: Bench) -> dict[str, Any]:
    """A training of PSPNet-50 (small: 18) on large crops, with the augmentation of the papers."""
    sizes, config = bench.sizes, recipes.find("town")
    config = replace(
        config,
        model=model_config(backbone=bench.backbone),
        augment=AugmentConfig(),
        data=replace(
            config.data,
            uri=bench.large_uri,
            batch_size=sizes.batch_size,
            crop_px=sizes.crop_px,
            num_threads=num_cores(),
        ),
        optim=replace(config.optim, max_steps=4 * sizes.num_steps, warmup_steps=0),
        evaluate=replace(config.evaluate, every_steps=0),
        tracking=replace(config.tracking, log_every_steps=sizes.num_steps),
    )
    recorder = Recorder()
    train_run(config, World(device=bench.device), recorder)
    waits, rates = recorder.of("train/data_wait_fraction"), recorder.of("train/images_per_s")
    return {"data_wait_fraction": waits[1:], "images_per_s": rates[1:], "threads": config.data.num_threads}


def evaluation_speed(bench: Bench) -> dict[str, Any]:
    manifest = load_manifest(bench.large_uri)
    model = build_model(model_config(backbone=bench.backbone), manifest.label_space.num_classes, aux=False)
    model = model.to(bench.device).to(memory_format=torch.channels_last).eval()
    parts = [shard for shard in manifest.shards if shard.split == "val"]
    num_images = sum(shard.num_samples for shard in parts)
    images_B3HW = torch.zeros(1, 3, *bench.sizes.large_px, dtype=torch.uint8, device=bench.device)
    whole_s, alone_s = [], []
    for _ in range(3):
        start_s = time.perf_counter()
        evaluation.evaluate_shards(
            model, manifest, parts, World(device=bench.device), precision=bench.precision, num_threads=num_cores()
        )
        whole_s.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
        for _ in range(num_images):
            evaluation.predict(model, images_B3HW, bench.precision)
        bench.synchronize()
        alone_s.append(time.perf_counter() - start_s)
    whole, alone = statistics.median(whole_s[1:]), statistics.median(alone_s[1:])
    return {
        "images_per_s": num_images / whole,
        "forward_alone_images_per_s": num_images / alone,
        "ratio": whole / alone,
    }


def town(bench: Bench) -> dict[str, Any]:
    config = recipes.find("town")
    config = replace(
        config,
        data=replace(config.data, uri=bench.town_uri, num_threads=num_cores()),
        optim=replace(
            config.optim, max_steps=bench.sizes.town_steps, warmup_steps=min(20, bench.sizes.town_steps // 2)
        ),
    )
    return _trained(bench, config)


def camvid(bench: Bench) -> dict[str, Any]:
    assert bench.camvid_uri is not None
    config = recipes.find("enet_camvid")
    max_steps = 1600 if bench.sizes.town_steps > 100 else 2
    config = replace(
        config,
        data=replace(config.data, uri=bench.camvid_uri, num_threads=num_cores()),
        optim=replace(config.optim, max_steps=max_steps, warmup_steps=0),
        evaluate=replace(config.evaluate, every_steps=0),
    )
    return _trained(bench, config) | {"steps": max_steps}


def _networks() -> list[str]:
    return [name for name in network_names() if segments(name)]


def segments(network: str) -> bool:
    return any(not config.is_style_network for config in options_class(network).variants().values())


def _losses(config: RunConfig, device: torch.device, num_steps: int) -> list[float]:
    """Of a training's first steps, without its evaluation: 180 images in fp64 take a CPU minutes with some networks."""
    training, found = Segmentation(config, World(device=device)), []
    with training.open_readers(0) as batches:
        for step in range(num_steps):
            set_learning_rate(training.optimizer, learning_rate(step, config.optim), config.optim)
            with step_kernels(training.precision, device):
                parts = training.train_step([next(batches)], step)
            found.append(float(parts[metric_names.TRAIN_LOSS]))
    return found


def _train_rank(rank: int, num_ranks: int, config: RunConfig, device: str, result: str) -> None:
    torch.set_num_threads(1)
    if num_ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{result}.store", rank=rank, world_size=num_ranks)
    recorder = Recorder()
    train_run(config, World(rank, num_ranks, torch.device(device)), recorder)
    if rank == 0:
        Path(result).write_text(json.dumps(recorder.of("train/loss")))
    if num_ranks > 1:
        dist.destroy_process_group()


def _trained(bench: Bench, config: RunConfig) -> dict[str, Any]:
    recorder, start_s = Recorder(), time.perf_counter()
    train_run(config, World(device=bench.device), recorder)
    seconds = time.perf_counter() - start_s
    names = ("val/mIoU", "val/mIoU_worst", "train/images_per_s", "train/data_wait_fraction", "train/loss")
    return {"seconds": seconds} | {name: values[-1] for name in names if (values := recorder.of(name))}


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
