"""Synchronized BatchNorm on every device: statistics of the global batch, however unequally ranks share it."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

Module = TypeVar("Module", bound=nn.Module)


class SyncBatchNorm(_BatchNorm):
    """BatchNorm1d/2d over the batch of all ranks, for devices where torch.nn.SyncBatchNorm raises (all but GPUs).

    Ranks count by their number of values, so that unequal and empty batches are exact: outputs, gradients and running
    statistics are those of one process with the whole batch. Per-rank means and sums of squared deviations are merged
    by Chan's formula (Chan, Golub, LeVeque, 1983), never as E[x^2] - E[x]^2. Statistics are float32, or float64 for
    float64 inputs. Training takes one collective forward and one backward; evaluation, and a group of one rank, none.

    Args: those of torch.nn.BatchNorm2d (`num_features`, `eps`, `momentum`, `affine`, `track_running_stats`), whose
    state dict it shares, and `process_group`, the ranks that share a batch, by default all.
    """

    def __init__(self, num_features: int, *args: Any, process_group: dist.ProcessGroup | None = None, **kwargs: Any):
        super().__init__(num_features, *args, **kwargs)
        self.process_group = process_group

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C), (B, C, L) or (B, C, H, W) over all dimensions but C, and over ranks.

        Raises:
            ValueError: in training, the global batch has fewer than two values a channel.
        """
        uses_batch = self.training or not self.track_running_stats
        if not uses_batch or _group_size(self.process_group) == 1:
            return super().forward(x)
        normalised, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps, self.process_group)
        if self.training and self.track_running_stats:
            self._track(mean, var, count)
        return normalised

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Update the running statistics; the variance is the unbiased one, as torch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), factor)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"SyncBatchNorm: shape {tuple(x.shape)} has no channels: give (B, C) or (B, C, ...)")


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias with the mean and variance of all ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = global_statistics(x, group)
        if count <= 1:
            raise ValueError(
                f"SyncBatchNorm: {int(count)} value a channel in the global batch of shape {tuple(x.shape)} a rank: "
                "give at least two, by a larger batch or crop"
            )
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.group = eps, group
        ctx.mark_non_differentiable(mean, var, count)
        if x.numel() == 0:
            return torch.empty_like(x), mean, var, count
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """With xhat = (x - mean) * s and N values in all: dx = weight * s * (dy - sum(dy)/N - xhat * sum(dy xhat)/N).

        The gradients of weight and bias are this rank's sums: DDP adds those of the others.
        """
        x, weight, mean, var, count = ctx.saved_tensors
        inverse = torch.rsqrt(var + ctx.eps)  # (C)
        grad_x, grad_weight, grad_bias = _local_backward(grad, x, weight, mean, var, inverse, ctx.eps)
        sums = torch.cat([grad_bias, grad_weight])  # (2C)
        dist.all_reduce(sums, group=ctx.group)
        mean_grad, mean_grad_xhat = (sums / count).chunk(2)
        gain = inverse if weight is None else inverse * weight.to(inverse.dtype)
        if x.numel() > 0:
            grad_x += F.batch_norm(x, mean, var, -gain * mean_grad_xhat, -gain * mean_grad, eps=ctx.eps)
        if weight is None:
            return grad_x, None, None, None, None
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None


def _local_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, var: Tensor, inverse: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight * s * dy, sum(dy * xhat) and sum(dy) of this rank, the statistics taken as constant."""
    if x.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(mean), torch.zeros_like(mean)
    weight = torch.ones_like(mean) if weight is None else weight
    return torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, mean, var, mean, inverse, False, eps, [True, True, True]
    )


def global_statistics(x: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the statistics of all ranks' x of shape (B, C, ...): mean (C), biased variance (C), values a channel ()."""
    num_channels = x.shape[1]
    count = x.numel() // num_channels
    mean, var = _local_statistics(x)
    mine = torch.cat([mean, var * count, mean.new_full((1,), count)])  # (2C + 1)
    everyone = mine.new_empty(_group_size(group), len(mine))
    dist.all_gather(list(everyone), mine, group=group)
    means, deviations, counts = everyone.split([num_channels, num_channels, 1], dim=1)  # (W, C), (W, C), (W, 1)
    total = counts.sum()
    mean = (counts * means).sum(dim=0) / total.clamp(min=1)
    deviation = (deviations + counts * (means - mean).square()).sum(dim=0)
    return mean, deviation / total.clamp(min=1), total


def _local_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (C) of one rank's x, zeros where it is empty."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    zeros = x.new_zeros(x.shape[1], dtype=dtype)
    if x.numel() == 0:
        return zeros, zeros
    if x.device.type == "cpu":
        # BatchNorm's own kernel is 3 to 20 times as fast as var_mean; the statistics it updates set its precision.
        return torch.batch_norm_update_stats(x, zeros, torch.zeros_like(zeros), 0.0)
    var, mean = torch.var_mean(x.to(dtype), dim=[0, *range(2, x.dim())], correction=0)
    return mean, var


def convert_sync_batchnorm(model: Module, process_group: dist.ProcessGroup | None = None) -> Module:
    """Replace every BatchNorm by a synchronized one, keeping parameters, statistics and names.

    A model on GPUs gets torch's own SyncBatchNorm, any other this module's. Convert after moving the model to its
    device and before wrapping it in DDP.

    Returns:
        The model itself, or the new layer where the model is a BatchNorm.
    """
    if any(parameter.is_cuda for parameter in model.parameters()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model, process_group)
    return _convert(model, process_group)


def _convert(module: Any, process_group: dist.ProcessGroup | None) -> Any:
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        return _synchronized(module, process_group)
    for name, child in module.named_children():
        setattr(module, name, _convert(child, process_group))
    return module


def _synchronized(layer: _BatchNorm, process_group: dist.ProcessGroup | None) -> SyncBatchNorm:
    sync = SyncBatchNorm(
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
        process_group=process_group,
    )
    # The same tensors, so that an optimizer built before the conversion still holds the model's parameters.
    sync._parameters = layer._parameters
    sync._buffers = layer._buffers
    return sync.train(layer.training)


def _group_size(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
