"""One line for every layer with weights: its precision, why it stayed in float where it did, scales and errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch.fx import GraphModule, Node

from yoloquant.analysis.sensitive_layers import SensitiveLayer
from yoloquant.analysis.tensor_statistics import TensorStatistics
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.recipe.recipe import Recipe
from yoloquant.targets.placement import input_layers, output_layers
from yoloquant.targets.target import Target


@dataclass(frozen=True)
class LayerFigures:
    """A convolution or linear layer.

    Attributes:
        name: layer name.
        kind: "conv", "conv_transpose" or "linear".
        shape: of its weight.
        precision: of its weight, "int8", "int4", or "float".
        reason: why it stayed in float; empty for integers.
        weight: statistics of its weight; none in float.
        input: of the activation it reads; none where that is not quantized.
        signal_to_noise: of its answer in the whole quantized network, dB: with all errors made before it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    precision: str
    reason: str
    weight: TensorStatistics | None
    input: TensorStatistics | None
    signal_to_noise: float | None

    @property
    def parameters(self) -> int:
        """Values of the weight."""
        return prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, one level deep."""
        parts: dict[str, Any] = {}
        for part, entry in (("weight", self.weight), ("input", self.input)):
            parts |= {
                f"{part}_spec": entry.spec if entry else None,
                f"{part}_scale_least": entry.scales[0] if entry else None,
                f"{part}_scale_greatest": entry.scales[1] if entry else None,
                f"{part}_signal_to_noise": entry.signal_to_noise if entry else None,
                f"{part}_clipped": entry.clipped if entry else None,
                f"{part}_zeros": entry.zeros if entry else None,
            }
        return {
            "layer": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "precision": self.precision,
            "reason": self.reason,
            "signal_to_noise": self.signal_to_noise,
            **parts,
        }


def layer_figures(
    network: GraphModule,
    statistics: Iterable[TensorStatistics],
    noise: Mapping[str, float],
    reasons: Mapping[str, str],
) -> list[LayerFigures]:
    """All weighted layers in the graph's order.

    Args:
        network: with quantizers.
        statistics: of its tensors.
        noise: layer -> signal-to-noise ratio of its answer, dB.
        reasons: layer in float -> why.
    """
    known = {entry.name: entry for entry in statistics}
    found = []
    for node in network.graph.nodes:
        if kind(node) not in WEIGHTED:
            continue
        source, weight = node.args[0], node.args[1]
        own = known.get(_quantizer_name(weight))
        name = layer_name(node)
        found.append(
            LayerFigures(
                name,
                kind(node),
                tuple(int(size) for size in weight.meta["val"].shape),
                f"int{own.bits}" if own else "float",
                "" if own else reasons.get(name, ""),
                own,
                known.get(_quantizer_name(source)),
                noise.get(name),
            )
        )
    return found


def _quantizer_name(node: Node) -> str:
    """Name of the quantizer that a node is, as statistics have it; empty for other nodes."""
    return str(node.target).removesuffix("_quantizer") if kind(node) == "quantizer" else ""


def float_reasons(network: GraphModule, recipe: Recipe, target: Target, kept: Iterable[SensitiveLayer]) -> dict[str, str]:
    """Why each weighted layer would be left in float, of those that recipe, target or `keep_float` leave out.

    Args:
        network: captured, with or without quantizers.
        recipe: that was followed.
        target: of the recipe.
        kept: layers that step `keep_float` chose.
    """
    kinds = {node.meta["layer"]: kind(node) for node in network.graph.nodes if node.op == "call_function"}
    first, last = input_layers(network), output_layers(network)
    ignored = recipe.ignored(kinds)
    gains = {layer.name: layer.gain for layer in kept}
    outputs = target.float_outputs if recipe.output_layers is None else recipe.output_layers == "float"
    who = f"target {target.name}" if recipe.output_layers is None else "the recipe"

    def reason(name: str) -> str:
        if name in gains:
            return f"keep_float chose it: it makes {gains[name]:.0%} of the error"
        if name in ignored:
            return "the recipe's ignore names it"
        if outputs and name in last:
            return f"{who} leaves the last layers in float"
        places = {place for place, names in (("@first", first), ("@last", last)) if name in names}
        if recipe.choose(name, kinds[name], "weights", target.weights, places) is None:
            return "the recipe gives its weight 32 bits"
        if kinds[name] not in target.kernels.layers:
            return f"target {target.name} has no integer kernel for it"
        if kinds[name] in target.kernels.at_lowest:
            return f"target {target.name} has an integer kernel for it only where its input is never negative"
        return f"target {target.name} places no quantizer on it"

    return {name: reason(name) for name, found in kinds.items() if found in WEIGHTED}
