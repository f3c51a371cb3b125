"""Put a quantized detector's quantizers into training, and take them out again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils import parametrize

from yoloquant.quant.arithmetic import expand_parameter
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.learned import ClippingScale, LearnedScale, ObservedScale, TangentWeight, TrainedQuantization
from yoloquant.quant.quantized_detector import QuantizedDetector

if TYPE_CHECKING:
    from yoloquant.training.quantized.step import Train

# How far from the middle of its step a weight may begin, in steps; half a step would round it to the next integer.
_REACH = 0.45


@dataclass
class TrainedParts:
    """What training changes in a network.

    Attributes:
        weights: Mapping quantizer -> the parameter that is trained for its weight.
        others: Biases, and the weights of layers in float.
        trained: Mapping quantizer name -> its scale and zero point in training.
        owners: Modules whose weight passes through a transform.
    """

    weights: dict[FakeQuantize, nn.Parameter] = field(default_factory=dict)
    others: list[nn.Parameter] = field(default_factory=list)
    trained: dict[str, TrainedQuantization] = field(default_factory=dict)
    owners: list[nn.Module] = field(default_factory=list)

    def moving(self) -> dict[str, TrainedQuantization]:
        """Those whose scale still changes."""
        return {name: trained for name, trained in self.trained.items() if trained.moving}

    def scale_parameters(self) -> list[nn.Parameter]:
        """Exponents and offsets that are learned."""
        return [parameter for trained in self.trained.values() for parameter in trained.parameters() if parameter.requires_grad]


def weight_quantizers(detector: QuantizedDetector) -> Iterator[tuple[FakeQuantize, nn.Module, str]]:
    """Quantizers of weights, the module that owns each weight, and its name there."""
    for node, quantizer in _weight_nodes(detector):
        owner, _, name = str(node.target).rpartition(".")
        yield quantizer, detector.network.get_submodule(owner), name


def _weight_nodes(detector: QuantizedDetector) -> Iterator[tuple[Node, FakeQuantize]]:
    for node in detector.network.graph.nodes:
        if node.op == "call_module" and node.args[0].op == "get_attr":
            quantizer = detector.network.get_submodule(node.target)
            assert isinstance(quantizer, FakeQuantize)
            yield node.args[0], quantizer


@torch.no_grad()
def remember_float(detector: QuantizedDetector, reference: GraphModule) -> None:
    """Give each weight that was rounded earlier its float value back, as far as it rounds to the same integer, in place.

    A rounded weight lies in the middle of its step, where training does not know which way it would rather go, and where the
    scale's gradient vanishes (that of rounding errors, which are all 0).

    Args:
        detector: Detector whose weights an earlier step of the recipe rounded.
        reference: The float network, captured.
    """
    for node, quantizer in _weight_nodes(detector):
        weight, plain = detector.network.get_parameter(str(node.target)), reference.get_parameter(str(node.target))
        scale = expand_parameter(quantizer.scale, weight, quantizer.axis, quantizer.group_size)
        middle = (weight / scale).round()
        is_rounded = ((weight / scale) - middle).abs() < 1e-3
        near = torch.minimum(torch.maximum(plain / scale, middle - _REACH), middle + _REACH) * scale
        weight.copy_(torch.where(is_rounded, near, weight))


def begin_training(detector: QuantizedDetector, settings: Train) -> TrainedParts:
    """Let scales, weights and biases be trained as the settings say, in place; the network's output stays the same."""
    parts = TrainedParts()
    of_weights = {quantizer: (owner, name) for quantizer, owner, name in weight_quantizers(detector)}
    for name, quantizer in detector.quantizers():
        method = settings.weights if quantizer in of_weights else settings.activations
        quantizer.trained = _trained(quantizer, method)
        if quantizer.trained is not None:
            parts.trained[name] = quantizer.trained
    if not settings.train_weights:
        return parts
    for quantizer, (owner, name) in of_weights.items():
        if settings.weights == "dorefa":
            parametrize.register_parametrization(owner, name, TangentWeight(getattr(owner, name)))
            parts.owners.append(owner)
            parts.weights[quantizer] = owner.parametrizations[name].original  # type: ignore[union-attr, index]
        else:
            parts.weights[quantizer] = getattr(owner, name)
    scales = {id(parameter) for trained in parts.trained.values() for parameter in trained.parameters()}
    known = scales | {id(parameter) for parameter in parts.weights.values()}
    parts.others = [parameter for parameter in detector.network.parameters() if id(parameter) not in known]
    for parameter in (*parts.weights.values(), *parts.others):
        parameter.requires_grad = True
    return parts


def _trained(quantizer: FakeQuantize, method: str) -> TrainedQuantization | None:
    given = (quantizer.spec, quantizer.name, quantizer.scale, quantizer.zero_point)
    if method in ("lsq", "lsq+"):
        return LearnedScale(*given, learn_offset=method == "lsq+")
    if method == "pact":
        return ClippingScale(*given)
    return ObservedScale(*given) if method == "observed" else None


def finish_training(detector: QuantizedDetector, parts: TrainedParts) -> None:
    """Make everything a constant again, in place; the network's output stays the same."""
    for owner in parts.owners:
        for name in list(owner.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(owner, name)
    for _, quantizer in detector.quantizers():
        quantizer.finish_training()
    for parameter in detector.network.parameters():
        parameter.requires_grad = False
        parameter.grad = None


def octaves(trained: TrainedQuantization) -> Tensor:
    """Logarithm to the base 2 of the scales as they are now."""
    with torch.no_grad():
        return trained.parameters_now()[0].log2()
