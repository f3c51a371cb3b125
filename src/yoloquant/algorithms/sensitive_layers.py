"""Find the layers whose quantization costs most, without labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yoloquant.algorithms.calibrate import Progress, to_input
from yoloquant.algorithms.detection_error import total_error
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.models.layouts import Candidates
from yoloquant.quant.module import FakeQuantize, passing
from yoloquant.quant.network import QuantizedDetector

# Layers measured again after each choice: the others were far behind when each was measured alone.
_SHORTLIST = 8


@dataclass(frozen=True)
class SensitiveLayer:
    """A layer and what keeping it in float gains.

    Attributes:
        name: layer name.
        gain: share of the whole detection error that goes with it, beside those chosen before.
    """

    name: str
    gain: float


def most_sensitive_layers(
    detector: QuantizedDetector, images: Tensor, count: int, least_gain: float = 0.0, progress: Progress | None = None
) -> list[SensitiveLayer]:
    """The weighted layers to keep in float, chosen one after the other: each time the one whose quantizers cost most.

    A layer's quantizers are those of its weight, of its output, and of the inputs that only it reads. First every layer is
    measured alone; then the best few are measured again beside those already chosen.

    Args:
        detector: calibrated.
        images: uint8 `(N, 3, H, W)`, RGB.
        count: layers to choose, at most.
        least_gain: least share of the whole error that a layer must make, 0..1.
        progress: called with (measurements done, all).

    Returns:
        The layers, the costliest first.
    """
    layers = layer_quantizers(detector)
    # One image at a time: its maps stay in the processor's cache, and the allocator need not ask for fresh pages.
    batches = [to_input(image[None]) for image in images]
    measurements = len(layers) + max(0, count - 1) * min(_SHORTLIST, len(layers))
    done = 0

    def error_without(names: set[str]) -> float:
        nonlocal done
        with passing([quantizer for name in names for quantizer in layers[name]]):
            error = total_error(expected, _candidates(detector, batches))
        done += 1
        if progress:
            progress(min(done, measurements), measurements)
        return error

    with passing([quantizer for _, quantizer in detector.quantizers()]):
        expected = _candidates(detector, batches)
    whole = total_error(expected, _candidates(detector, batches))
    errors = {name: error_without({name}) for name in layers}
    chosen: list[SensitiveLayer] = []
    remaining, before = sorted(errors, key=lambda name: errors[name]), whole
    while remaining and len(chosen) < count:
        if chosen:
            names = {layer.name for layer in chosen}
            errors = {name: error_without({*names, name}) for name in remaining[:_SHORTLIST]}
        best = min(errors, key=lambda name: errors[name])
        gain = (before - errors[best]) / max(whole, 1e-12)
        if gain <= 0.0 or gain < least_gain:
            break
        chosen.append(SensitiveLayer(best, gain))
        remaining.remove(best)
        before = errors[best]
    return chosen


def layer_quantizers(detector: QuantizedDetector) -> dict[str, list[FakeQuantize]]:
    """Weighted layer -> the quantizers that would go if it stayed in float."""
    found: dict[str, list[FakeQuantize]] = {}
    for node in detector.network.graph.nodes:
        if kind(node) not in WEIGHTED:
            continue
        own = [source for source in node.all_input_nodes if kind(source) == "quantizer" and len(source.users) == 1]
        own += [user for user in node.users if kind(user) == "quantizer"]
        modules = [detector.network.get_submodule(str(call.target)) for call in own]
        quantizers = [module for module in modules if isinstance(module, FakeQuantize)]
        if any(quantizer.name.endswith("weight_quantizer") for quantizer in quantizers):
            found[layer_name(node)] = quantizers
    return found


def _candidates(detector: QuantizedDetector, batches: list[Tensor]) -> list[Candidates]:
    with torch.inference_mode():
        return [detector.head.candidates(list(detector.network(batch))) for batch in batches]
