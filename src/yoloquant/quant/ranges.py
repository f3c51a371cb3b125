"""Methods that choose a range from a histogram; each is a function `(histogram, spec, options) -> (low, high)`.

All return `(C,)` float64 tensors and work on all channels at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from yoloquant.quant.histogram import Distribution
from yoloquant.quant.qparams import scale_and_zero_point
from yoloquant.spec import TensorSpec

# What reads quantized values, elementwise.
Reader = Callable[[Tensor], Tensor]

# Errors below this are none. Without it their powers are denormal numbers, which processors compute a hundred times slower.
_LEAST_DIFFERENCE = 1e-7

# Elements of the largest temporary in the searches: 32 MiB of float32.
_BLOCK = 1 << 23


def percentile(histogram: Distribution, low_alpha: float, high_alpha: float) -> tuple[Tensor, Tensor]:
    """Leave `low_alpha` of the negative values below the range and `high_alpha` of the positive ones above it.

    Each side is cut by its own values only, so that a tensor with few negative values does not lose them all.

    Args:
        histogram: Histogram of the values.
        low_alpha: Share of the negative values, 0..1.
        high_alpha: Share of the positive values, 0..1.
    """
    high = _upper_cut(histogram.counts, histogram.centers, histogram.width, high_alpha)
    low = -_upper_cut(histogram.counts.flip(1), -histogram.centers.flip(1), histogram.width, low_alpha)
    return torch.maximum(low, histogram.low.double()), torch.minimum(high, histogram.high.double())


def _upper_cut(counts: Tensor, centers: Tensor, width: Tensor, alpha: float) -> Tensor:
    """Upper edge of the bin that holds the value with `alpha` of the positive values above it; 0 without positive values."""
    positive = torch.where(centers > 0, counts, 0.0)
    above = positive.flip(1).cumsum(1).flip(1)
    kept = (above > alpha * above[:, :1]) & (positive > 0)
    last = torch.where(kept, torch.arange(counts.shape[1]), -1).amax(dim=1)
    edge = centers.gather(1, last.clamp(min=0)[:, None])[:, 0] + width / 2
    return torch.where(last >= 0, edge, 0.0)


def quantization_error(
    histogram: Distribution,
    low: Tensor,
    high: Tensor,
    spec: TensorSpec,
    power: float = 2.0,
    reader: Reader | None = None,
) -> Tensor:
    """Sum of `|f(x) - f(fake_quantize(x))|^power` over the counted values, for several ranges a channel; f is the reader.

    Args:
        histogram: Histogram with C channels.
        low: `(K, C)`, lower ends of K candidate ranges.
        high: `(K, C)`.
        spec: Spec that sets the integers and how a range becomes a scale.
        power: 2 for the squared error.
        reader: Elementwise function that is the only reader of the values; by default the values themselves count.

    Returns:
        `(K, C)` float64.
    """
    scale, zero_point = scale_and_zero_point(low, high, spec)
    centers, counts = histogram.centers.float(), histogram.counts.float()
    expected = centers if reader is None else reader(centers)
    candidates, channels = low.shape
    step = max(1, _BLOCK // max(1, channels * histogram.bins))
    errors = []
    for start in range(0, candidates, step):
        scale_part, zero_part = scale[start : start + step, :, None], zero_point[start : start + step, :, None]
        integers = torch.round(centers / scale_part).add_(zero_part).clamp_(spec.quant_min, spec.quant_max)
        found = integers.sub_(zero_part).mul_(scale_part)
        difference = (found if reader is None else reader(found)).sub_(expected).abs_()
        difference = _power(difference.clamp_(min=_LEAST_DIFFERENCE), power)
        errors.append(difference.mul_(counts).sum(dim=2, dtype=torch.float64))
    return torch.cat(errors)


def _power(values: Tensor, power: float) -> Tensor:
    """`values^power`, in place; squaring is much faster than the general power."""
    if power == 4.0:
        return values.square_().square_()
    return values.square_() if power == 2.0 else values.pow_(power)


def least_error(
    histogram: Distribution,
    spec: TensorSpec,
    power: float = 2.0,
    steps: int = 100,
    least: float = 0.1,
    reader: Reader | None = None,
) -> tuple[Tensor, Tensor]:
    """The range with minimum error: one factor for both ends if symmetric, the ends in turn if not.

    The ends of an asymmetric range are searched by coordinate descent, two rounds: activations after SiLU have a short
    negative side that must stay while the positive side shrinks.

    Args:
        histogram: Histogram of the values.
        spec: Spec of the quantization.
        power: 2 for the squared error; higher weighs outliers more.
        steps: Number of candidates along each end, from `least` to 1 of the observed range.
        least: Minimum share of the range that is tried; below a tenth, shares are spaced evenly in their logarithm.
        reader: Elementwise function that is the only reader of the values. Before a SiLU, which gives next to nothing for a large
            negative value, the negative end is cut far nearer to zero than by the values' own error.
    """
    low, high = histogram.low.double().clamp(max=0.0), histogram.high.double().clamp(min=0.0)
    factors = torch.linspace(least, 1.0, steps, dtype=torch.float64)[:, None]
    if least < 0.1:
        factors = torch.logspace(math.log10(least), 0.0, steps, dtype=torch.float64)[:, None]
    if spec.symmetric:
        index = quantization_error(histogram, factors * low, factors * high, spec, power, reader).argmin(dim=0)
        best = factors[index, 0]
        return best * low, best * high
    best_low, best_high = low, high
    for _ in range(2):
        errors = quantization_error(histogram, best_low.expand(steps, -1), factors * high, spec, power, reader)
        best_high = factors[errors.argmin(dim=0), 0] * high
        errors = quantization_error(histogram, factors * low, best_high.expand(steps, -1), spec, power, reader)
        best_low = factors[errors.argmin(dim=0), 0] * low
    return best_low, best_high


def shrink_both_ends(histogram: Distribution, spec: TensorSpec, steps: int = 80) -> tuple[Tensor, Tensor]:
    """Sparsebit's search: both ends shrunk together by i %, i = 0..steps-1, with the minimum squared error kept."""
    low, high = histogram.low.double().clamp(max=0.0), histogram.high.double().clamp(min=0.0)
    factors = (1.0 - 0.01 * torch.arange(steps, dtype=torch.float64))[:, None]
    index = quantization_error(histogram, factors * low, factors * high, spec).argmin(dim=0)
    best = factors[index, 0]
    return best * low, best * high


def absolute_percentile(histogram: Distribution, share: float) -> tuple[Tensor, Tensor]:
    """The range `-t..t`, within the values seen, that holds `share` of all values by their size (PaddleSlim's `hist`).

    Args:
        histogram: Histogram of the values.
        share: 0..1, for example 0.9999.
    """
    sizes, order = histogram.centers.abs().sort(dim=1)
    below = histogram.counts.gather(1, order).cumsum(dim=1)
    enough = below >= share * below[:, -1:]
    first = enough.long().argmax(dim=1)
    limit = sizes.gather(1, first[:, None])[:, 0] + histogram.width / 2
    return torch.maximum(-limit, histogram.low.double()), torch.minimum(limit, histogram.high.double())


def moment_distance(histogram: Distribution, spec: TensorSpec, steps: int = 100, least: float = 0.1) -> tuple[Tensor, Tensor]:
    """The range that keeps mean and standard deviation best: `|mean - mean_q| + |std - std_q|` (PaddleSlim's `emd`).

    Both ends shrink together.

    Args:
        histogram: Histogram of the values.
        spec: Spec that sets the integers.
        steps: Number of factors to try, from `least` to 1.
        least: Minimum factor.
    """
    low, high = histogram.low.double().clamp(max=0.0), histogram.high.double().clamp(min=0.0)
    factors = torch.linspace(least, 1.0, steps, dtype=torch.float64)
    counts, centers = histogram.counts, histogram.centers
    total = counts.sum(dim=1).clamp(min=1.0)
    mean, deviation = _moments(centers, counts, total)
    distances = []
    for factor in factors:
        scale, zero_point = scale_and_zero_point(factor * low, factor * high, spec)
        wide, zero = scale.double()[:, None], zero_point[:, None]
        values = (torch.round(centers / wide) + zero).clamp(spec.quant_min, spec.quant_max).sub(zero) * wide
        mean_q, deviation_q = _moments(values, counts, total)
        distances.append((mean - mean_q).abs() + (deviation - deviation_q).abs())
    best = factors[torch.stack(distances).argmin(dim=0)]
    return best * low, best * high


def _moments(values: Tensor, counts: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    mean = (values * counts).sum(dim=1) / total
    variance = ((values - mean[:, None]).square() * counts).sum(dim=1) / total
    return mean, variance.sqrt()
