"""Weight ranges by the error at the layer's output instead of the error of the weights.

The error of a weight is multiplied by its input. Where a channel of inputs is nearly dead, as behind BatchNorms of tiny variance
that re-parameterised RepVGG blocks fold into huge weights, an outlier's error hardly matters, and a range that holds the outlier
costs all the others. So each weight counts with the mean square of its input: to first order, that is the output's squared error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from yoloquant.algorithms.calibrate import Progress, to_input
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, group_count, kind
from yoloquant.quant import ranges
from yoloquant.quant.histogram import SortedValues
from yoloquant.quant.module import passing
from yoloquant.quant.network import QuantizedDetector
from yoloquant.quant.observers import rows
from yoloquant.quant.parameters import scale_and_zero_point

# Ranges tried, and the smallest: an outlier may be a thousand times as large as the other weights.
_STEPS, _LEAST = 200, 0.001


def choose_weight_ranges(
    detector: QuantizedDetector, batches: Iterable[Tensor], total: int = 0, progress: Progress | None = None
) -> dict[str, float]:
    """Set the scale of every quantized weight to the range of least squared error at the output, in place.

    Args:
        detector: calibrated.
        batches: images, uint8 `(N, 3, H, W)`, RGB.
        total: number of batches, for `progress`.
        progress: called with (batches done, total).

    Returns:
        Layer name -> scale's geometric mean now over that before; 1 where nothing changed.
    """
    powers = input_powers(detector, batches, total, progress)
    changes: dict[str, float] = {}
    for node, quantizer, weight, _ in detector.quantized_weights():
        if node not in powers:
            continue
        counts = _per_weight(powers[node], weight.detach(), group_count(node))
        before = quantizer.scale
        values = SortedValues(rows(weight.detach(), quantizer.spec), rows(counts, quantizer.spec))
        low, high = ranges.least_error(values, quantizer.spec, steps=_STEPS, least=_LEAST)
        scale, zero_point = scale_and_zero_point(low, high, quantizer.spec)
        quantizer.set_parameters(scale.view(before.shape), zero_point.view(before.shape))
        changes[layer_name(node)] = float((quantizer.scale / before).log().mean().exp())
    return changes


def input_powers(
    detector: QuantizedDetector, batches: Iterable[Tensor], total: int = 0, progress: Progress | None = None
) -> dict[Node, Tensor]:
    """Weighted node with a quantized weight -> mean square of each input channel, `(I,)`, in the float network."""
    recorder = _Powers(detector.network)
    count = 0
    with torch.no_grad(), passing([quantizer for _, quantizer in detector.quantizers()]):
        for count, images in enumerate(batches, start=1):
            recorder.run(to_input(images))
            if progress:
                progress(count, max(total, count))
    return {node: total_power / max(count, 1) for node, total_power in recorder.powers.items()}


class _Powers(Interpreter):
    """Runs a network and adds up the mean squares of weighted layers' inputs."""

    def __init__(self, network: GraphModule) -> None:
        super().__init__(network)
        self.powers: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        # Transposed convolutions hold their inputs on another axis; detectors have a few of them at most.
        if kind(n) in WEIGHTED and kind(n) != "conv_transpose" and isinstance(n.args[1], Node) and kind(n.args[1]) == "quantizer":
            value = self.env[n.args[0]]  # type: ignore[index]
            channel = value.dim() - 1 if kind(n) == "linear" else 1
            power = value.square().mean(dim=[axis for axis in range(value.dim()) if axis != channel])
            self.powers[n] = self.powers.get(n, torch.zeros(())) + power
        return super().run_node(n)


def _per_weight(power: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The power of each weight's input, of the weight's shape `(O, I/groups, ...)`; in all of a row not zero."""
    outputs, inputs = weight.shape[:2]
    by_group = power.view(groups, inputs).repeat_interleave(outputs // groups, dim=0)
    by_group = by_group + 1e-12 * power.mean().clamp(min=torch.finfo(torch.float32).tiny)
    return by_group.view(outputs, inputs, *(1,) * (weight.dim() - 2)).expand_as(weight).contiguous()
