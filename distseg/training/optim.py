"""Optimisers, their update, and the learning rate: a pure function of the step, so resuming needs only the step."""

import copy
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from distseg.config import OptimConfig
from distseg.errors import CheckpointError


class Trainable(Protocol):
    """What can be optimised: a network that says which parameters are its backbone's and which its heads'."""

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


_Kind = TypeVar("_Kind", bound=Optimizer)


def _not_compiled(kind: type[_Kind]) -> type[_Kind]:
    """`kind`, whose methods do not import torch's compiler, for a second and more, to tell it that it is to leave them.

    They are torch's own methods without their decorators. Of these one matters to a step: it is not differentiated.
    """
    plain: dict[str, Any] = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    }
    plain["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(type[_Kind], type(kind.__name__, (kind,), plain))


SGD, AdamW = _not_compiled(torch.optim.SGD), _not_compiled(torch.optim.AdamW)


def build_optimizer(model: Trainable, config: OptimConfig) -> Optimizer:
    """SGD or AdamW (whose β1 is `momentum`) with the groups 'backbone' and 'head'; the head's rate is scaled.

    Weight decay is on every parameter, batch norm's included, as in the authors' code of PSPNet; without
    `decay_norm_and_bias` parameters of one dimension go to groups of their own, '… without decay'.
    """
    groups = []
    for name, parameters in zip(("backbone", "head"), model.parameter_groups(), strict=True):
        decayed = [p for p in parameters if config.decay_norm_and_bias or p.ndim > 1]
        kept = [p for p in parameters if not config.decay_norm_and_bias and p.ndim <= 1]
        groups += [
            {"params": decayed, "name": name, "weight_decay": config.weight_decay},
            {"params": kept, "name": f"{name} without decay", "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    fused = True  # one pass over memory, not seven: a third of the time. And `Update` needs it on GPUs
    optimizer: Optimizer
    if config.name == "sgd":
        optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    else:
        betas = (config.momentum, 0.999)
        optimizer = AdamW(groups, lr=config.lr, betas=betas, fused=fused)
    if on_cpu:
        order = _MemoryOrder()
        optimizer.register_step_pre_hook(order.turn)
        optimizer.register_step_post_hook(order.turn_back)
    optimizer.register_load_state_dict_post_hook(_lay_out_states)
    set_learning_rate(optimizer, learning_rate(0, config), config)
    return optimizer


class _MemoryOrder:
    """During a step on CPUs, parameters, gradients and states are views whose dimensions are in the order of memory.

    Without this, PyTorch's fused kernels would be wrong and slow. They assume equal strides: a contiguous momentum
    beside a channels_last weight, as after resuming, is silently added to the wrong elements. And they do not know
    channels_last: they copy each such gradient first, which takes as long as the step itself.

    The parameters must stay the same objects, since the network and DistributedDataParallel hold them; so their `.data`
    is exchanged, here and nowhere else. Only the optimiser's step sees the views. If a step fails, the next one first
    turns them back.
    """

    def __init__(self) -> None:
        self._turned: list[tuple[Tensor, list[int]]] = []  # parameters, with the way back

    def turn(self, optimizer: Optimizer, *_: object) -> None:
        self.turn_back(optimizer)  # after a step that failed
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            _lay_out_alike(parameter, optimizer.state.get(parameter, {}))
            strides = parameter.stride()
            order = sorted(range(parameter.ndim), key=strides.__getitem__, reverse=True)
            if order != sorted(order) and not parameter.is_contiguous():
                _permute(optimizer, parameter, order)
                self._turned.append((parameter, [order.index(dim) for dim in range(parameter.ndim)]))

    def turn_back(self, optimizer: Optimizer, *_: object) -> None:
        while self._turned:
            _permute(optimizer, *self._turned.pop())


def _permute(optimizer: Optimizer, parameter: Tensor, order: list[int]) -> None:
    gradient, parameter.grad = parameter.grad, None
    shape = parameter.shape
    parameter.data = parameter.data.permute(order)
    parameter.grad = None if gradient is None else gradient.permute(order)
    state = optimizer.state.get(parameter, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == shape:
            state[name] = value.permute(order)


def _lay_out_states(optimizer: Optimizer) -> None:
    """What was saved may be of a machine with the other layout; fused kernels of GPUs refuse to mix the two."""
    for parameter, state in optimizer.state.items():
        _lay_out_alike(parameter, state)


def _lay_out_alike(parameter: Tensor, state: dict[str, Any]) -> None:
    layout = _layout(parameter)
    if parameter.grad is not None and _layout(parameter.grad) != layout:
        parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape and _layout(value) != layout:
            state[name] = torch.empty_like(parameter).copy_(value)


def _layout(tensor: Tensor) -> list[int]:
    """Strides, without those that never count."""
    return [stride for stride, length in zip(tensor.stride(), tensor.shape, strict=True) if length > 1]


def learning_rate(step: int, config: OptimConfig) -> float:
    """The backbone's rate of step 0 ≤ step < max_steps, by `optim.schedule`, after a linear warm-up.

    0 from max_steps on, never below. During warm-up it is multiplied by (step + 1) / warmup_steps, so that the first
    step already learns.
    """
    left = max(0.0, 1 - step / config.max_steps)
    if not left:
        return 0.0
    share = left**config.poly_power if config.schedule == "poly" else (1 - math.cos(math.pi * left)) / 2
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.lr * warm * share


def ema_decay(num_averaged: int, decay: float) -> float:
    """Of the moving average after so many steps: min(decay, (1 + n) / (10 + n)), as in TensorFlow's; 1/10 at first."""
    return min(decay, (1 + num_averaged) / (10 + num_averaged))


def set_learning_rate(optimizer: Optimizer, lr: float, config: OptimConfig) -> None:
    """Gives the backbone's groups `lr` and the head's `lr` x `head_lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * (config.head_lr_scale if group["name"].startswith("head") else 1.0)


class LossScale:
    """What a loss is multiplied by before its backward pass in fp16, where gradients below 6e-8 would be 0.

    If a gradient overflows, the step is left out and the scale halved; after GROWS_AFTER sound steps it is doubled
    (Micikevicius et al. 2018, "Mixed precision training", sections 3.2 and 4.3). All powers of two, so that nothing is
    rounded. All ranks hold the same gradients, and so the same scale. torch.amp.GradScaler does the same, but waits for
    a GPU with optimisers that are not fused, and knows nothing of buffers.
    """

    FIRST, SMALLEST, LARGEST, GROWS_AFTER = 2.0**16, 1.0, 2.0**24, 2000

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.full((), self.FIRST, device=device)
        self.num_sound = torch.zeros((), device=device)  # steps since it was changed

    @classmethod
    def of(cls, precision: str, device: torch.device) -> "LossScale | None":
        return cls(device) if precision == "fp16" else None

    def undo_(self, gradients: Iterable[Tensor]) -> None:
        inverse = self.factor.reciprocal()
        for gradient in gradients:
            gradient.mul_(inverse)

    def adjust(self, has_overflowed: Tensor) -> Tensor:
        """Whether the step may be tried again with the smaller scale; if not, it is no matter of the scale."""
        is_smaller = has_overflowed & (self.factor > self.SMALLEST)
        grows = ~has_overflowed & (self.num_sound + 1 >= self.GROWS_AFTER) & (self.factor < self.LARGEST)
        self.factor = self.factor * torch.where(is_smaller, 0.5, torch.where(grows, 2.0, 1.0)).to(self.factor)
        self.num_sound = torch.where(has_overflowed | grows, torch.zeros_like(self.num_sound), self.num_sound + 1)
        return is_smaller

    def state(self) -> dict[str, Tensor]:
        return {"factor": self.factor, "num_sound": self.num_sound}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Raises CheckpointError for what is no `state`."""
        try:
            self.factor, self.num_sound = (state[name].to(self.factor).reshape(()) for name in self.state())
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint's loss_scale is damaged ({error}); use an earlier one") from None


class Update:
    """The end of a step: the gradients, which all ranks hold alike, change the weights and their moving average.

    Nothing is changed by gradients whose norm is not finite, nor after a forward pass that left something not finite in
    the buffers (batch norm's statistics): `size`, of both together, is then infinite or NaN. It is read with the
    losses, since reading it here would let a GPU wait for the host in each step. A gradient that has only overflowed in
    fp16 is left out likewise, but does not count in `size`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        clip_norm: float | None = None,
        averaged: "MovingAverage | None" = None,
        scale: LossScale | None = None,
    ) -> None:
        self.model, self.optimizer, self.clip_norm, self.averaged = model, optimizer, clip_norm, averaged
        self.scale = scale
        self.size = torch.zeros(())

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss, scaled where it is to be."""
        (loss if self.scale is None else loss * self.scale.factor).backward()

    def apply(self) -> None:
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.scale is not None:
            self.scale.undo_(gradients)
        norm = nn.utils.get_total_norm(gradients)
        buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        # Without buffers it would be a tensor of the host, whose copy a GPU and the host wait for.
        buffers_norm = nn.utils.get_total_norm(buffers, math.inf).to(norm) if buffers else torch.zeros_like(norm)
        self.size = norm + buffers_norm
        is_bad = ~torch.isfinite(self.size)
        if self.scale is not None:
            self.size = torch.where(self.scale.adjust(~torch.isfinite(norm)), buffers_norm, self.size)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        # The host may look where it does not wait for long: on CPUs, and before the first step, which makes the states.
        if is_bad.device.type == "cpu" or self._makes_states():
            if not is_bad.item():
                self.optimizer.step()
            elif not torch.isfinite(self.size):  # the run ends
                return
        else:
            step_unless(is_bad, self.optimizer)
        if self.averaged is not None:  # after a step that was left out, once more of the weights that did not change
            self.averaged.update(self.model)

    def _makes_states(self) -> bool:
        """Whether the next step is the first one. SGD without momentum never has a state."""
        groups = self.optimizer.param_groups
        return not self.optimizer.state and any(group.get("momentum", True) for group in groups)

    def scale_state(self) -> dict[str, Tensor]:
        """Empty where no loss is scaled."""
        return {} if self.scale is None else self.scale.state()

    def restore_scale(self, state: Mapping[str, Tensor]) -> None:
        """`scale_state` of an earlier step; empty if that was trained in another precision."""
        if self.scale is not None and state:
            self.scale.restore(state)

    def states(self) -> dict[str, Any]:
        """All that a step changes, as a checkpoint names it."""
        averaged = {} if self.averaged is None else self.averaged.module.state_dict()
        return {"model": self.model.state_dict(), "averaged": averaged, "optimizer": self.optimizer.state_dict()}


def step_unless(is_bad: Tensor, optimizer: Optimizer) -> None:
    """A step of a fused optimiser that its kernels leave out if `is_bad` is true, so that the host need not know.

    `found_inf` is how torch.amp.GradScaler tells a fused optimiser the same.
    """
    optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


class MovingAverage:
    """The moving average of the weights and of batch norm's statistics, evaluated instead of them.

    torch.optim.swa_utils.AveragedModel does the same, but copies its count to the device in each step, for which a GPU
    and the host wait for each other.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module, self.decay = copy.deepcopy(model), decay
        self.num_averaged = 0  # steps

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        averages, current = ([*each.parameters(), *each.buffers()] for each in (self.module, model))
        pairs = list(zip(averages, current, strict=True))
        copied = [pair for pair in pairs if not self.num_averaged or not pair[0].is_floating_point()]
        for average, newest in copied:
            average.copy_(newest)
        if self.num_averaged:
            # A constant decay would keep the random weights of the beginning for thousands of steps.
            average_in_place = get_ema_multi_avg_fn(ema_decay(self.num_averaged, self.decay))
            floats = [pair for pair in pairs if pair[0].is_floating_point()]
            average_in_place([average for average, _ in floats], [newest for _, newest in floats], self.num_averaged)
        self.num_averaged += 1


def moving_average(model: nn.Module, decay: float | None) -> MovingAverage | None:
    return None if decay is None else MovingAverage(model, decay)
