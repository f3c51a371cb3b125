"""What an ONNX graph computes of constants alone, computed once; and half precision, widened."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from yoloquant.models.onnx.cut import constants_of

_NARROW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
# Their results differ from run to run, or they hold graphs of their own.
_NOT_FOLDED = frozenset({"Constant", "If", "Loop", "Scan", "RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"})
# Operators that repeat values as often as an input says; larger results stay in the graph.
_REPEATING = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad", "OneHot"})
_LARGEST_FOLDED = 1 << 24


def fold_constants(model: onnx.ModelProto) -> int:
    """Replace every node that reads only constants by its result, in place.

    Exporters write weights that are shared, transposed, scaled or widened as nodes in front of their layers, and the grids of
    files of one size as arithmetic on constants.

    Returns:
        How many nodes were replaced.
    """
    graph = model.graph
    constants = constants_of(graph)
    kept, folded = [], {}
    for node in graph.node:
        outputs = _evaluated(node, constants, model.opset_import) if _is_foldable(node, constants) else None
        if outputs is None:
            kept.append(node)
        else:
            constants.update(outputs)
            folded.update(outputs)
    count = len(graph.node) - len(kept)
    if count:
        read = {name for node in kept for name in node.input} | {output.name for output in graph.output}
        del graph.node[:]
        graph.node.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in folded.items() if name in read)
    return count


def _is_foldable(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    if not node.input or node.op_type in _NOT_FOLDED or node.domain not in ("", "ai.onnx"):
        return False
    if not all(name in constants for name in node.input if name):
        return False
    if node.op_type not in _REPEATING:
        return True
    # A size is no larger than the product of all numbers that could be its sides.
    numbers = [abs(float(value)) for name in node.input if name for value in constants[name].ravel()[:16] if value]
    return math.prod(max(number, 1.0) for number in numbers) <= _LARGEST_FOLDED


def _evaluated(node: onnx.NodeProto, constants: dict[str, np.ndarray], opsets: object) -> dict[str, np.ndarray] | None:
    names = dict.fromkeys(name for name in node.input if name)
    graph = onnx.helper.make_graph(
        [node],
        "constants",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in names],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name],
    )
    model = onnx.helper.make_model(graph, opset_imports=list(opsets))  # type: ignore[call-overload]
    try:
        results = ReferenceEvaluator(model).run(None, {name: constants[name] for name in names})
    except Exception:
        # The evaluator lacks operators and raises classes without a common base; such a node stays where it is.
        return None
    return {name: np.asarray(value) for name, value in zip((name for name in node.output if name), results, strict=True)}


def widen(model: onnx.ModelProto) -> bool:
    """Compute in 32-bit floats whatever the file computes in 16 bits, in place.

    Returns:
        Whether there was anything in 16 bits.
    """
    graph = model.graph
    found = sum(_widen_tensor(tensor) for tensor in graph.initializer)
    found += sum(_widen_attribute(attribute, node) for node in graph.node for attribute in node.attribute)
    for value in [*graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            found += 1
    return found > 0


def _widen_tensor(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type not in _NARROW:
        return False
    name, array = tensor.name, numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return True


def _widen_attribute(attribute: onnx.AttributeProto, node: onnx.NodeProto) -> bool:
    if attribute.HasField("t"):
        return _widen_tensor(attribute.t)
    if (node.op_type, attribute.name) in (("Cast", "to"), ("EyeLike", "dtype")) and attribute.i in _NARROW:
        attribute.i = TensorProto.FLOAT
        return True
    return False
