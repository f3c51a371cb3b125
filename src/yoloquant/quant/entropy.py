"""The range whose quantized histogram tells most about the original one: least Kullback-Leibler divergence.

Migacz 2017, "8-bit inference with TensorRT". Levels are sums of whole bins, so prefix sums give the divergence of a range in
as many operations as it has levels, not bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yoloquant.quant.histogram import Histogram
from yoloquant.spec import TensorSpec

# Ranges tried along each end: every one of 2,048 bins would only tell neighbours apart by noise.
_STEPS = 256


def least_divergence(histogram: Histogram, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    """The range of least divergence.

    A symmetric range is searched on the histogram of absolute values, as TensorRT does; the ends of an asymmetric one are
    searched in turn, the upper first, two rounds.

    Args:
        histogram: with C channels.
        spec: its bits give the number of levels: 2^bits, half of them for absolute values.

    Returns:
        Lower and upper ends, `(C,)` float64.
    """
    low, high = histogram.low.double().clamp(max=0.0), histogram.high.double().clamp(min=0.0)
    ends = [_channel(histogram, channel, spec) for channel in range(len(histogram.counts))]
    found_low, found_high = (torch.tensor(column, dtype=torch.float64) for column in zip(*ends, strict=True))
    return torch.maximum(found_low, low), torch.minimum(found_high, high)


def _channel(histogram: Histogram, channel: int, spec: TensorSpec) -> tuple[float, float]:
    counts, width = histogram.counts[channel], float(histogram.width[channel])
    first, zero = int(histogram.first[channel]), -int(histogram.first[channel])
    if width == 0.0:
        return 0.0, 0.0
    if spec.symmetric:
        above, below = counts[zero:], counts[:zero].flip(0)
        size = max(len(above), len(below))
        whole = _padded(above, size) + _padded(below, size)
        end = _upper_end(whole, 0, 1 << (spec.bits - 1))
        return -end * width, end * width
    levels = 1 << spec.bits
    used = torch.nonzero(counts).flatten()
    start, end = min(int(used[0]), zero), max(int(used[-1]) + 1, zero + 1)
    bottom, top = start, end
    for _ in range(2):
        top = _upper_end(counts[:end], bottom, levels, least=max(zero + 1 - bottom, 1)) if end > zero + 1 else end
        mirrored = counts[start:].flip(0)
        if start < zero:
            bottom = len(counts) - _upper_end(mirrored, len(counts) - top, levels, least=max(top - zero, 1))
    return (first + bottom) * width, (first + top) * width


def _padded(counts: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(counts, (0, size - len(counts)))


def _upper_end(counts: Tensor, start: int, levels: int, least: int = 1) -> int:
    """The end, in bins, of the range of least divergence that begins at bin `start`.

    What lies below `start` counts as if it were in the first bin, for every candidate alike; what lies above an end is added to
    the range's last bin.
    """
    inside = counts[start:].clone()
    inside[0] += counts[:start].sum()
    filled = torch.nonzero(inside).flatten()
    last = int(filled[-1]) + 1 if len(filled) else 1
    lowest = max(min(levels, last), least)
    if lowest >= last:
        return start + last
    ends = torch.linspace(lowest, last, min(_STEPS, last - lowest + 1), dtype=torch.float64).round().long().unique()
    return start + int(ends[divergences(inside[:last], ends, levels).argmin()])


def divergences(counts: Tensor, ends: Tensor, levels: int) -> Tensor:
    """Kullback-Leibler divergence, in nats, of the clipped histogram from its quantized form, for several ranges.

    For a range of the first `e` bins, P is `counts[:e]` with all later counts added to its last bin; Q spreads the counts of
    each of `levels` groups of bins evenly over the group's bins that are not empty (and over the last one, where outliers are).

    Args:
        counts: `(bins,)` float64.
        ends: `(K,)` numbers of bins, at least 1.
        levels: groups, at most; a range of fewer bins has a group for each.

    Returns:
        `(K,)` float64.
    """
    outliers = counts.sum() - counts.cumsum(0)[ends - 1]
    total = counts.sum()
    # Prefix sums, so that any group's sum is a difference.
    zero = torch.zeros(1, dtype=torch.float64)
    mass = torch.cat([zero, counts.cumsum(0)])
    filled = torch.cat([zero, (counts > 0).double().cumsum(0)])
    own = torch.cat([zero, _times_log(counts, counts).cumsum(0)])
    parts = torch.arange(levels + 1, dtype=torch.float64)
    edges = (parts[None] * ends[:, None] / levels).floor().long()
    group_mass, group_filled = mass[edges].diff(dim=1), filled[edges].diff(dim=1)
    last_counts = counts[ends - 1]
    last = last_counts + outliers
    # The group that holds the last bin also carries the outliers in P.
    in_p = group_mass.clone()
    in_p[:, -1] += outliers
    group_filled[:, -1] += ((last_counts == 0) & (outliers > 0)).double()
    entropy = own[ends] - _times_log(last_counts, last_counts) + _times_log(last, last)
    kept = mass[ends]
    # P sums to `total`, Q to what lies inside; both are normalised.
    share = group_mass / group_filled.clamp(min=1.0)
    floor = 1e-9 * total
    cross = _times_log(in_p, share.clamp(min=float(floor))).sum(dim=1)
    divergence = (entropy - cross) / total - torch.log(total) + torch.log(kept.clamp(min=float(floor)))
    # A range that holds no value says nothing about them.
    return torch.where(kept > 0, divergence, torch.inf)


def _times_log(weights: Tensor, values: Tensor) -> Tensor:
    """`weights * log(values)`, 0 where the weight is 0."""
    return torch.where(weights > 0, weights * torch.log(values.clamp(min=torch.finfo(torch.float64).tiny)), 0.0)
