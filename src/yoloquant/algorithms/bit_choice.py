"""Bits for each layer's weights under a budget, so that boxes and scores change as little as possible.

One pass measures what each layer alone costs at each width, without labels; an exact solver then chooses. Costs of layers are
added up, as in HAWQ-V3 (Yao et al. 2021, section 3.4), which solves the same problem by integer programming.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.fx import Node

from yoloquant.analysis.detection_error import DetectionCost
from yoloquant.analysis.sensitivity import sensitivities
from yoloquant.errors import RecipeError
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import kind
from yoloquant.progress import Progress
from yoloquant.quant.fake_quantize import FakeQuantize, passing
from yoloquant.quant.quantized_detector import QuantizedDetector, QuantizedWeight
from yoloquant.spec import TensorSpec

# The width of a layer that is not quantized.
IN_FLOAT = 32


@dataclass(frozen=True)
class LayerChoices:
    """One layer at each width.

    Attributes:
        name: Layer name.
        bits: Widths that may be chosen.
        errors: Detection error with only this layer's weights quantized, for each width.
        costs: Share of the budget that each width takes.
    """

    name: str
    bits: tuple[int, ...]
    errors: tuple[float, ...]
    costs: tuple[int, ...]


def layer_choices(
    detector: QuantizedDetector,
    images: Tensor,
    bits: Sequence[int],
    unit: str = "weight_bytes",
    progress: Progress | None = None,
) -> list[LayerChoices]:
    """Measure every layer with quantized weights at every width.

    Args:
        detector: Calibrated detector.
        images: Images, uint8 `(N, 3, H, W)`, RGB.
        bits: Widths to try.
        unit: Unit of the budget: "weight_bytes", or "bit_operations" (multiplications of an image, each counted with weight bits
            times activation bits).
        progress: Callback, called with (measurements done, all).

    Returns:
        In the graph's order.
    """
    layers = list(detector.quantized_weights())
    error = DetectionCost(detector, images)
    found = []
    with passing([quantizer for _, quantizer in detector.quantizers()]):
        for number, layer in enumerate(layers):
            errors = []
            for index, width in enumerate(bits):
                with _only_at(detector, layer, width):
                    errors.append(error())
                if progress:
                    progress(number * len(bits) + index + 1, len(layers) * len(bits))
            costs = tuple(_cost(detector, layer, width, unit) for width in bits)
            found.append(LayerChoices(layer_name(layer.node), tuple(bits), tuple(errors), costs))
    return found


def float_choices(
    detector: QuantizedDetector,
    images: Tensor,
    times: Mapping[str, tuple[float, float]],
    progress: Progress | None = None,
) -> list[LayerChoices]:
    """Every layer either quantized as it is, or in float, for a budget of time.

    Args:
        detector: Calibrated detector.
        images: Images, uint8 `(N, 3, H, W)`, RGB.
        times: Mapping layer name -> milliseconds in integers, milliseconds in float.
        progress: Callback, called with (measurements done, all).

    Returns:
        In the graph's order; costs are in hundredths of a millisecond, and bits those of the layer's weight, or 32.
    """
    bits = {layer_name(layer.node): layer.quantizer.spec.bits for layer in detector.quantized_weights()}
    cost = DetectionCost(detector, images)
    errors = {result.name: result.cost for result in sensitivities(detector, lambda _: cost(), progress=progress)}
    return [
        LayerChoices(name, (width, IN_FLOAT), (errors[name], 0.0), (round(100 * times[name][0]), round(100 * times[name][1])))
        for name, width in bits.items()
    ]


def choose_bits(layers: Sequence[LayerChoices], budget: float) -> dict[str, int]:
    """The choice of minimum summed error within a budget; exact.

    Dynamic programming over the Pareto front of (cost, error): a partial choice that costs no less and errs no less than another
    can never be part of a better whole.

    Args:
        layers: Costs of each width of each layer.
        budget: Budget in the costs' unit.

    Returns:
        Layer name -> bits.

    Raises:
        RecipeError: Even the cheapest widths cost more than the budget.
    """
    least = sum(min(layer.costs) for layer in layers)
    if least > budget:
        raise RecipeError(f"the budget of {budget:,.0f} cannot be met: with the fewest bits everywhere it takes {least:,.0f}")
    costs, errors = np.zeros(1), np.zeros(1)
    rest = np.cumsum([0, *(min(layer.costs) for layer in reversed(layers))])[::-1]
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for index, layer in enumerate(layers):
        all_costs = (costs[:, None] + np.array(layer.costs)[None]).ravel()
        all_errors = (errors[:, None] + np.array(layer.errors)[None]).ravel()
        origin = np.repeat(np.arange(len(costs)), len(layer.bits))
        choice = np.tile(np.arange(len(layer.bits)), len(costs))
        order = np.lexsort((all_errors, all_costs))
        order = order[all_costs[order] + rest[index + 1] <= budget]
        # Sorted by cost, a choice stays if it errs less than all cheaper ones.
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], all_errors[order][:-1]]))
        order = order[all_errors[order] < best_before]
        costs, errors = all_costs[order], all_errors[order]
        steps.append((origin[order], choice[order]))
    position, chosen = int(np.argmin(errors)), {}
    for layer, (origin, choice) in zip(reversed(layers), reversed(steps), strict=True):
        chosen[layer.name] = layer.bits[choice[position]]
        position = int(origin[position])
    return {layer.name: chosen[layer.name] for layer in layers}


def total_weights(detector: QuantizedDetector) -> int:
    """Number of all quantized weights."""
    return sum(layer.weight.numel() for layer in detector.quantized_weights())


def at_width(spec: TensorSpec, bits: int) -> TensorSpec:
    """A weight spec with other bits; from 8 on, groups become channels: they exist for few bits, and runtimes want no others."""
    changes = {"granularity": "channel", "group_size": 0} if spec.granularity == "group" and bits >= 8 else {}
    return spec.with_changes(bits=bits, **changes)


@contextmanager
def _only_at(detector: QuantizedDetector, layer: QuantizedWeight, bits: int) -> Iterator[None]:
    """Let one layer's weight be quantized with `bits`, in a network whose quantizers pass."""
    other = FakeQuantize(at_width(layer.quantizer.spec, bits), layer.quantizer.name)
    other.observe(layer.weight.detach())
    other.freeze_observer()
    parent, _, leaf = layer.path.rpartition(".")
    owner = detector.network.get_submodule(parent)
    setattr(owner, leaf, other)
    try:
        yield
    finally:
        setattr(owner, leaf, layer.quantizer)


def _cost(detector: QuantizedDetector, layer: QuantizedWeight, bits: int, unit: str) -> int:
    if unit == "weight_bytes":
        return -(-layer.weight.numel() * bits // 8)
    return multiplications(layer.node, layer.weight) * bits * _activation_bits(detector, layer.node)


def multiplications(node: Node, weight: Tensor) -> int:
    """Multiplications of a weighted layer for one image."""
    if kind(node) == "conv_transpose":
        places = node.args[0].meta["val"][0].numel() // weight.shape[0]  # type: ignore[union-attr]
        return int(places * weight.numel())
    outputs = node.meta["val"][0].numel()
    # Every output value is a sum over one output channel's weights, whatever the number of groups.
    return int(outputs * (weight.numel() // weight.shape[0]))


def _activation_bits(detector: QuantizedDetector, node: Node) -> int:
    source = node.args[0]
    if isinstance(source, Node) and kind(source) == "quantizer":
        quantizer = detector.network.get_submodule(str(source.target))
        assert isinstance(quantizer, FakeQuantize)
        return quantizer.spec.bits
    return 32
