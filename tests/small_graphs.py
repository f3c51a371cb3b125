"""Small ONNX graphs of an operator or two."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 8, 13, 10)


def graph(nodes, constants, shape=SHAPE, output=None):
    """An ONNX graph from `x` to `y`."""
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(content, name) for name, content in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, ["x", *inputs], ["y"], name="layer", **attributes)


def ints(*values):
    return np.array(values, np.int64)
