"""What every training loop is made of: the ranks, where findings go, the watch on losses and on speed."""

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distseg import evaluation
from distseg.config import AugmentConfig, RunConfig, Sampling
from distseg.data.loading import Batch, DatasetPart, ReadOptions, TrainReader
from distseg.data.shards import Manifest, Shard
from distseg.errors import CheckpointError, TrainingError, first_line
from distseg.evaluation import World
from distseg.training.checkpoint import Checkpoint, code_version


class Report(Protocol):
    """Where a training sends what it finds. `log` and `pictures` are called on rank 0 only, `save` on every rank."""

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        """`worst_condition` is that of an evaluation, whose value is val/mIoU_worst."""
        ...

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None:
        """JPEGs of an evaluation by name, on rank 0 only."""
        ...

    def pending_records(self) -> list[dict[str, Any]]:
        """Records not yet confirmed by the tracking server; they travel in the checkpoint."""
        ...

    def save(self, step: int, checkpoint: Checkpoint | None, metrics: dict[str, float]) -> None:
        """Keeps a checkpoint; it is None on every rank but 0. A barrier where ranks must stay together."""
        ...


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MOST_MMAP_THRESHOLD = 32 << 20  # more is refused


def keep_freed_memory(device: torch.device) -> None:
    """Lets a process that trains on CPUs use the memory of one step again in the next one.

    glibc gives blocks as large as activations back to the system, so that each step pays for fresh pages again: 50 MB
    and 2% to 5% of the time of PSPNet-18 at 128x192, more in virtual machines that give them back, too. Does nothing
    where malloc is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def agreed_precision(config: RunConfig, world: World) -> str:
    """Rank 0's choice on every rank: machines of one cluster may differ."""
    choice = [evaluation.resolve_precision(config.precision, world.device)]
    if world.size > 1:
        dist.broadcast_object_list(choice, src=0)
    return str(choice[0])


def due(step: int, every_steps: int, max_steps: int) -> bool:
    return step == max_steps or (every_steps > 0 and step % every_steps == 0)


def open_reader(
    config: RunConfig,
    manifest: Manifest,
    shards: Sequence[Shard],
    world: World,
    step: int,
    augment: AugmentConfig,
    *,
    sampling: Sampling = "each",
    mix: Sequence[DatasetPart] = (),
    mix_weights: Sequence[float] = (),
) -> TrainReader:
    """This rank's micro-batches of some shards, and of other data sets mixed with them, from an optimiser step on."""
    data = config.data
    options = ReadOptions(
        batch_size=config.micro_batch_size,
        crop_px=data.crop_px,
        augment=augment if data.augment else None,
        seed=config.seed,
        shuffle_window=data.shuffle_window,
        num_threads=data.num_threads,
        prefetch_batches=data.prefetch_batches,
        on_bad_sample=data.on_bad_sample,
        max_bad_samples=data.max_bad_samples,
        deadline_s=data.deadline_s,
        cache_bytes=data.cache_bytes,
        cache_dir=data.cache_dir,
        sampling=sampling,
        mix_weights=mix_weights,
    )
    start_batch = step * config.optim.accumulate_steps
    datasets = [DatasetPart(manifest, shards), *mix]
    return TrainReader(datasets, options, rank=world.rank, world=world.size, start_batch=start_batch)


class FiniteLosses:
    """Adds the losses up over ranks and stops the training on the first that is not finite.

    The sum of one step is looked at when the next one has been queued, so that a GPU never waits for the host; `check`
    looks at once, and is called before anything is reported or saved.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting: tuple[int, Tensor, Tensor, list[Batch]] | None = None
        self.last: tuple[float, ...] = ()

    def expect(self, step: int, parts_P: Tensor, micro_batches: list[Batch]) -> None:
        self.check()
        self.waiting = (step, parts_P.clone(), self.world.sum(parts_P), micro_batches)

    def check(self) -> tuple[float, ...]:
        """The parts of the newest step's loss, the main one first. Raises TrainingError if they are not finite."""
        if self.waiting is None:
            return self.last
        step, own_P, total_P, micro_batches = self.waiting
        self.waiting = None
        self.last = tuple(total_P.tolist())
        if not torch.isfinite(total_P).all():
            self._stop(step, own_P, micro_batches)
        return self.last

    def _stop(self, step: int, own_P: Tensor, micro_batches: list[Batch]) -> None:
        own_keys = [] if torch.isfinite(own_P).all() else [key for batch in micro_batches for key in batch.keys]
        keys_by_rank: list[list[str]] = [own_keys]
        if self.world.size > 1:
            keys_by_rank = [[] for _ in range(self.world.size)]
            dist.all_gather_object(keys_by_rank, own_keys)
        keys = [key for keys in keys_by_rank for key in keys]
        raise TrainingError(
            f"the loss of step {step} is {self.last[0]} on {', '.join(keys)}; the last checkpoint is kept. "
            "Lower optim.lr, warm up longer (optim.warmup_steps), or use precision fp32"
        )


class Watch:
    """Images per second and the fraction of time spent waiting for data, since the last time it was asked."""

    def __init__(self, reader: TrainReader, batch_size: int, step: int, clock: Callable[[], float] = time.perf_counter):
        self.reader, self.batch_size, self.clock = reader, batch_size, clock
        self.restart(step)

    def restart(self, step: int) -> None:
        self.step, self.start_s, self.start_wait_s = step, self.clock(), self.reader.wait_s

    def rates(self, step: int) -> dict[str, float]:
        elapsed_s = max(self.clock() - self.start_s, 1e-9)
        images = (step - self.step) * self.batch_size
        waited = min(1.0, (self.reader.wait_s - self.start_wait_s) / elapsed_s)
        self.restart(step)
        return {"train/images_per_s": images / elapsed_s, "train/data_wait_fraction": waited}


def snapshot(
    config: RunConfig,
    manifest: Manifest,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    report: Report,
    run_id: str,
    **more: Any,
) -> Checkpoint:
    """Everything that any training needs to go on from a step, and `more` of one kind."""
    return Checkpoint(
        step=step,
        config=config,
        label_space=manifest.label_space,
        model=to_cpu(model.state_dict()),
        optimizer=to_cpu(optimizer.state_dict()),
        next_micro_batch=step * config.optim.accumulate_steps,
        manifest_digest=manifest.digest,
        run_id=run_id,
        records=report.pending_records(),
        code_version=code_version(),
        rng={"seed": config.seed, "step": step},
        **more,
    )


def restore_states(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Checkpoint) -> None:
    """Raises CheckpointError if what was saved is of another model."""
    try:
        # Rates and weight decay are the configuration's, which a population changes; kernels are this device's.
        pairs = zip(saved.optimizer["param_groups"], optimizer.param_groups, strict=True)
        groups = [theirs | ours | {"params": theirs["params"]} for theirs, ours in pairs]
        model.load_state_dict(saved.model)
        optimizer.load_state_dict({**saved.optimizer, "param_groups": groups})
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint of step {saved.step} does not fit this model: {first_line(error)}"
        ) from None


def to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_cpu(item) for item in value]
    return value
