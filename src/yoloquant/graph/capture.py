"""Capture a network with `torch.export` and name every node by the layer it came from."""

from __future__ import annotations

import copy
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from yoloquant.errors import YoloquantError, first_line
from yoloquant.graph.fold import fold_batch_norm
from yoloquant.graph.fuse import fuse_activations
from yoloquant.graph.operators import IN_PLACE, kind
from yoloquant.graph.sizes import is_size, take_sizes_from_image
from yoloquant.models.detector import Detector, check_input_size
from yoloquant.models.reparameterize import deploy

Dim = torch.export.Dim


def capture(network: nn.Module, input_size: tuple[int, int], stride: int = 32) -> GraphModule:
    """Capture a network as a flat graph of functional aten operators with BatchNorm folded.

    The batch size stays free, and so do height and width in multiples of `stride` where the network allows it. Each node's
    `meta["layer"]` holds its unique layer name: the submodule path users know for layers with a module of their own
    (`model.0.conv`), the path and the kind for others (`model.2.m.0.add`).

    Args:
        network: Network in evaluation mode, from images `(N, 3, H, W)` to a list of raw maps. It is not changed.
        input_size: `(height, width)` in pixels, multiples of `stride`.
        stride: The largest stride of the network, in pixels.

    Raises:
        YoloquantError: The network has control flow that depends on its data, or is otherwise not exportable.
    """
    check_input_size(input_size, stride)
    height, width = input_size
    # A captured graph shares parameters with what it was captured from; corrections of its biases must not reach there.
    program = _export(deploy(copy.deepcopy(network)), torch.zeros(2, 3, height, width), stride)
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, GraphModule)
    _make_functional(graph_module)
    take_sizes_from_image(graph_module)
    fold_batch_norm(graph_module)
    fuse_activations(graph_module)
    name_layers(graph_module, getattr(network, "layer_names", None))
    return graph_module


def copy_graph(graph_module: GraphModule) -> GraphModule:
    """A captured graph and its weights once more."""
    with warnings.catch_warnings():
        # torch's own copying of graphs uses what it will remove.
        warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
        return copy.deepcopy(graph_module)


def _export(network: nn.Module, example: torch.Tensor, stride: int) -> torch.export.ExportedProgram:
    batch = Dim("batch", min=1, max=4096)
    free: dict[int, Any] = {
        0: batch,
        2: stride * Dim("rows", min=1, max=256),
        3: stride * Dim("columns", min=1, max=256),
    }
    reason = ""
    for dimensions in (free, {0: batch}):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.export.export(network, (example,), strict=False, dynamic_shapes=(dimensions,))
        except Exception as error:
            # torch.export raises a dozen unrelated classes; all of them mean that this network cannot be captured so.
            reason = first_line(error)
    raise YoloquantError(
        f"the network cannot be captured by torch.export ({reason}): its forward must not branch on the values of tensors"
    )


def _make_functional(graph_module: GraphModule) -> None:
    """Replace in-place operators, since quantizers will read the tensors that those would overwrite."""
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node.target in IN_PLACE:
            source = node.args[0]
            later = [user for user in source.users if user is not node and user > node]
            # Whoever reads the overwritten tensor afterwards must read the operator's answer.
            for user in later:
                user.replace_input_with(source, node)
            node.target = IN_PLACE[node.target]
    graph_module.recompile()


def module_path(node: Node) -> str:
    """Path of the innermost submodule a node was traced in, `""` for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    # torch.export marks the second and later calls of one module as path@1, path@2.
    return re.sub(r"^L\['self'\]\.?|@\d+", "", path)


def name_layers(graph_module: GraphModule, known_as: Mapping[str, str] | None = None) -> None:
    """Set `meta["layer"]` of every node to a unique name.

    Args:
        graph_module: Captured graph.
        known_as: Mapping child of the network -> the name that users know it by, where these differ.
    """
    names = known_as or {}

    def known(path: str) -> str:
        child, dot, rest = path.partition(".")
        return names.get(child, child) + dot + rest

    paths = Counter(module_path(node) for node in graph_module.graph.nodes if node.op == "call_function" and not is_size(node))
    seen: Counter[str] = Counter()
    for node in graph_module.graph.nodes:
        if node.op == "call_function":
            path = module_path(node)
            alone = path and paths[path] == 1 and not is_size(node)
            name = known(path) if alone else ".".join(part for part in (known(path), _operator_name(node)) if part)
        elif node.op == "get_attr":
            name = known(str(node.target))
        else:
            name = node.name
        seen[name] += 1
        node.meta["layer"] = name if seen[name] == 1 else f"{name}#{seen[name]}"


def _operator_name(node: Node) -> str:
    found = kind(node)
    schema = getattr(node.target, "_schema", None)
    if found in ("view", "other", "activation") and schema is not None:
        return str(schema.name).split("::")[-1]
    return found


def layer_name(node: Node) -> str:
    """The unique layer name of a node of a captured graph."""
    name: str = node.meta["layer"]
    return name


def block_name(layer: str) -> str:
    """The top-level module of a layer, `model.4` of `model.4.cv1.conv`: the name up to its first number, or its first word."""
    parts = layer.strip("/").replace("/", ".").split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else parts[0]


def captured(detector: Detector) -> GraphModule:
    """The detector's network as a graph."""
    return capture(detector.network, detector.input_size, max(detector.strides))
