"""Scales at which Hardswish can be computed on integers.

Hardswish is `x * clip(x + 3, 0, 6) / 6`. Where the scale of x is `3 / k` with an integer k, adding 3 is adding k to an
integer, and the gate needs no rounding of its own.
"""

from __future__ import annotations

import torch
from torch.fx import Node

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
        scale: of the values before a Hardswish, positive.
    """
    steps = round(REACH / scale)
    return steps if steps >= 1 and abs(steps * scale - REACH) <= _TOLERANCE * REACH else None


@torch.no_grad()
def fit_hardswish(detector: QuantizedDetector) -> list[str]:
    """Let the range of values that Hardswish alone reads begin at -3, and its scale divide 3, in place.

    Below -3 Hardswish is 0, so nothing is lost there; the range still reaches as high as before. Scales that are powers of two,
    symmetric ranges, and ranges so wide that -3 is less than a step away from 0 stay as they are.

    Args:
        detector: whose scales are frozen.

    Returns:
        Names of the quantizers that were changed.
    """
    changed = []
    for name, quantizer in _before_hardswish(detector).items():
        spec = quantizer.spec
        if spec.symmetric or spec.power_of_two or spec.granularity != "tensor":
            continue
        scale, zero = float(quantizer.scale), int(quantizer.zero_point)
        high = (spec.quant_max - zero) * scale
        # Rounded down, so that the range reaches at least as high; a scale that was fitted before stays the same.
        steps = int(REACH * (spec.quant_max - spec.quant_min) / (high + REACH) + _TOLERANCE)
        fitted = (REACH / steps, spec.quant_min + steps) if steps else (scale, zero)
        if (gate_steps(scale), zero) != (steps or None, fitted[1]):
            quantizer.set_parameters(torch.tensor(fitted[0]), torch.tensor(fitted[1], dtype=torch.int32))
            changed.append(name)
    return changed


def _before_hardswish(detector: QuantizedDetector) -> dict[str, FakeQuantize]:
    """Quantizers of activations by name, of those whose every value is read by Hardswish alone."""
    calls: dict[str, list[Node]] = {}
    for node in detector.network.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    found = {}
    for path, nodes in calls.items():
        quantizer = detector.network.get_submodule(path)
        reading = [reader for node in nodes for reader in readers(node)]
        if isinstance(quantizer, FakeQuantize) and reading and all(r.target is aten.hardswish.default for r in reading):
            found[quantizer.name] = quantizer
    return found
