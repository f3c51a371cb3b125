"""Scales at which Hardswish can be computed on integers.

Hardswish is `x * clip(x + 3, 0, 6) / 6`. Where the scale of x is `3 / k` with an integer k, adding 3 is adding k to an
integer, and the gate needs no rounding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from yoloquant.graph.operators import aten
from yoloquant.graph.sizes import readers
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.quantized_detector import QuantizedDetector

# Hardswish is 0 up to -3, and x from 3 on.
REACH = 3.0
_TOLERANCE = 1e-5


def gate_steps(scale: float) -> int | None:
    """The k of a scale `3 / k`, at least 1; none for any other scale.

    Args:
        scale: Scale of the values before a Hardswish, positive.
    """
    steps = round(REACH / scale)
    return steps if steps >= 1 and abs(steps * scale - REACH) <= _TOLERANCE * REACH else None


@torch.no_grad()
def fit_hardswish(detector: QuantizedDetector) -> list[str]:
    """Let the range of values that Hardswish alone reads begin at -3, and its scale divide 3, in place.

    Below -3 Hardswish is 0, so nothing is lost there; the range still reaches as high as before. Scales that are powers of two,
    symmetric ranges, and ranges so wide that -3 is less than a step away from 0 stay as they are.

    Args:
        detector: Detector whose scales are frozen.

    Returns:
        Names of the quantizers that were changed.
    """
    changed = []
    for quantizer in _before_hardswish(detector):
        spec = quantizer.spec
        if spec.symmetric or spec.power_of_two or spec.granularity != "tensor":
            continue
        scale, zero = float(quantizer.scale), int(quantizer.zero_point)
        high = (spec.quant_max - zero) * scale
        # Rounded down, so that the range reaches at least as high; a scale that was fitted before stays the same.
        steps = int(REACH * (spec.quant_max - spec.quant_min) / (high + REACH) + _TOLERANCE)
        fitted = spec.quant_min + steps
        if steps and (gate_steps(scale), zero) != (steps, fitted):
            quantizer.set_parameters(torch.tensor(REACH / steps), torch.tensor(fitted, dtype=torch.int32))
            changed.append(quantizer.name)
    return changed


def _before_hardswish(detector: QuantizedDetector) -> Iterator[FakeQuantize]:
    """Quantizers of whose values every one is read by Hardswish alone."""
    for quantizer, calls in detector.quantizer_calls().items():
        reading = [reader for call in calls for reader in readers(call)]
        if reading and all(reader.target is aten.hardswish.default for reader in reading):
            yield quantizer
