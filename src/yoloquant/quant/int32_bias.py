"""Weight scales at which biases fit the 32-bit integers that accelerators add them in.

Integer kernels hold a bias in steps of input scale times weight scale. Where BatchNorm has made a channel's weights next to
nothing, but not its bias, those steps are so fine that the bias overflows.
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor
from torch.fx import Node

from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import kind
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.quantized_detector import QuantizedDetector, QuantizedWeight

# Half of the largest 32-bit integer: the products are added to the bias in the same register.
MOST_STEPS = 2.0**30


@torch.no_grad()
def fit_biases(detector: QuantizedDetector) -> list[str]:
    """Raise the weight scales of channels whose bias would overflow, in place; what they lose is far below the bias.

    As `onnxruntime.quantization` and TensorFlow Lite's converter do; group-wise weights are left alone, since layers that have
    them are not computed in integers.

    Args:
        detector: Detector whose scales are frozen.

    Returns:
        Names of the layers that were changed.
    """
    changed = []
    for layer in detector.quantized_weights():
        least = _least_scale(detector, layer)
        quantizer = layer.quantizer
        if least is None or not bool((quantizer.scale < least).any()):
            continue
        if quantizer.spec.power_of_two:
            least = torch.exp2(torch.ceil(torch.log2(least)))
        quantizer.set_parameters(torch.maximum(quantizer.scale.detach(), least), quantizer.zero_point)
        changed.append(layer_name(layer.node))
    return changed


def _least_scale(detector: QuantizedDetector, layer: QuantizedWeight) -> Tensor | None:
    """The smallest weight scale that the bias allows, of the shape of the weight's; none if there is no limit."""
    source, bias = layer.node.args[0], layer.node.args[2] if len(layer.node.args) > 2 else None
    if not isinstance(source, Node) or not isinstance(bias, Node) or kind(bias) != "parameter" or kind(source) != "quantizer":
        return None
    if layer.quantizer.spec.granularity == "group":
        return None
    observed = detector.network.get_submodule(str(source.target))
    assert isinstance(observed, FakeQuantize)
    # Foreign ONNX files may hold it as a buffer.
    held: Tensor = attrgetter(str(bias.target))(detector.network)
    size = held.detach().abs().double()
    # Groups of a transposed convolution share the scales of their channels.
    largest = size.view(-1, layer.quantizer.scale.numel()).amax(0) if layer.quantizer.scale.dim() else size.amax()
    least = largest / (observed.scale.detach().double() * MOST_STEPS)
    return least.float().clamp(min=torch.finfo(torch.float32).tiny)
