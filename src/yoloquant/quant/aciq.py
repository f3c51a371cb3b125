"""Ranges from a formula: the best clipping of a Gaussian or Laplace distribution (ACIQ).

Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for rapid-deployment", section 2.1.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from yoloquant.quant.histogram import Distribution
from yoloquant.spec import TensorSpec


def gaussian_error(clip: float, bits: int) -> float:
    """Expected squared error of a standard normal variable quantized to `2^bits` levels within `-clip..clip` (eq. 6 there)."""
    tail = (1.0 + clip**2) * (1.0 - math.erf(clip / math.sqrt(2.0)))
    return tail - clip * math.sqrt(2.0 / math.pi) * math.exp(-(clip**2) / 2.0) + clip**2 / (3.0 * 4.0**bits)


def laplace_error(clip: float, bits: int) -> float:
    """The same of a Laplace variable with mean absolute value 1 (eq. 5 there)."""
    return 2.0 * math.exp(-clip) + clip**2 / (3.0 * 4.0**bits)


@cache
def best_clip(distribution: str, bits: int) -> float:
    """The clip of minimum error, for "gaussian" in standard deviations, for "laplace" in mean absolute values."""
    error = {"gaussian": gaussian_error, "laplace": laplace_error}[distribution]
    # Golden section: both errors have one minimum.
    low, high, ratio = 0.1, 30.0, (math.sqrt(5.0) - 1.0) / 2.0
    while high - low > 1e-9:
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        if error(first, bits) < error(second, bits):
            high = second
        else:
            low = first
    return (low + high) / 2.0


def aciq(histogram: Distribution, spec: TensorSpec, distribution: str) -> tuple[Tensor, Tensor]:
    """Mean plus and minus the best clip, within the values seen.

    Where nothing is negative, as behind ReLU, the values are taken as one half of a distribution around zero, which leaves each
    side twice the levels (section 2.1.3 there).

    Args:
        histogram: Histogram of the values.
        spec: Spec with the bits; a symmetric one is centred on zero.
        distribution: "gaussian" or "laplace".
    """
    counts, centers = histogram.counts, histogram.centers
    total = counts.sum(dim=1).clamp(min=1.0)
    low, high = histogram.low.double(), histogram.high.double()
    one_sided = low >= 0.0
    centred = one_sided if not spec.symmetric else torch.ones_like(one_sided)
    mean = torch.where(centred, 0.0, (counts * centers).sum(dim=1) / total)
    # Zeros behind ReLU are what was cut off; the half that is left counts alone.
    weights = torch.where(one_sided[:, None] & (centers <= histogram.width[:, None]), 0.0, counts)
    size = weights.sum(dim=1).clamp(min=1.0)
    distance = (centers - mean[:, None]).abs()
    if distribution == "gaussian":
        unit = ((weights * distance.square()).sum(dim=1) / size).sqrt()
    else:
        unit = (weights * distance).sum(dim=1) / size
    half = one_sided & (not spec.symmetric)
    clip = torch.where(half, best_clip(distribution, spec.bits + 1), best_clip(distribution, spec.bits)) * unit
    return torch.maximum(mean - clip, low.clamp(max=0.0)), torch.minimum(mean + clip, high.clamp(min=0.0))
