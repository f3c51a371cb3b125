"""The network as a picture: a box for each layer, lines for tensors, a diamond where a quantizer stands.

An activation function is drawn in the box of the layer it follows, as every runtime fuses the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch.fx import GraphModule, Node

from yoloquant.analysis.layer_figures import LayerFigures
from yoloquant.analysis.tensor_statistics import TensorStatistics
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.graph.sizes import readers, tensor_inputs
from yoloquant.report.charts import NO_NOISE
from yoloquant.report.graph_layout import Layout, layered_layout

# Least signal-to-noise ratios, dB, of the colours for errors, the best first; what is below the last is the worst.
ERROR_STEPS = (40.0, 30.0, 20.0, 10.0)


@dataclass
class LayerBox:
    """One box.

    Attributes:
        name: Name of the layer; the first line of the box.
        operators: Kinds of operators in it; the second line.
        precision: "int8", "int4", ... or "float" of weighted layers, "none" of the others.
        noise: Signal-to-noise ratio of its output, dB; None if not measured.
        note: Full description in words.
        weight: Description of its weight's quantizer; empty without.
        inside: Description of the quantizer between layer and activation function; empty without.
    """

    name: str
    operators: list[str]
    precision: str = "none"
    noise: float | None = None
    note: str = ""
    weight: str = ""
    inside: str = ""

    @property
    def classes(self) -> str:
        """Words for style sheets: how precise it is, and which step its error is on."""
        few = self.precision.startswith("int") and int(self.precision.removeprefix("int")) < 8
        how = self.precision if self.precision in ("float", "none") else "few" if few else "integer"
        return how if self.noise is None else f"{how} error{error_step(self.noise)}"

    @property
    def second_line(self) -> str:
        """Operators, precision and error."""
        words = [" → ".join(self.operators), *([] if self.precision == "none" else [self.precision])]
        return " · ".join([*words, *([] if self.noise is None or self.noise > NO_NOISE else [f"{self.noise:.0f} dB"])])


@dataclass(frozen=True)
class NetworkDrawing:
    """Everything to draw.

    Attributes:
        boxes: Mapping node of the graph -> its box.
        quantized: Mapping line with a quantizer -> its description in words.
        layout: Positions of boxes and lines.
        name: Name of the picture.
        title: Title in words.
    """

    boxes: dict[str, LayerBox]
    quantized: dict[tuple[str, str], str]
    layout: Layout
    name: str = "network"
    title: str = "The network"


@dataclass
class _Builder:
    statistics: Mapping[str, TensorStatistics]
    figures: Mapping[str, LayerFigures]
    boxes: dict[str, LayerBox] = field(default_factory=dict)
    # Node of the graph -> node whose box it is drawn in.
    home: dict[Node, str] = field(default_factory=dict)
    edges: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Put a node into a box of its own, or into that of the layer it follows."""
        sources = [source for source in tensor_inputs(node) if _value(source).op != "get_attr"]
        before = _value(sources[0]) if len(sources) == 1 else None
        if kind(node) == "activation" and before is not None and kind(before) in WEIGHTED and len(_readers(before)) == 1:
            self.home[node] = self.home[before]
            box = self.boxes[self.home[node]]
            box.operators.append(_operator(node))
            box.inside = self._words(sources[0])
            return
        self.home[node] = node.name
        self.boxes[node.name] = self._box(node)
        for source in sources:
            edge = (self.home[_value(source)], node.name)
            self.edges[edge] = self._words(source) or self.edges.get(edge, "")

    def _box(self, node: Node) -> LayerBox:
        if node.op in ("placeholder", "output"):
            return LayerBox("images" if node.op == "placeholder" else "head", ["in float"])
        name = layer_name(node)
        box = LayerBox(name, [_operator(node)], note=f"{name}: {kind(node)}")
        figures = self.figures.get(name)
        if figures is not None:
            box.precision, box.weight = figures.precision, _described(figures.weight) if figures.weight else ""
            box.noise = figures.signal_to_noise
            shape = " x ".join(map(str, figures.shape))
            noise = "" if figures.signal_to_noise is None else f", {figures.signal_to_noise:.1f} dB at its output"
            why = f" ({figures.reason})" if figures.reason else ""
            box.note = f"{name}: {figures.kind} {shape}, {figures.precision}{why}{noise}"
        return box

    def _words(self, source: Node) -> str:
        """What the quantizer is that a tensor comes through; empty if it comes through none."""
        if kind(source) != "quantizer":
            return ""
        name = str(source.target).removesuffix("_quantizer")
        return _described(self.statistics[name]) if name in self.statistics else name


def network_drawing(
    network: GraphModule, statistics: Mapping[str, TensorStatistics], figures: Mapping[str, LayerFigures]
) -> NetworkDrawing:
    """Lay out a network with quantizers.

    Args:
        network: Captured network, with quantizers.
        statistics: Mapping quantizer name without its suffix -> statistics.
        figures: Mapping layer name -> figures.
    """
    builder = _Builder(statistics, figures)
    for node in network.graph.nodes:
        if kind(node) not in ("parameter", "quantizer", "size"):
            builder.add(node)
    layout = layered_layout(list(builder.boxes), builder.edges)
    return NetworkDrawing(builder.boxes, {edge: words for edge, words in builder.edges.items() if words}, layout)


def error_step(ratio: float) -> int:
    """Number of the colour for a signal-to-noise ratio, dB."""
    return sum(ratio < least for least in ERROR_STEPS)


def _described(entry: TensorStatistics) -> str:
    return f"{entry.name}: {entry.spec}, scale {entry.scales[1]:.3g}, {entry.signal_to_noise:.1f} dB"


def _value(node: Node) -> Node:
    """The node whose value this is: a quantizer's is its source's."""
    while kind(node) == "quantizer":
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
    return node


def _readers(node: Node) -> list[Node]:
    """Who reads a value, through quantizers, too."""
    return [reader for user in readers(node) for reader in (_readers(user) if kind(user) == "quantizer" else [user])]


def _operator(node: Node) -> str:
    """`silu` of an activation, the kind of other nodes."""
    found = kind(node)
    schema = getattr(node.target, "_schema", None)
    return schema.name.split("::")[-1] if found in ("activation", "other", "view") and schema is not None else found
