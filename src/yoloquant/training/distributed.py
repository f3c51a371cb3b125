"""Training in several processes: BatchNorm over the whole batch, and gradients summed over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yoloquant.distributed import process_count, sum_over_processes


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, for CPUs, where torch has none."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same shape; all processes must hold as many images."""
        if not self.training or process_count() == 1:
            return super().forward(x)
        x = x.float()
        mean = _mean_over_processes(x.mean((0, 2, 3)))
        centered = x - mean.view(1, -1, 1, 1)
        variance = _mean_over_processes(centered.square().mean((0, 2, 3)))
        self._follow(mean.detach(), variance.detach(), x.numel() // x.shape[1] * process_count())
        factor = self.weight * torch.rsqrt(variance + self.eps)
        return centered * factor.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; the variance that is kept is the unbiased one."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)


class _Sum(torch.autograd.Function):
    """A sum over processes; each gets the sum of what all think of it."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        return sum_over_processes(value)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return sum_over_processes(gradient)


def _mean_over_processes(value: Tensor) -> Tensor:
    """Differentiable, unlike `yoloquant.distributed.sum_over_processes`."""
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]  # untyped in torch
    return total / process_count()


def distribute(network: nn.Module, device: torch.device) -> nn.Module:
    """A network that trains in step with those of the other processes; with one process, the network itself.

    Its BatchNorm layers are replaced, in place; parameters and their names stay.
    """
    if process_count() == 1:
        return network
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    else:
        _replace_norms(network)
    # Some networks carry branches that do not answer, the same in every step.
    devices = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(network, device_ids=devices, static_graph=True)


def _replace_norms(network: nn.Module) -> None:
    for name, child in network.named_children():
        if type(child) is nn.BatchNorm2d:
            made = SynchronizedBatchNorm(child.num_features, child.eps, child.momentum)
            made.weight, made.bias = child.weight, child.bias
            made.running_mean, made.running_var = child.running_mean, child.running_var
            made.num_batches_tracked = child.num_batches_tracked
            setattr(network, name, made)
        else:
            _replace_norms(child)


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Make each gradient the sum of all processes' gradients, in place.

    For what DistributedDataParallel cannot wrap: a captured network that objectives run node by node, and whose scales stop
    learning in the middle of a run. All goes in one message.
    """
    if process_count() == 1:
        return
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    # How many processes have a gradient at all, since without one an optimizer leaves a parameter alone.
    counts = torch.tensor([float(one.grad is not None) for one in parameters], device=gradients[0].device)
    sums = sum_over_processes(torch.cat([*(gradient.reshape(-1) for gradient in gradients), counts]))
    *parts, counts = sums.split([*(gradient.numel() for gradient in gradients), len(gradients)])
    for parameter, gradient, part, count in zip(parameters, gradients, parts, counts.tolist(), strict=True):
        parameter.grad = gradient.copy_(part.view(gradient.shape)) if count else None
