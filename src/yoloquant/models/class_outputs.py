"""Convolutions whose outputs are some of the old ones, in a new order, and fresh ones: the class outputs of other classes."""

from __future__ import annotations

import math

import torch
from torch import nn

# For each new output the index of the old one whose weights it keeps; none for a fresh one.
Kept = list[int | None]
# Probability of a class that was never seen.
_PRIOR = 0.01


def renewed(old: nn.Conv2d, rows: Kept) -> nn.Conv2d:
    """A convolution with one output for each row; fresh outputs begin at a probability of 1 percent."""
    made = nn.Conv2d(
        old.in_channels,
        len(rows),
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        groups=old.groups,
    )
    assert made.bias is not None
    with torch.no_grad():
        made.bias.fill_(-math.log((1 - _PRIOR) / _PRIOR))
        for new, row in enumerate(rows):
            if row is not None:
                made.weight[new] = old.weight[row]
                made.bias[new] = 0.0 if old.bias is None else old.bias[row]
    return made


def renew_children(parent: nn.Module, rows: Kept, names: list[str] | None = None) -> None:
    """Replace convolutions that are children of a module by renewed ones.

    Args:
        parent: Module whose children of these names are convolutions.
        rows: Rows as in `renewed`.
        names: Names of the children; all by default.
    """
    for name in names if names is not None else [name for name, _ in parent.named_children()]:
        old = parent.get_submodule(name)
        assert isinstance(old, nn.Conv2d)
        setattr(parent, name, renewed(old, rows))
