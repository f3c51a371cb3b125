"""Find the layers whose quantization costs most, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from yoloquant.algorithms.calibrate import Progress
from yoloquant.algorithms.detection_error import DetectionCost
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.quant.module import FakeQuantize, passing
from yoloquant.quant.network import QuantizedDetector

# Of so many images one serves the first pass, which only has to find the few layers that may matter.
_FIRST_PASS = 3
# Layers that the second pass measures with all images: the others were far behind.
_SHORTLIST = 6


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
    measured alone on a third of the images; then the best few are measured on all of them, beside those already chosen.

    Args:
        detector: calibrated.
        images: uint8 `(N, 3, H, W)`, RGB.
        count: layers to choose, at most.
        least_gain: least share of the whole error that a layer must make, 0..1.
        progress: called with (images run, all that will be at most).

    Returns:
        The layers, the costliest first.
    """
    layers = layer_quantizers(detector)
    cost = DetectionCost(detector, images)
    few, everyone = range(0, len(images), _FIRST_PASS), range(len(images))
    ahead = _Counter(progress, len(layers) * len(few) + _second_pass(count, len(layers)) * len(everyone))

    def error_without(names: Iterable[str], chosen_images: Sequence[int]) -> float:
        with passing([quantizer for name in names for quantizer in layers[name]]):
            error = cost(chosen_images)
        ahead.advance(len(chosen_images))
        return error

    alone = {name: error_without([name], few) for name in layers}
    remaining = sorted(alone, key=lambda name: alone[name])[:_SHORTLIST]
    whole = before = error_without([], everyone)
    chosen: list[SensitiveLayer] = []
    while remaining and len(chosen) < count:
        names = [layer.name for layer in chosen]
        errors = {name: error_without([*names, name], everyone) for name in remaining}
        best = min(errors, key=lambda name: errors[name])
        gain = (before - errors[best]) / max(whole, 1e-12)
        if gain <= 0.0 or gain < least_gain:
            break
        chosen.append(SensitiveLayer(best, gain))
        remaining.remove(best)
        before = errors[best]
    return chosen


def _second_pass(count: int, layers: int) -> int:
    """Measurements with all images, at most."""
    shortlist = min(_SHORTLIST, layers)
    return 1 + sum(shortlist - done for done in range(min(count, shortlist)))


class _Counter:
    """Tells progress in images run."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def advance(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(min(self._done, self._total), self._total)


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
        if any(quantizer.of_weight for quantizer in quantizers):
            found[layer_name(node)] = quantizers
    return found
