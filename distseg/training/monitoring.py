"""The watch on the losses and on the speed of a training."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distseg import metric_names, stopping
from distseg.data.loading import Batch, TrainReader
from distseg.errors import TrainingError
from distseg.evaluation import World
from distseg.training import checkpoint
from distseg.training.optim import Update
from distseg.training.process import HostCopy


class _Pending(NamedTuple):
    """The losses of one step and the size of its gradient, not yet checked for NaN."""

    step: int
    names: tuple[str, ...]
    own_P: HostCopy  # this rank's parts of the losses, the gradient's size, and 1 or 0: asked to end, and to save
    total_P: HostCopy  # the sum over all ranks
    micro_batches: Sequence[Batch]


class LossMonitor:
    """Adds the losses up over the ranks and stops the training on the first that is not finite.

    It stops likewise at the first gradient that is not finite, which has changed nothing.

    With them goes whether somebody has asked a rank to end or to save (distseg.stopping), so that all ranks do so at
    the same step.

    The sum of one step is looked at when the next one has been queued, so that a GPU never waits for the host; `check`
    looks at once, and is called before anything is reported or saved.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.pending: _Pending | None = None
        self.newest: dict[str, float] = {}
        self.is_stopping = False  # a rank was asked to end; the same on all ranks
        self.is_announced = False  # a rank may be lost soon, and nothing was saved since; likewise

    def add(self, step: int, losses: Mapping[str, Tensor], size: Tensor, micro_batches: Sequence[Batch]) -> None:
        """This rank's parts of the losses of a step, the main loss first, and `Update.size`."""
        self.check()
        parts = [part.detach().to(torch.float64) for part in (*losses.values(), size)]
        asked = (stopping.is_requested(), stopping.take_announcement())
        own_P = torch.stack([*parts, *(torch.full_like(parts[0], float(each)) for each in asked)])
        total_P = self.world.sum(own_P.clone())
        self.pending = _Pending(step, tuple(losses), HostCopy(own_P), HostCopy(total_P), micro_batches)

    def check(self) -> dict[str, float]:
        """The newest step's losses by name, on every rank. Raises TrainingError if they are not finite."""
        if self.pending is None:
            return self.newest
        pending, self.pending = self.pending, None
        total_P = pending.total_P.wait()
        *totals, _, num_asked, num_announced = total_P.tolist()
        self.newest = dict(zip(pending.names, totals, strict=True))
        self.is_stopping |= num_asked > 0
        self.is_announced |= num_announced > 0
        if not torch.isfinite(total_P).all():
            self._stop(pending)
        return self.newest

    def _stop(self, pending: _Pending) -> None:
        total_P, own_P = pending.total_P.wait(), pending.own_P.wait()
        is_loss = not torch.isfinite(total_P[:-3]).all()
        own_P = own_P[:-3] if is_loss else own_P[-3:]
        keys = self._keys([] if torch.isfinite(own_P).all() else pending.micro_batches)
        loss, size = total_P[0].item(), total_P[-3].item()
        if is_loss:
            raise _diverged(f"the loss of step {pending.step} is {loss} on {keys}")
        raise _diverged(f"the gradient of the loss of step {pending.step} is {size} on {keys}, the loss {loss:.4g}")

    def check_states(self, step: int, update: Update, micro_batches: Sequence[Batch]) -> None:
        """Raises TrainingError, on every rank, if what the step made is not finite and so must not be saved."""
        found = next(filter(None, self.world.gather(checkpoint.first_not_finite(update.states()))), None)
        if found is not None:
            raise _diverged(
                f"{found.name} after the loss of step {step} is {found.value} on {self._keys(micro_batches)}"
            )

    def _keys(self, own: Sequence[Batch]) -> str:
        """Of all ranks' samples."""
        own_keys = [key for batch in own for key in batch.keys]
        return ", ".join(key for keys in self.world.gather(own_keys) for key in keys)


def _diverged(what: str) -> TrainingError:
    return TrainingError(
        f"{what}; the last checkpoint is kept. Lower optim.lr, warm up longer (optim.warmup_steps), or use precision "
        "fp32 if it is another"
    )


class Throughput:
    """Images per second and the fraction of time spent waiting for data, since the last time it was asked."""

    def __init__(self, reader: TrainReader, batch_size: int, step: int, clock: Callable[[], float] = time.perf_counter):
        self.reader, self.batch_size, self.clock = reader, batch_size, clock
        self.restart(step)

    def restart(self, step: int) -> None:
        self.step, self.start_s, self.start_wait_s = step, self.clock(), self.reader.wait_s

    def rates(self, step: int) -> dict[str, float]:
        """By the names under which they are logged; starts anew from `step`."""
        elapsed_s = max(self.clock() - self.start_s, 1e-9)
        images = (step - self.step) * self.batch_size
        waited = min(1.0, (self.reader.wait_s - self.start_wait_s) / elapsed_s)
        self.restart(step)
        return {metric_names.IMAGES_PER_S: images / elapsed_s, metric_names.DATA_WAIT_FRACTION: waited}
