"""Find the layers whose quantization costs most, without labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from yoloquant.analysis.detection_error import DetectionCost
from yoloquant.analysis.noise_costs import noise_costs
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.progress import Progress
from yoloquant.quant.fake_quantize import FakeQuantize, passing
from yoloquant.quant.quantized_detector import QuantizedDetector

# What an image of the estimate takes, in forward passes.
_BACKWARD = 4
# Trained YOLOs have detection errors of 0.02 to 0.06 at 8 bits, and lose a few tenths of mAP. Above `LARGE_ERROR` they lose
# points, and it is a handful of layers that cost them: each that makes more than `COSTLY` is worth its time in float.
LARGE_ERROR, COSTLY, MORE_LAYERS = 0.1, 0.01, 4


@dataclass(frozen=True)
class SensitiveLayer:
    """A layer and what keeping it in float gains.

    Attributes:
        name: Layer name.
        gain: Share of the whole detection error that goes with it, in addition to those chosen before.
    """

    name: str
    gain: float


def most_sensitive_layers(
    detector: QuantizedDetector,
    images: Tensor,
    count: int,
    min_gain: float = 0.0,
    progress: Progress | None = None,
    *,
    more: int = 0,
) -> list[SensitiveLayer]:
    """The weighted layers to keep in float: those whose quantizers make the largest shares of the error.

    A layer's quantizers are those of its weight, of its output, and of the inputs that only it reads. What each makes is
    estimated by a backward pass an image; the layers chosen by that are then measured, one more in float each time, and one
    without which the error does not fall stays quantized.

    Args:
        detector: Calibrated detector.
        images: Images, uint8 `(N, 3, H, W)`, RGB.
        count: Maximum number of layers to choose.
        min_gain: Minimum share of the whole error that a layer must make, 0..1.
        progress: Callback, called with (images run, all that will be at most).
        more: Maximum number of further layers to choose, where the whole error is above `LARGE_ERROR`; each must lower it by
            `COSTLY`.

    Returns:
        The layers, the costliest first.
    """
    if count + more == 0:
        return []
    layers = layer_quantizers(detector)
    ahead = _Counter(progress, (_BACKWARD + 2 + min(count, len(layers))) * len(images))
    cost = DetectionCost(detector, images)
    ahead.advance(len(images))

    def error_without(names: Iterable[str]) -> float:
        with passing([quantizer for name in names for quantizer in layers[name]]):
            error = cost()
        ahead.advance(len(images))
        return error

    whole = before = error_without([])
    most = count + (more if whole > LARGE_ERROR else 0)
    if most == 0:
        return []
    costs = noise_costs(detector, images, lambda *_: ahead.advance(_BACKWARD))
    shares = {name: sum(costs[quantizer.name] for quantizer in quantizers) for name, quantizers in layers.items()}
    chosen: list[SensitiveLayer] = []
    for number, name in enumerate(sorted(shares, key=lambda name: -shares[name])[:most]):
        if shares[name] < min_gain:
            break
        error = error_without([*(layer.name for layer in chosen), name])
        if before - error > (0.0 if number < count else COSTLY):
            chosen.append(SensitiveLayer(name, (before - error) / max(whole, 1e-12)))
            before = error
    return chosen


class _Counter:
    """Report progress in images run."""

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
