"""Write SiLU as the one operator that ONNX Runtime computes it with."""

from __future__ import annotations

import onnx_ir as ir

from yoloquant.exporting.lowering import replace_value

DOMAIN = "com.microsoft"
OP_TYPE = "QuickGelu"


def fuse_silu(model: ir.Model) -> int:
    """Replace `x * sigmoid(x)` by `com.microsoft.QuickGelu` with alpha 1, which is the same function, in place.

    ONNX Runtime fuses the two itself in float graphs (`QuickGeluFusion`). Behind a DequantizeLinear it does not: it first gives
    sigmoid and product a DequantizeLinear each, so that they no longer share their input, and computes four operators instead of
    two. OpenVINO reads the operator, too.

    Returns:
        How many were replaced.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        product = _product_of(node)
        if product is None:
            continue
        fused = ir.node(OP_TYPE, [node.inputs[0]], domain=DOMAIN, attributes={"alpha": 1.0}, name=product.name)
        output = product.outputs[0]
        fused.outputs[0].name, fused.outputs[0].type, fused.outputs[0].shape = output.name, output.type, output.shape
        graph.insert_before(product, fused)
        replace_value(output, fused.outputs[0])
        graph.remove([product, node], safe=True)
        count += 1
    if count:
        model.opset_imports[DOMAIN] = 1
    return count


def _product_of(node: ir.Node) -> ir.Node | None:
    """The Mul of a sigmoid's output with its input; none if anything else reads that output."""
    if node.op_type != "Sigmoid" or node.outputs[0].is_graph_output():
        return None
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) != 1 or readers[0].op_type != "Mul" or node.inputs[0] not in readers[0].inputs:
        return None
    return readers[0]
