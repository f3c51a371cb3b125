"""`Target`: what a runtime can run, and the placement that makes it run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch.fx import GraphModule, Node

from yoloquant.errors import RecipeError
from yoloquant.graph.operators import SAME_VALUES, kind
from yoloquant.spec import TensorSpec
from yoloquant.targets.placement import (
    Draft,
    Edge,
    FloatLayer,
    Kernels,
    QuantizationPlacement,
    fitted_to_layer,
    input_layers,
    output_layers,
    weighted_layers,
)

Rule = Callable[[Draft], None]
# Layer name and tensor kind ("weights" or "activations") and the target's own spec -> the spec to use, or none for float.
SpecChooser = Callable[[str, str, TensorSpec], TensorSpec | None]


@dataclass(frozen=True)
class Target:
    """A runtime as a user names it.

    Attributes:
        name: Name as recipes and the command line write it.
        summary: One sentence for `yoloquant targets`.
        weights: Spec of weights unless the recipe says otherwise.
        activations: Spec of activations unless the recipe says otherwise.
        rules: Rules, applied in order; together they decide which edges are quantized and share.
        bits: Widths that the target's file can hold for weights and activations.
        groups: Whether the runtime takes weights with one scale for each group of input channels.
        symmetric_weights_only: Whether the runtime takes weights with zero point 0 alone.
        fixed_ranges: Operators whose output the runtime computes on one fixed range, with that range.
        symmetric_activations_only: Whether the runtime takes activations with zero point 0 alone.
        float_outputs: Whether the last convolutions stay in float unless the recipe says otherwise: they are one part in a
            hundred of the work, and an error there is an error of the boxes (NVIDIA's yolov7_qat leaves them out, too).
        float_inputs: Whether the convolutions that read the image stay in float unless the recipe says otherwise.
        input_weight_bits: Width of the weights of the layers that read the image, where it is smaller than elsewhere.
        costly_layers: Maximum number of layers in float among those that cost most accuracy, unless the recipe says otherwise.
        carries_integers: Whether the runtime keeps integers through concat, pooling and the like without Q/DQ on both sides.
        fused_silu: Whether files hold SiLU as the one contrib operator of ONNX Runtime.
        integer_hardswish: Whether files hold Hardswish between integers as operators on the integers, see
            `yoloquant.quant.hardswish`.
        fuses_activations: The runtime computes an activation within the layer before it, whatever the activation is.
        has_silu: The runtime may compute SiLU as one activation; without, Q/DQ stands around its sigmoid.
        needs_output_quantizer: A layer runs in integers only where one QuantizeLinear reads its output.
        unsigned_activations: Signed activations are computed wrongly on some graphs.
        float_biases: Biases must not be quantized.
        nms: Operator of non-maximum suppression that files get, see `yoloquant.exporting.nms`.
        builds_engine: The file is built into an engine by `trtexec`, on the machine that runs it.
        kernels: Operators that the runtime computes in integers, and their demands on scales.
        runtimes: Names of the runtimes that run the exported file here.
        sources: References to the documentation of the runtime's makers.
    """

    name: str
    summary: str
    weights: TensorSpec
    activations: TensorSpec
    rules: tuple[Rule, ...]
    bits: frozenset[int] = frozenset({8})
    groups: bool = False
    fixed_ranges: Mapping[object, tuple[float, float]] = field(default_factory=dict)
    symmetric_weights_only: bool = False
    symmetric_activations_only: bool = False
    float_outputs: bool = False
    float_inputs: bool = False
    input_weight_bits: int | None = None
    costly_layers: int = 3
    carries_integers: bool = False
    fused_silu: bool = False
    integer_hardswish: bool = False
    fuses_activations: bool = False
    has_silu: bool = True
    needs_output_quantizer: bool = False
    unsigned_activations: bool = False
    float_biases: bool = False
    nms: Literal["standard", "tensorrt"] = "standard"
    builds_engine: bool = False
    kernels: Kernels = field(default_factory=Kernels)
    runtimes: tuple[str, ...] = ("onnxruntime", "openvino")
    sources: tuple[str, ...] = ()

    def explain(self) -> list[str]:
        """What each rule does, a sentence each, in the order in which they are applied."""
        return [" ".join((rule.__doc__ or rule.__name__).strip().split("\n\n")[0].split()) for rule in self.rules]

    def check(self, spec: TensorSpec, where: str) -> None:
        """Refuse a spec that the target cannot run.

        Raises:
            RecipeError: With the reason and what to choose.
        """
        if spec.granularity == "group" and not spec.group_size:
            raise RecipeError(f"{where}: granularity group needs the number of input channels of a group: set group_size, too")
        if spec.bits not in self.bits:
            allowed = ", ".join(str(bits) for bits in sorted(self.bits))
            raise RecipeError(
                f"{where}: target {self.name} cannot run {spec.bits}-bit integers (it runs {allowed}): "
                "choose one of these, or target reference"
            )
        if self.symmetric_activations_only and not (spec.symmetric and spec.signed):
            raise RecipeError(
                f"{where}: target {self.name} only takes signed symmetric integers with zero point 0: "
                "set symmetric and signed to true"
            )

    def check_weights(self, spec: TensorSpec, where: str) -> None:
        """Refuse a spec of weights that the target cannot run.

        Raises:
            RecipeError: With the reason and what to choose.
        """
        self.check(spec, where)
        if spec.granularity == "group" and not self.groups:
            raise RecipeError(
                f"{where}: target {self.name} takes no weights with a scale for each group of input channels: "
                "set granularity to channel, or choose target reference"
            )
        if self.symmetric_weights_only and not (spec.symmetric and spec.signed):
            raise RecipeError(
                f"{where}: target {self.name} takes only signed symmetric weights with zero point 0: "
                "set symmetric and signed to true"
            )

    def place(
        self,
        graph_module: GraphModule,
        choose: SpecChooser | None = None,
        ignored: Mapping[str, FloatLayer] | None = None,
        *,
        float_outputs: bool | None = None,
        float_inputs: bool | None = None,
    ) -> QuantizationPlacement:
        """Decide where quantizers stand in a captured graph.

        Args:
            graph_module: Graph from `yoloquant.graph.capture.capture`.
            choose: Function that changes the spec of single layers; the target's own specs by default.
            ignored: Layers that stay in float, and why.
            float_outputs: Whether the last convolutions stay in float; the target's own choice by default.
            float_inputs: Same for the convolutions that read the image.

        Raises:
            RecipeError: The recipe asks for what the target cannot run.
        """
        ends = self._ends_in_float(graph_module, float_outputs=float_outputs, float_inputs=float_inputs)
        in_float = {**ends, **(ignored or {})}
        draft = Draft(graph_module, frozenset(in_float), self.kernels)
        for rule in self.rules:
            rule(draft)
        nodes = {node.name: node for node in graph_module.graph.nodes}
        layers = {name: node.meta["layer"] for name, node in nodes.items()}
        edges: dict[Edge, str] = {}
        specs: dict[str, TensorSpec] = {}
        pick = choose or (lambda _layer, _kind, spec: spec)
        of_inputs = self.weights.with_changes(bits=self.input_weight_bits or self.weights.bits)
        readers_of_image = input_layers(graph_module)
        for edge in sorted(draft.weights):
            layer = layers[edge.consumer]
            spec = pick(layer, "weights", of_inputs if layer in readers_of_image else self.weights)
            if spec is None:
                in_float.setdefault(layer, FloatLayer("the recipe gives its weight 32 bits"))
            else:
                self.check_weights(spec, f"weights of {layer}")
                name = f"{layers[edge.producer]}_quantizer"
                specs[name] = fitted_to_layer(graph_module, edge, spec)
                edges[edge] = name
        quantized = {edge.consumer for edge in edges}
        for name, group in draft.groups().items():
            choices = {edge: pick(layers[edge.consumer], "activations", self.activations) for edge in group}
            kept = [spec for spec in choices.values() if spec is not None]
            if not kept:
                continue
            # Readers that share a scale must agree; the one that needs most precision decides.
            specs[name] = self._with_fixed_range(max(kept, key=lambda spec: spec.bits), [nodes[edge.producer] for edge in group])
            self.check(specs[name], f"activations at {name}")
            if specs[name].granularity != "tensor":
                raise RecipeError(f"activations at {name}: granularity is tensor for all activations; only weights have others")
            edges.update({edge: name for edge, spec in choices.items() if spec is not None})
        left = {name: node for name, node in weighted_layers(graph_module).items() if node.name not in quantized}
        reasons = {name: in_float.get(name) or self._unplaced(kind(node)) for name, node in left.items()}
        # Those that were ranked keep their order.
        ranked = [name for name in in_float if name in reasons and in_float[name].gain is not None]
        return QuantizationPlacement(edges, specs, {name: reasons[name] for name in (*ranked, *reasons)})

    def _ends_in_float(
        self, graph_module: GraphModule, *, float_outputs: bool | None, float_inputs: bool | None
    ) -> dict[str, FloatLayer]:
        """The first and the last weighted layers, where they stay in float."""
        found: dict[str, FloatLayer] = {}
        for place, chosen, own, layers in (
            ("last", float_outputs, self.float_outputs, output_layers),
            ("first", float_inputs, self.float_inputs, input_layers),
        ):
            if own if chosen is None else chosen:
                who = f"target {self.name}" if chosen is None else "the recipe"
                found.update(dict.fromkeys(layers(graph_module), FloatLayer(f"{who} leaves the {place} layers in float")))
        return found

    def _unplaced(self, layer_kind: str) -> FloatLayer:
        """Why no rule quantizes the weight of a layer."""
        if layer_kind not in self.kernels.layers:
            return FloatLayer(f"target {self.name} has no integer kernel for it")
        if layer_kind in self.kernels.at_lowest:
            return FloatLayer(f"target {self.name} has an integer kernel for it only where its input is never negative")
        return FloatLayer(f"target {self.name} places no quantizer on it")

    def _with_fixed_range(self, spec: TensorSpec, producers: list[Node]) -> TensorSpec:
        """The spec of a quantizer, on the fixed range of what it stands behind, if that has one."""
        found = {self.fixed_ranges.get(node.target) for node in producers if kind(node) not in SAME_VALUES}
        fixed = found.pop() if len(found) == 1 else None
        return spec.with_changes(observer="fixed", options={"low": fixed[0], "high": fixed[1]}) if fixed else spec
