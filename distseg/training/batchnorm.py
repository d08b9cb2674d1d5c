"""Batch norm over the global batch: call `synchronise(model)` after building it and before DistributedDataParallel.

On GPUs this is torch.nn.SyncBatchNorm. PyTorch has none for CPUs; `SyncBatchNorm2d` below is one, with the parameters
and buffers of nn.BatchNorm2d: one exchange between the ranks in the forward pass and one in the backward pass, with
PyTorch's own fused kernels in between (channels_last and bfloat16 input with float32 parameters are fast).

x_BChw may have another number of values per channel on each rank, as long as there is one. Every rank must run the same
layers in the same order, as for all of torch.distributed. Eval mode and a world of one are plain batch norm.

The exchange is an all-gather of a few kilobytes, not an all-reduce: gloo's takes half as long (one round of its ring
instead of two), the means and deviations can be combined without subtracting large squares, and every rank adds them up
in the same order, so all ranks hold the same bits.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

try:  # not public: torch.compiler.disable without importing the compiler, which takes 1.4 s
    from torch._compile import _disable_dynamo as not_compiled
except ImportError:
    not_compiled = torch.compiler.disable


def synchronise(model: nn.Module, group: dist.ProcessGroup | None = None) -> nn.Module:
    """Makes each nn.BatchNorm2d in `model` use the statistics of the whole group; a world of one needs nothing.

    Parameters and buffers stay the same objects, so optimisers made before remain valid; state dicts keep their keys.
    """
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return model
    if any(parameter.is_cuda for parameter in model.parameters()):
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
        return synchronised
    if type(model) is nn.BatchNorm2d:
        return SyncBatchNorm2d(model, group)
    for name, child in model.named_children():
        setattr(model, name, synchronise(child, group))
    return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose training statistics, running ones included, are those of all ranks of `group` together."""

    def __init__(self, plain: nn.BatchNorm2d, group: dist.ProcessGroup | None) -> None:
        if not plain.affine or not plain.track_running_stats or plain.momentum is None:
            raise ValueError("synchronised batch norm needs affine=True, track_running_stats=True and a momentum")
        super().__init__(plain.num_features, plain.eps, plain.momentum, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.running_mean, self.running_var = plain.running_mean, plain.running_var
        self.num_batches_tracked = plain.num_batches_tracked
        self.train(plain.training)
        self.group = group

    @not_compiled  # the exchange between ranks cannot be traced
    def forward(self, x_BChw: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_BChw)
        y_BChw, mean_C, unbiased_var_C = _Normalise.apply(x_BChw, self.weight, self.bias, self.eps, self.group)
        self._track(mean_C, unbiased_var_C)
        result: Tensor = y_BChw
        return result

    @torch.no_grad()
    def _track(self, mean_C: Tensor, unbiased_var_C: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(unbiased_var_C, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


class _Normalise(torch.autograd.Function):
    """(x, weight, bias) -> y = xhat · weight + bias, mean and unbiased variance; xhat = (x - mean) / sqrt(var + eps).

    Per channel all is computed in the type of the parameters. float64 would be no better: the statistics come from
    kernels that round to this type, and they are combined without subtracting large squares.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = _dense(x)
        mean_C, var_C, count = _global_statistics(x, group)
        y = F.batch_norm(x, mean_C, var_C, weight_C, bias_C, training=False, eps=eps)
        ctx.save_for_backward(x, weight_C, mean_C, var_C)
        ctx.count, ctx.eps, ctx.group = count, eps, group
        unbiased_var_C = var_C * (count / (count - 1))
        ctx.mark_non_differentiable(mean_C, unbiased_var_C)
        ctx.set_materialize_grads(False)
        return y, mean_C, unbiased_var_C

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *unused: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """dx = weight / sqrt(var + eps) · (dy - mean(dy) - xhat · mean(dy · xhat)), the means over all ranks.

        The parameters' gradients are this rank's part: like all others, DistributedDataParallel adds them up.
        """
        x, weight_C, mean_C, var_C = ctx.saved_tensors
        dy = dy.contiguous(memory_format=_memory_format(x))
        dx, dweight_C, dbias_C = _backward_of_constants(dy, x, weight_C, mean_C, var_C, ctx.eps)
        sums_R2C = _gather(torch.cat([dweight_C, dbias_C]), ctx.group)
        means_2C = sums_R2C.sum(0).div_(-ctx.count)
        means_2C.view(2, -1).mul_(weight_C * (var_C + ctx.eps).rsqrt_())
        # The rest, xhat · a + b for each channel, is what the forward kernel computes.
        slope_C, shift_C = means_2C.chunk(2)
        rest = F.batch_norm(x, mean_C, var_C, slope_C, shift_C, training=False, eps=ctx.eps)
        return dx.add_(rest), dweight_C, dbias_C, None, None


def _global_statistics(x: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor, float]:
    """Mean, biased variance and number of values of each channel, of all ranks, from each rank's own.

    Chan, Golub & LeVeque 1983.
    """
    own_mean_C, own_var_C = _own_statistics(x)
    own_count = own_mean_C.new_tensor([x.numel() // x.shape[1]])
    gathered_RN = _gather(torch.cat([own_mean_C, own_var_C, own_count]), group)
    mean_RC, var_RC, count_R1 = gathered_RN.split([x.shape[1], x.shape[1], 1], dim=1)
    counts = count_R1.flatten().tolist()
    count = sum(counts)
    if min(counts) == max(counts):
        mean_C = mean_RC.mean(0)
        return mean_C, torch.addcmul(var_RC, mean_RC - mean_C, mean_RC - mean_C).mean(0), count
    share_R1 = count_R1 / count
    mean_C = (mean_RC * share_R1).sum(0)
    return mean_C, torch.addcmul(var_RC, mean_RC - mean_C, mean_RC - mean_C).mul_(share_R1).sum(0), count


# Into one tensor: half of the CPU time of dist.all_gather, which copies to and from a list. Newer versions rename it.
_gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

# PyTorch documents no call for the two kernels below. Each has a slower documented substitute, in case they go.


def _own_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in float32 or float64."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if not hasattr(torch, "batch_norm_update_stats"):
        var_C, mean_C = torch.var_mean(x.to(dtype), dim=(0, 2, 3), correction=0)
        return mean_C, var_C
    # The kernel computes in the type of the running statistics it is given: these are scratch.
    scratch_2C = torch.zeros(2, x.shape[1], dtype=dtype)
    mean_C, var_C = torch.batch_norm_update_stats(x, scratch_2C[0], scratch_2C[1], 0.0)
    return mean_C, var_C


def _backward_of_constants(
    dy: Tensor, x: Tensor, weight_C: Tensor, mean_C: Tensor, var_C: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dweight, dbias) as if the statistics were constants: dx = weight / sqrt(var + eps) · dy."""
    if hasattr(torch.ops.aten, "native_batch_norm_backward"):
        dx, dweight_C, dbias_C = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight_C, mean_C, var_C, mean_C, var_C, False, eps, [True, True, True]
        )
        return dx, dweight_C, dbias_C
    constants = [t.detach().requires_grad_() for t in (x, weight_C, torch.zeros_like(weight_C))]
    with torch.enable_grad():
        y = F.batch_norm(constants[0], mean_C, var_C, constants[1], constants[2], training=False, eps=eps)
    dx, dweight_C, dbias_C = torch.autograd.grad(y, constants, dy)
    return dx, dweight_C, dbias_C


def _gather(values_N: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """(ranks, N): each rank's values."""
    gathered_RN = values_N.new_empty(dist.get_world_size(group), len(values_N))
    _gather_into(gathered_RN.view(-1), values_N, group=group)
    return gathered_RN


def _dense(x: Tensor) -> Tensor:
    """In one of the two memory formats that the fused kernels know."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _memory_format(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
