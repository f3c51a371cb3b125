"""One line for every layer with weights: its precision, why it stayed in float where it did, scales and errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch.fx import GraphModule, Node

from yoloquant.analysis.tensor_statistics import TensorStatistics
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, kind


@dataclass(frozen=True, kw_only=True)
class LayerFigures:
    """A convolution or linear layer.

    Attributes:
        name: Layer name.
        kind: "conv", "conv_transpose" or "linear".
        shape: Shape of its weight.
        precision: Precision of its weight, "int8", "int4", or "float".
        reason: Reason for staying in float; empty for integers.
        weight: Statistics of its weight; None in float.
        input: Statistics of the activation it reads; None where that is not quantized.
        signal_to_noise: Signal-to-noise ratio of its output in the whole quantized network, dB: with all errors made before it.
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
        network: Network with quantizers.
        statistics: Statistics of its tensors.
        noise: Mapping layer -> signal-to-noise ratio of its output, dB.
        reasons: Mapping layer in float -> reason.
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
                name=name,
                kind=kind(node),
                shape=tuple(int(size) for size in weight.meta["val"].shape),
                precision=f"int{own.bits}" if own else "float",
                reason="" if own else reasons.get(name, ""),
                weight=own,
                input=known.get(_quantizer_name(source)),
                signal_to_noise=noise.get(name),
            )
        )
    return found


def _quantizer_name(node: Node) -> str:
    """Name of the quantizer that a node is, as statistics have it; empty for other nodes."""
    return str(node.target).removesuffix("_quantizer") if kind(node) == "quantizer" else ""
