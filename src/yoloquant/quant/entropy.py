"""The range of minimum Kullback-Leibler divergence between a histogram and its quantized form.

Migacz 2017, "8-bit inference with TensorRT", with the details of NVIDIA's own calibrators (`pytorch-quantization`,
`calib/histogram.py`): the bin at zero, which ReLU and padding fill, is replaced by its neighbour before anything else; ranges
begin at a sixteenth of the bins; a range whose last bin is empty although values lie above it is no candidate; of equal
divergences the widest range is taken. Levels are sums of whole bins, so prefix sums give the divergence of a range in as many
operations as it has levels, not bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yoloquant.quant.histogram import Histogram
from yoloquant.spec import TensorSpec

# Ranges tried. Of every one of 2,048 bins some have a minimum to themselves, because a spike of the distribution, such as what
# the padding of images becomes, is their last bin: trying all cost eighteen times the detection error in a YOLOv6n.
STEPS = 256

# The share of the bins at which ranges begin: 128 of 2,048.
NARROWEST = 1 / 16


def least_divergence(
    histogram: Histogram, spec: TensorSpec, steps: int = STEPS, narrowest: float = NARROWEST, *, keep_zeros: bool = False
) -> tuple[Tensor, Tensor]:
    """The range of minimum divergence.

    A symmetric range is searched over the histogram of absolute values, as TensorRT does; the ends of an asymmetric one, which
    TensorRT does not have, are searched in turn, the upper first, two rounds.

    Args:
        histogram: Histogram with C channels; of absolute values or of signed ones if the spec is symmetric.
        spec: Spec whose bits give the number of levels: 2^bits, half of them for absolute values.
        steps: Number of ranges to try, evenly spread; the number of bins tries all.
        narrowest: Share of the bins, 0..1, that every range has at least.
        keep_zeros: Whether the bin at zero counts as it is.

    Returns:
        Lower and upper ends, `(C,)` float64.
    """
    low, high = histogram.low.double().clamp(max=0.0), histogram.high.double().clamp(min=0.0)
    ends = [
        _channel(histogram, channel, spec, steps, narrowest, keep_zeros=keep_zeros) for channel in range(len(histogram.counts))
    ]
    found_low, found_high = (torch.tensor(column, dtype=torch.float64) for column in zip(*ends, strict=True))
    if spec.symmetric:
        limit = torch.minimum(found_high, torch.maximum(-low, high))
        return -limit, limit
    return torch.maximum(found_low, low), torch.minimum(found_high, high)


def _channel(
    histogram: Histogram, channel: int, spec: TensorSpec, steps: int, narrowest: float, *, keep_zeros: bool
) -> tuple[float, float]:
    width = float(histogram.width[channel])
    if width == 0.0:
        return 0.0, 0.0
    counts, first, zero = histogram.counts[channel], int(histogram.first[channel]), -int(histogram.first[channel])
    if spec.symmetric:
        counts, zero = _folded(counts, zero), 0
    if not keep_zeros:
        counts = _without_zeros(counts, zero)
    if spec.symmetric:
        end = _upper_end(counts, 0, 1 << (spec.bits - 1), steps, narrowest)
        return -end * width, end * width
    bottom, top = _asymmetric_ends(counts, zero, 1 << spec.bits, steps, narrowest)
    return (first + bottom) * width, (first + top) * width


def _folded(counts: Tensor, zero: int) -> Tensor:
    """Counts of absolute values."""
    above, below = counts[zero:], counts[:zero].flip(0)
    size = max(len(above), len(below))
    return _padded(above, size) + _padded(below, size)


def _padded(counts: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(counts, (0, size - len(counts)))


def _without_zeros(counts: Tensor, zero: int) -> Tensor:
    """The counts with the bin at zero replaced by its neighbour; unchanged if nothing else would be left."""
    replaced = counts.clone()
    replaced[zero] = counts[zero + 1] if zero + 1 < len(counts) else counts[zero - 1]
    return replaced if replaced.any() else counts


def _asymmetric_ends(counts: Tensor, zero: int, levels: int, steps: int, narrowest: float) -> tuple[int, int]:
    used = torch.nonzero(counts).flatten()
    start, end = min(int(used[0]), zero), max(int(used[-1]) + 1, zero + 1)
    bottom, top = start, end
    for _ in range(2):
        if end > zero + 1:
            top = _upper_end(counts[:end], bottom, levels, steps, narrowest, least=max(zero + 1 - bottom, 1))
        mirrored = counts[start:].flip(0)
        if start < zero:
            bottom = len(counts) - _upper_end(mirrored, len(counts) - top, levels, steps, narrowest, least=max(top - zero, 1))
    return bottom, top


def _upper_end(counts: Tensor, start: int, levels: int, steps: int, narrowest: float, least: int = 1) -> int:
    """The end, in bins, of the range of minimum divergence that begins at bin `start`.

    What lies below `start` counts as if it were in the first bin, for every candidate alike; what lies above an end is added to
    the range's last bin.
    """
    inside = counts[start:].clone()
    inside[0] += counts[:start].sum()
    filled = torch.nonzero(inside).flatten()
    last = int(filled[-1]) + 1 if len(filled) else 1
    lowest = max(min(int(len(counts) * narrowest), last), least)
    if lowest >= last:
        return start + last
    ends = torch.linspace(lowest, last, min(steps, last - lowest + 1), dtype=torch.float64).round().long().unique()
    found = divergences(inside[:last], ends, levels)
    return start + int(ends[torch.nonzero(found == found.min()).flatten()[-1]])


def divergences(counts: Tensor, ends: Tensor, levels: int) -> Tensor:
    """Kullback-Leibler divergence, in nats, of the clipped histogram from its quantized form, for several ranges.

    For a range of the first `e` bins, P is `counts[:e]` with all later counts added to its last bin; Q spreads the counts of
    each of `levels` groups of bins evenly over the group's bins that are not empty. Bin `b` is in group `floor(b * levels / e)`.

    Args:
        counts: `(bins,)` float64.
        ends: `(K,)` numbers of bins, at least 1.
        levels: Number of groups; in a range of fewer bins some are empty.

    Returns:
        `(K,)` float64; infinite where a range's last bin is empty and values lie above it, since Q is 0 there and P is not.
    """
    outliers = counts.sum() - counts.cumsum(0)[ends - 1]
    total = counts.sum()
    # Prefix sums, so that any group's sum is a difference.
    zero = torch.zeros(1, dtype=torch.float64)
    mass = torch.cat([zero, counts.cumsum(0)])
    filled = torch.cat([zero, (counts > 0).double().cumsum(0)])
    own = torch.cat([zero, _times_log(counts, counts).cumsum(0)])
    # The first bin of each group: the smallest b with b * levels >= k * e.
    edges = (torch.arange(levels + 1)[None] * ends[:, None] + levels - 1) // levels
    group_mass, group_filled = mass[edges].diff(dim=1), filled[edges].diff(dim=1)
    last_counts = counts[ends - 1]
    last = last_counts + outliers
    # The group that holds the last bin also carries the outliers in P.
    in_p = group_mass.clone()
    last_group = ((ends - 1) * levels // ends)[:, None]
    in_p.scatter_add_(1, last_group, outliers[:, None])
    entropy = own[ends] - _times_log(last_counts, last_counts) + _times_log(last, last)
    kept = mass[ends]
    # P sums to `total`, Q to what lies inside; both are normalised.
    share = group_mass / group_filled.clamp(min=1.0)
    floor = 1e-9 * total
    cross = _times_log(in_p, share.clamp(min=float(floor))).sum(dim=1)
    divergence = (entropy - cross) / total - torch.log(total) + torch.log(kept.clamp(min=float(floor)))
    # A range that holds no value says nothing about them.
    return torch.where((kept > 0) & ~((last_counts == 0) & (outliers > 0)), divergence, torch.inf)


def _times_log(weights: Tensor, values: Tensor) -> Tensor:
    """`weights * log(values)`, 0 where the weight is 0."""
    return torch.where(weights > 0, weights * torch.log(values.clamp(min=torch.finfo(torch.float64).tiny)), 0.0)
