"""From training form to deploy form: parallel branches that are linear become the one convolution that computes the same.

A module with such branches has a method `deploy()`, which changes it in place. It is called once, when a network is captured.
"""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from yoloquant.errors import CheckpointError

Part = TypeVar("Part", bound=nn.Module)


def part(owner: nn.Module, path: str, kind: type[Part]) -> Part:
    """A submodule that only some files of a class have, in the kind it must be of.

    Raises:
        CheckpointError: It is of another kind.
    """
    found = owner.get_submodule(path)
    if not isinstance(found, kind):
        raise CheckpointError(f"{path} of a {type(owner).__name__} is a {type(found).__name__}: the checkpoint is damaged")
    return found


def norm_of(owner: nn.Module, path: str) -> nn.BatchNorm2d | None:
    """The BatchNorm at a path, or none where the file was fused."""
    parent, _, name = path.rpartition(".")
    return part(owner, path, nn.BatchNorm2d) if hasattr(owner.get_submodule(parent), name) else None


@runtime_checkable
class Deployable(Protocol):
    """A module with a training form."""

    def deploy(self) -> None:
        """Take the deploy form, in place; nothing happens if it has that already."""


def deploy(network: nn.Module) -> nn.Module:
    """Bring every module of a network into its deploy form, in place, inner modules first."""
    for module in reversed(list(network.modules())):
        if isinstance(module, Deployable):
            module.deploy()
    return network


def folded(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    axis: int = 0,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that computes what convolution and BatchNorm compute (Jacob et al. 2018, eq. 14).

    Args:
        weight: `(O, I, kh, kw)`, or `(I, O, kh, kw)` with `axis` 1.
        bias: `(O,)` or none.
        gamma: BatchNorm's weight, `(O,)`; `beta`, `mean`, `variance` alike.
        beta: BatchNorm's bias.
        mean: Running mean.
        variance: Running variance.
        epsilon: Term added to the variance.
        axis: Axis of the output channels.
    """
    # In float64: the quotient of small variances is where float32 loses digits.
    factor = gamma.double() / torch.sqrt(variance.double() + epsilon)
    shape = [1] * weight.dim()
    shape[axis] = -1
    start = torch.zeros_like(mean) if bias is None else bias
    return (
        (weight.double() * factor.view(shape)).to(weight.dtype),
        (beta.double() + (start.double() - mean.double()) * factor).to(weight.dtype),
    )


def fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Weight `(O, I/groups, kh, kw)` and bias `(O,)` of a convolution and the BatchNorm behind it, in float64."""
    weight = convolution.weight.detach().double()
    bias = None if convolution.bias is None else convolution.bias.detach().double()
    if norm is None:
        return weight, torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias
    return folded(weight, bias, *_statistics(norm), norm.eps)


def identity(norm: nn.BatchNorm2d | None, channels: int, groups: int, kernel: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what a BatchNorm (or nothing) does to its input, in float64.

    Args:
        norm: Normalization; None for the plain identity.
        channels: Number of input and output channels.
        groups: Groups of the convolution.
        kernel: Odd side of the weight.
    """
    weight = torch.zeros(channels, channels // groups, kernel, kernel, dtype=torch.float64)
    index = torch.arange(channels)
    weight[index, index % (channels // groups), kernel // 2, kernel // 2] = 1.0
    if norm is None:
        return weight, torch.zeros(channels, dtype=torch.float64)
    return folded(weight, None, *_statistics(norm), norm.eps)


def padded(weight: Tensor, kernel: int) -> Tensor:
    """A smaller odd kernel in the middle of zeros: it computes the same where the padding of the convolution grows with it."""
    margin = (kernel - weight.shape[-1]) // 2
    return nn.functional.pad(weight, [margin] * 4)


def convolution_like(model: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with the model's stride, padding and groups, and these values."""
    made = nn.Conv2d(
        model.in_channels,
        model.out_channels,
        model.kernel_size,  # type: ignore[arg-type]
        model.stride,  # type: ignore[arg-type]
        model.padding,  # type: ignore[arg-type]
        model.dilation,  # type: ignore[arg-type]
        model.groups,
    )
    made.weight = nn.Parameter(weight.to(model.weight))
    made.bias = nn.Parameter(bias.to(model.weight))
    return made.eval()


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    gamma, beta, mean, variance = (value.detach().double() for value in values)
    return gamma, beta, mean, variance
