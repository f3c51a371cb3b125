"""Bias correction: take the mean error that quantization causes at each layer out of that layer's bias.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2: exactly, by measuring
layer after layer, each with all layers before it already corrected (appendix D); or fast, from the errors of the weights alone.

Measured errors before an activation are weighed by its squared slope, which makes the correction the least-squares one for the
activation's output. Unweighed, they are those of the background: far below zero, where errors are large and SiLU makes nothing of
them, and where an object is the correction then spoils what it should mend (YOLOv8n's detection error rose from 0.036 to 0.325).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from yoloquant.algorithms.step import Step, step
from yoloquant.analysis.detection_error import DetectionCost
from yoloquant.analysis.lockstep import lockstep
from yoloquant.analysis.mean_inputs import mean_inputs
from yoloquant.data.images import to_input
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, channel_axis, group_count, is_channel_product, kind, sole_activation
from yoloquant.graph.sizes import readers
from yoloquant.progress import Progress
from yoloquant.quant.arithmetic import expand_parameter
from yoloquant.quant.fake_quantize import passing
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.spec import Count

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job

# Quantization never takes a larger share of a channel's spread, nor adds one; beyond that the channel is noise.
_LEAST_RATIO, _MOST_RATIO = 0.5, 2.0
_SMALLEST = 1e-12
_FAR = 5.0


def correct_biases(
    detector: QuantizedDetector,
    images: Tensor,
    progress: Progress | None = None,
    reference: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Correct the biases of all convolutions and linear layers, in place, in one sweep through the network.

    Args:
        detector: Calibrated detector.
        images: Images, uint8 `(N, 3, H, W)`, RGB; held in memory together with their activations.
        progress: Callback, called with (layers done, layers).
        reference: The float network's parameters by name, where the network's own were changed.

    Returns:
        Layer name -> largest absolute change of its bias.
    """
    return _sweep(detector, images, spread=False, progress=progress, reference=reference)


def reestimate_batch_norm(
    detector: QuantizedDetector,
    images: Tensor,
    progress: Progress | None = None,
    reference: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Give each layer's output the mean and the spread of each channel that it has in the float network, in place.

    That is what estimating BatchNorm's statistics again in the quantized network would do (Sun et al. 2019, "Hybrid 8-bit
    floating point training and inference"), had it not been folded: weight and scale of a channel are multiplied together, so
    that its integers stay. Layers whose scales are not of output channels, or are powers of two, only get the mean.

    Args:
        detector: Calibrated detector.
        images: Images, uint8 `(N, 3, H, W)`, RGB; held in memory together with their activations.
        progress: Callback, called with (layers done, layers).
        reference: The float network's parameters by name, where the network's own were changed.

    Returns:
        Layer name -> largest absolute change of its bias.
    """
    return _sweep(detector, images, spread=True, progress=progress, reference=reference)


def correct_biases_fast(
    detector: QuantizedDetector, batches: Iterable[Tensor], total: int = 0, progress: Progress | None = None
) -> dict[str, float]:
    """Correct biases by the weights' errors times the float network's mean inputs (equation 17), in place.

    One pass through the float network, in batches; what activations' quantization adds is not seen.

    Args:
        detector: Calibrated detector.
        batches: Images, uint8 `(N, 3, H, W)`, RGB.
        total: Number of batches, for `progress`.
        progress: Callback, called with (batches done, total).

    Returns:
        Layer name -> largest absolute change of its bias.
    """
    # Transposed convolutions hold their inputs on another axis; detectors have a few of them at most.
    layers = {layer.node for layer in detector.quantized_weights() if kind(layer.node) != "conv_transpose"}
    with passing([quantizer for _, quantizer in detector.quantizers()]):
        means = mean_inputs(detector.network, batches, layers, total=total, progress=progress)
    changes: dict[str, float] = {}
    for node, quantizer, weight, _ in detector.quantized_weights():
        bias = _bias(detector.network, node)
        if node in means and bias is not None:
            error = (quantizer(weight) - weight).detach().flatten(1)
            groups = group_count(node)
            mean = means[node].view(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
            change = (error * mean.repeat_interleave(error.shape[1] // mean.shape[1], dim=1)).sum(1)
            bias.data -= change
            changes[layer_name(node)] = float(change.abs().max())
    return changes


def _sweep(
    detector: QuantizedDetector,
    images: Tensor,
    *,
    spread: bool,
    progress: Progress | None,
    reference: Mapping[str, Tensor] | None,
) -> dict[str, float]:
    network = detector.network
    weights = {layer.node: layer for layer in detector.quantized_weights()}
    total = sum(kind(node) in WEIGHTED for node in network.graph.nodes)
    changes: dict[str, float] = {}
    for node, plain, quantized in lockstep(network, to_input(images), reference):
        if kind(node) not in WEIGHTED:
            continue
        bias = _bias(network, node)
        if bias is not None:
            axis = channel_axis(node)
            before = bias.detach().clone()
            ratio = torch.ones_like(before)
            layer = weights.get(node)
            if spread and layer and layer.quantizer.axis == 0 and not layer.quantizer.spec.power_of_two:
                ratio = (_spread(plain[node], axis) / _spread(quantized[node], axis)).clamp(_LEAST_RATIO, _MOST_RATIO)
                ratio = torch.nan_to_num(ratio, nan=1.0)
                quantizer = layer.quantizer
                layer.weight.data *= ratio.view(-1, *(1,) * (layer.weight.dim() - 1))
                quantizer.set_parameters(
                    quantizer.scale * ratio.view(-1, *(1,) * (quantizer.scale.dim() - 1)), quantizer.zero_point
                )
            shape = [1] * quantized[node].dim()
            shape[axis] = -1
            # The answer without its bias takes the ratio; the bias then restores the mean.
            quantized[node] = (quantized[node] - before.view(shape)) * ratio.view(shape) + before.view(shape)
            error = _robust_mean(plain[node] - quantized[node], axis, _importance(network, node, plain[node]))
            bias.data += error
            quantized[node] = quantized[node] + error.view(shape)
            changes[layer_name(node)] = float(error.abs().max())
        if progress:
            progress(len(changes), total)
    return changes


def _bias(network: GraphModule, node: Node) -> nn.Parameter | None:
    source = node.args[2] if len(node.args) > 2 else None
    return network.get_parameter(str(source.target)) if isinstance(source, Node) else None


def _others(values: Tensor, axis: int) -> list[int]:
    return [dimension for dimension in range(values.dim()) if dimension != axis]


def _mean(values: Tensor, axis: int, weights: Tensor | None = None) -> Tensor:
    others = _others(values, axis)
    if weights is None:
        return values.mean(dim=others)
    return (values * weights).sum(dim=others) / weights.sum(dim=others).clamp(min=_SMALLEST)


def _robust_mean(errors: Tensor, axis: int, weights: Tensor | None) -> Tensor:
    """Mean of each channel, without errors that lie more than `_FAR` mean absolute deviations from the mean of all.

    Those are of values that were clipped. A bias that made up for them would be wrong wherever nothing is.
    """
    distances = (errors - expand_parameter(_mean(errors, axis, weights), errors, axis, 0)).abs()
    near = (distances <= _FAR * expand_parameter(_mean(distances, axis, weights), errors, axis, 0)).to(errors)
    return _mean(errors, axis, near if weights is None else weights * near)


def _importance(network: GraphModule, node: Node, plain: Tensor) -> Tensor | None:
    """How much an error of each of a layer's values counts: the squared slope of the activation that alone reads it.

    None where no activation does, and all values count alike. A factor of each channel before the activation changes where on the
    activation its values are; their slope it changes alike.
    """
    behind = _behind_quantizer(node)
    product = behind[0] if len(behind) == 1 and is_channel_product(behind[0]) else None
    if product is not None:
        plain = plain * network.get_buffer(str(product.args[1].target))  # type: ignore[union-attr]
        behind = _behind_quantizer(product)
    function = sole_activation(behind)
    if function is None:
        return None
    with torch.enable_grad():
        values = plain.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(values).sum(), values)
    return slope.square()


def _behind_quantizer(node: Node) -> list[Node]:
    return [reader for call in readers(node) for reader in (readers(call) if kind(call) == "quantizer" else [call])]


def _spread(values: Tensor, axis: int) -> Tensor:
    return values.std(dim=_others(values, axis))


@step
class BiasCorrection(Step):
    """Correct each layer's bias by the mean error that quantization causes at its output (Nagel et al. 2019, section 4.2).

    Attributes:
        method: "exact" measures layer after layer; "fast" takes the errors of the weights times the mean inputs, in one pass.
        images: Number of calibration images that mean errors are taken from.
        val_images: Number of calibration images on which the error of boxes and scores must not rise, else all biases stay as
            they were.
    """

    name: Literal["bias_correction"] = "bias_correction"
    method: Literal["exact", "fast"] = "exact"
    images: Count = 32
    val_images: Count = 4

    def apply(self, job: Job) -> None:
        """Correct all biases, and take that back where boxes and scores end up farther from the float network's."""
        if not job.reference_matches or job.detector.head.suppresses:
            self._correct(job)
            return
        cost = DetectionCost(job.quantized, job.spread_images(self.val_images), job.reference)
        network = job.quantized.network
        biases = [bias for node in network.graph.nodes if kind(node) in WEIGHTED and (bias := _bias(network, node)) is not None]
        error, before = cost(), [bias.detach().clone() for bias in biases]
        self._correct(job)
        after = cost()
        if after > error:
            for bias, value in zip(biases, before, strict=True):
                bias.data.copy_(value)
            job.reporter.note(
                f"biases stay as they were: corrected, the error of boxes and scores rose from {error:.3f} to {after:.3f}"
            )

    def _correct(self, job: Job) -> None:
        with job.reporter.step("Correct biases") as update:
            if self.method == "exact":
                correct_biases(job.quantized, job.first_images(self.images), update, job.float_weights)
            else:
                loader = job.batches(self.images)
                correct_biases_fast(job.quantized, (batch.images for batch in loader), len(loader), update)


@step
class BatchNormReestimation(Step):
    """Give each channel of each layer's output the mean and the standard deviation that it has in the float network.

    Attributes:
        images: Number of calibration images that both are measured on.
    """

    name: Literal["batch_norm_reestimation"] = "batch_norm_reestimation"
    images: Count = 32

    def apply(self, job: Job) -> None:
        """Estimate the statistics of all layers again."""
        with job.reporter.step("Estimate batch norms again") as update:
            reestimate_batch_norm(job.quantized, job.first_images(self.images), update, job.float_weights)
