"""Run the float and the quantized network side by side, node by node, on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from yoloquant.graph.interpret import compute
from yoloquant.quant.fake_quantize import FakeQuantize


def lockstep(
    network: GraphModule, images: Tensor, reference: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[Node, dict[Node, Any], dict[Node, Any]]]:
    """Compute each node twice: with quantizers passing (float), and with quantizers as they are set.

    Values are freed as soon as no later node reads them, so memory is that of the widest cut through the graph. The caller
    may change a node's value in the environments, or a parameter before the next node is computed.

    Args:
        network: Network with quantizers.
        images: `(N, 3, H, W)` float, 0..1.
        reference: The float network's parameters by name, where the network's own were changed.

    Yields:
        After each computing node: the node, the float environment, the quantized environment.
    """
    runner = Interpreter(network, garbage_collect_values=False)
    plain: dict[Node, Any] = {}
    quantized: dict[Node, Any] = {}
    last_reader: dict[Node, Node] = {}
    for node in network.graph.nodes:
        for source in node.all_input_nodes:
            last_reader[source] = node
    with torch.no_grad():
        for node in network.graph.nodes:
            if node.op == "placeholder":
                plain[node] = quantized[node] = images
                continue
            if node.op == "output":
                return
            is_quantizer = node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), FakeQuantize)
            plain[node] = plain[node.args[0]] if is_quantizer else compute(runner, node, plain)
            quantized[node] = plain[node] if node.op == "get_attr" else compute(runner, node, quantized)
            if reference and node.op == "get_attr":
                # Statistics of a BatchNorm that could not be folded are not parameters, and never changed.
                plain[node] = reference.get(str(node.target), plain[node])
            yield node, plain, quantized
            for source in node.all_input_nodes:
                if last_reader[source] is node:
                    plain.pop(source, None)
                    quantized.pop(source, None)
