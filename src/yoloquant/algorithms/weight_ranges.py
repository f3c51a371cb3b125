"""Weight ranges by the error at the layer's output instead of the error of the weights.

The error of a weight is multiplied by its input. Where a channel of inputs is nearly dead, as behind BatchNorms of tiny variance
that re-parameterised RepVGG blocks fold into huge weights, an outlier's error hardly matters, and a range that holds the outlier
costs all the others. So each weight counts with the mean square of its input: to first order, that is the output's squared error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.fx import Node

from yoloquant.algorithms.step import Step, step
from yoloquant.analysis.mean_inputs import mean_inputs
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import group_count, kind
from yoloquant.progress import Progress
from yoloquant.quant import ranges
from yoloquant.quant.fake_quantize import passing
from yoloquant.quant.histogram import SortedValues
from yoloquant.quant.observers import rows
from yoloquant.quant.qparams import scale_and_zero_point
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.spec import Count

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job

# Ranges tried, and the smallest: an outlier may be a thousand times as large as the other weights.
_STEPS, _LEAST = 200, 0.001


def choose_weight_ranges(
    detector: QuantizedDetector, batches: Iterable[Tensor], total: int = 0, progress: Progress | None = None
) -> dict[str, float]:
    """Set the scale of every quantized weight to the range of minimum squared error at the output, in place.

    Args:
        detector: Calibrated detector.
        batches: Images, uint8 `(N, 3, H, W)`, RGB.
        total: Number of batches, for `progress`.
        progress: Callback, called with (batches done, total).

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
    # Transposed convolutions hold their inputs on another axis; detectors have a few of them at most.
    layers = {layer.node for layer in detector.quantized_weights() if kind(layer.node) != "conv_transpose"}
    with passing([quantizer for _, quantizer in detector.quantizers()]):
        return mean_inputs(detector.network, batches, layers, torch.square, total, progress)


def _per_weight(power: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The power of each weight's input, of the weight's shape `(O, I/groups, ...)`; in all of a row not zero."""
    outputs, inputs = weight.shape[:2]
    by_group = power.view(groups, inputs).repeat_interleave(outputs // groups, dim=0)
    by_group = by_group + 1e-12 * power.mean().clamp(min=torch.finfo(torch.float32).tiny)
    return by_group.view(outputs, inputs, *(1,) * (weight.dim() - 2)).expand_as(weight).contiguous()


@step
class WeightRanges(Step):
    """Choose weight ranges by the squared error at each layer's output: cures outliers of re-parameterised weights.

    Attributes:
        images: Number of calibration images that inputs are observed on.
    """

    name: Literal["weight_ranges"] = "weight_ranges"
    images: Count = 32

    def apply(self, job: Job) -> None:
        """Choose the range of every quantized weight."""
        loader = job.batches(self.images)
        with job.reporter.step("Choose weight ranges") as update:
            choose_weight_ranges(job.quantized, (batch.images for batch in loader), len(loader), update)
