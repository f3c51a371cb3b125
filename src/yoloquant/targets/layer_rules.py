"""`LayerRules`: the half of a recipe that placement needs, and the placement that follows from it."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Container, Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import field_validator
from torch.fx import GraphModule

from yoloquant.errors import RecipeError, nearest
from yoloquant.graph.operators import kind
from yoloquant.spec import Count, Granularity, Section, TensorSpec
from yoloquant.targets.placement import FloatLayer, QuantizationPlacement, input_layers, output_layers
from yoloquant.targets.registry import get_target

# What overrides can name instead of layers: those that read the image, and those that answer.
PLACES = ("@first", "@last")


class TensorSettings(Section):
    """Changes to the target's own `TensorSpec`; what is left out stays as the target has it.

    `bits: 32` leaves the tensor in float.
    """

    bits: Literal[2, 3, 4, 5, 6, 7, 8, 16, 32] | None = None
    signed: bool | None = None
    symmetric: bool | None = None
    granularity: Granularity | None = None
    group_size: Count | None = None
    power_of_two: bool | None = None
    narrow: bool | None = None
    observer: str | None = None
    options: dict[str, Any] | None = None

    def apply(self, spec: TensorSpec) -> TensorSpec | None:
        """The spec with these changes; none for float."""
        if self.bits == 32:
            return None
        changes = {key: value for key, value in self.model_dump().items() if value is not None}
        if changes.get("observer", spec.observer) != spec.observer:
            # Options belong to an observer; another one starts from its own defaults.
            changes.setdefault("options", {})
        if changes.get("granularity", spec.granularity) != "group":
            changes["group_size"] = 0
        return spec.with_changes(**changes)


class Override(Section):
    """Settings for the layers that `match` and `op` (a kind) both select.

    `match` is a name, a pattern with `*`, `?` and `[0-5]`, or a place: `@first` (layers that read the image) or `@last`
    (output layers). A name or a pattern must match a layer, unless the override is `optional`, as for recipes of several
    families.
    """

    match: str = "*"
    op: str | None = None
    optional: bool = False
    weights: TensorSettings = TensorSettings()
    activations: TensorSettings = TensorSettings()

    @field_validator("match")
    @classmethod
    def _known_place(cls, match: str) -> str:
        if match.startswith("@") and match not in PLACES:
            raise ValueError(f"there is no place {match!r}: choose {' or '.join(PLACES)}, or name layers")
        return match


class LayerRules(Section):
    """How each layer is quantized, or that it is not.

    Attributes:
        target: Deployment target, a key of `yoloquant.targets.registry.TARGETS`.
        weights: Changes to the target's weight spec.
        activations: Changes to its activation spec.
        overrides: Changes for single layers; the last match wins key by key.
        ignore: Names or patterns of layers that stay in float.
        input_layers: Whether the convolutions that read the image stay in float or are quantized; the target's own choice by
            default.
        output_layers: Whether the last convolutions stay in float or are quantized; the target's own choice by default.
    """

    target: str = "onnxruntime"
    weights: TensorSettings = TensorSettings()
    activations: TensorSettings = TensorSettings()
    overrides: tuple[Override, ...] = ()
    ignore: tuple[str, ...] = ()
    input_layers: Literal["float", "quantized"] | None = None
    output_layers: Literal["float", "quantized"] | None = None

    def choose(self, layer: str, op: str, tensor: str, spec: TensorSpec, places: Container[str] = ()) -> TensorSpec | None:
        """The spec for one layer's weights or activations; none for float.

        Args:
            layer: Layer name.
            op: Kind of the layer.
            tensor: "weights" or "activations".
            spec: Spec of the target.
            places: "@first", "@last": where the layer is.
        """
        chosen: TensorSpec | None = getattr(self, tensor).apply(spec)
        for override in self.overrides:
            selected = override.match in places or fnmatch.fnmatchcase(layer, override.match)
            if selected and override.op in (None, op):
                chosen = getattr(override, tensor).apply(chosen or spec)
        return chosen

    def ignored(self, layers: Iterable[str]) -> dict[str, FloatLayer]:
        """Those of `layers` that stay in float because `ignore` names them.

        Raises:
            RecipeError: A pattern matches no layer.
        """
        layers = list(layers)
        found: set[str] = set()
        for pattern in self.ignore:
            found.update(_matched(pattern, layers, "ignore"))
        return dict.fromkeys((layer for layer in layers if layer in found), FloatLayer("the recipe's ignore names it"))

    def check_overrides(self, layers: Iterable[str]) -> None:
        """Make sure that each override's pattern matches one of `layers`.

        Raises:
            RecipeError: It matches none, and the override is not optional.
        """
        layers = list(layers)
        for override in self.overrides:
            if override.match not in PLACES and not override.optional:
                _matched(override.match, layers, "override")

    def with_layers(self, *, in_float: Iterable[str] = (), weights: Mapping[str, TensorSettings] | None = None) -> Self:
        """The same rules with some layers in float, and others with weight settings of their own."""
        overrides = (Override(match=glob.escape(name), weights=settings) for name, settings in (weights or {}).items())
        ignore = (*self.ignore, *(glob.escape(name) for name in in_float))
        return self.model_copy(update={"ignore": ignore, "overrides": (*self.overrides, *overrides)})

    def place(self, graph_module: GraphModule, kept: Mapping[str, FloatLayer] | None = None) -> QuantizationPlacement:
        """Decide where quantizers stand in a captured graph.

        Args:
            graph_module: Captured network without quantizers.
            kept: Further layers that stay in float, and why.

        Raises:
            RecipeError: A pattern matches no layer, or the target cannot run what is asked for.
        """
        kinds = {node.meta["layer"]: kind(node) for node in graph_module.graph.nodes}
        layers = [name for name, found in kinds.items() if found not in ("parameter", "input", "output")]
        self.check_overrides(layers)
        first, last = input_layers(graph_module), output_layers(graph_module)

        def choose(layer: str, tensor: str, spec: TensorSpec) -> TensorSpec | None:
            places = {place for place, names in (("@first", first), ("@last", last)) if layer in names}
            return self.choose(layer, kinds[layer], tensor, spec, places)

        return get_target(self.target).place(
            graph_module,
            choose,
            {**self.ignored(layers), **(kept or {})},
            float_outputs=None if self.output_layers is None else self.output_layers == "float",
            float_inputs=None if self.input_layers is None else self.input_layers == "float",
        )


def _matched(pattern: str, layers: list[str], use: str) -> list[str]:
    """The layers that a pattern matches, at least one."""
    matches = fnmatch.filter(layers, pattern)
    if not matches:
        near = nearest(pattern.strip("*"), layers, 0.0)
        raise RecipeError(f"{use} pattern {pattern!r} matches no layer: the nearest layer name is {near!r}")
    return matches
