"""ONNX operators in torch against ONNX Runtime, node by node."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from yoloquant.checkpoint.onnx_constants import fold_constants
from yoloquant.checkpoint.read_onnx import _describe, _describe_node
from yoloquant.models.architecture import build
from yoloquant.models.onnx.cut import Cut

RNG = np.random.default_rng(0)


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def integers(*values):
    return np.array(values, np.int64)


X = (2, 4, 7, 9)
# Name -> operator, shapes of inputs or constants, attributes, operator set.
CASES = {
    "convolution, asymmetric": ("Conv", [X, weights(6, 4, 3, 3), weights(6)], {"pads": [0, 1, 2, 1], "strides": [2, 1]}, 17),
    "convolution, padded to the same size": ("Conv", [X, weights(6, 4, 3, 4)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 17),
    "convolution, padded below": ("Conv", [X, weights(6, 4, 4, 4)], {"auto_pad": "SAME_LOWER"}, 17),
    "convolution in groups": ("Conv", [X, weights(6, 2, 3, 3)], {"group": 2, "dilations": [2, 1], "pads": [1] * 4}, 11),
    "transposed convolution": (
        "ConvTranspose", [X, weights(4, 3, 3, 3), weights(3)], {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}, 17,
    ),
    "transposed, asymmetric": ("ConvTranspose", [X, weights(4, 3, 3, 3)], {"strides": [2, 2], "pads": [0, 0, 1, 1]}, 17),
    "product with weights": ("Gemm", [(3, 5), weights(4, 5), weights(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 17),
    "matrix product": ("MatMul", [(2, 3, 5), (2, 5, 4)], {}, 17),
    "batch norm": (
        "BatchNormalization", [X, weights(4), weights(4), weights(4), np.abs(weights(4)) + 1], {"epsilon": 0.01}, 17,
    ),
    "relu": ("Relu", [X], {}, 17),
    "leaky relu": ("LeakyRelu", [X], {"alpha": 0.1}, 17),
    "prelu": ("PRelu", [X, np.abs(weights(4, 1, 1))], {}, 17),
    "elu": ("Elu", [X], {"alpha": 0.7}, 17),
    "hard sigmoid": ("HardSigmoid", [X], {}, 17),
    "hard sigmoid as torch has it": ("HardSigmoid", [X], {"alpha": 1 / 6, "beta": 0.5}, 17),
    "hard swish": ("HardSwish", [X], {}, 17),
    "mish": ("Mish", [X], {}, 18),
    "gelu": ("Gelu", [X], {"approximate": "tanh"}, 20),
    "clip by inputs": ("Clip", [X, np.float32(-0.5), np.float32(0.5)], {}, 17),
    "clip by attributes": ("Clip", [X], {"min": 0.0, "max": 6.0}, 10),
    "softmax": ("Softmax", [X], {"axis": 1}, 17),
    "maximum": ("Max", [X, X, X], {}, 17),
    "mean over axes": ("ReduceMean", [X], {"axes": [2, 3], "keepdims": 0}, 17),
    "mean over axes given as an input": ("ReduceMean", [X, integers(1)], {}, 18),
    "maximum over an axis": ("ReduceMax", [X], {"axes": [1]}, 13),
    "max pooling, ceiling": ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 17),
    "max pooling, padded": ("MaxPool", [X], {"kernel_shape": [5, 5], "pads": [2] * 4}, 11),
    "max pooling, asymmetric": ("MaxPool", [X], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, 11),
    "average pooling": ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}, 17),
    "average pooling without padding": ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1] * 4}, 17),
    "global pooling": ("GlobalAveragePool", [X], {}, 17),
    "resize by factors": (
        "Resize", [X, np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 13,
    ),
    "resize to a size": (
        "Resize", [X, np.zeros(0, np.float32), np.zeros(0, np.float32), integers(2, 4, 14, 27)],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 13,
    ),
    "resize linearly": ("Resize", [X, np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, 13),
    "pad": ("Pad", [X, integers(0, 0, 1, 2, 0, 0, 3, 0), np.float32(0.5)], {}, 13),
    "pad by attribute": ("Pad", [X], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}, 10),
    "space to depth": ("SpaceToDepth", [(2, 4, 6, 8)], {"blocksize": 2}, 17),
    "depth to space": ("DepthToSpace", [(2, 8, 3, 5)], {"blocksize": 2}, 17),
    "depth to space, columns first": ("DepthToSpace", [(2, 8, 3, 5)], {"blocksize": 2, "mode": "CRD"}, 17),
    "concat": ("Concat", [X, X], {"axis": 1}, 17),
    "split evenly": ("Split", [X], {"axis": 1}, 17),
    "split by input": ("Split", [X, integers(1, 3)], {"axis": 1}, 13),
    "split by attribute": ("Split", [X], {"axis": 1, "split": [3, 1]}, 11),
    "slice": ("Slice", [X, integers(1, 0), integers(-1, 2**62), integers(2, 3), integers(1, 2)], {}, 17),
    "slice by attributes": ("Slice", [X], {"starts": [1], "ends": [3], "axes": [1]}, 9),
    "reshape": ("Reshape", [X, integers(0, 2, -1, 9)], {}, 17),
    "transpose": ("Transpose", [X], {"perm": [0, 2, 3, 1]}, 17),
    "flatten": ("Flatten", [X], {"axis": 2}, 17),
    "squeeze": ("Squeeze", [(2, 1, 3), integers(1)], {}, 17),
    "squeeze by attribute": ("Squeeze", [(2, 1, 3)], {"axes": [1]}, 11),
    "unsqueeze": ("Unsqueeze", [(2, 3), integers(1)], {}, 17),
    "gather": ("Gather", [X, integers(2, 0)], {"axis": 1}, 17),
    "clip by one-element tensors": ("Clip", [X, np.float32([0.0]), np.float32([1.0])], {}, 12),
    "clip below": ("Clip", [X, np.float32(-0.5)], {}, 17),
    "product with a number": ("Mul", [X, np.float32(1 / 6)], {}, 17),
    "product with one element": ("Mul", [X, np.float32([0.5])], {}, 17),
    "sum with a map": ("Add", [X, weights(1, 4, 1, 1)], {}, 17),
    "quotient": ("Div", [X, np.float32(6)], {}, 17),
    "power": ("Pow", [X, np.float32(2)], {}, 17),
}  # fmt: skip


class Called(torch.nn.Module):
    """A node as a module of tensors, as `torch.export` sees it; its constants must not become tensors whose values matter."""

    def __init__(self, node, names):
        super().__init__()
        self.node, self.names = node, names

    def forward(self, *values):
        return self.node([*values, *[None] * (len(self.names) - len(values))])


@pytest.mark.parametrize("name", CASES)
def test_a_node_answers_as_in_onnx_runtime(name):
    op, inputs, attributes, opset = CASES[name]
    outputs = ["y0", "y1"] if op == "Split" else ["y0"]
    names = [f"x{index}" for index in range(len(inputs))]
    node = helper.make_node(op, names, outputs, name="the_node", **attributes)
    free = {
        name: RNG.normal(size=shape).astype(np.float32) for name, shape in zip(names, inputs, strict=True) if type(shape) is tuple
    }
    constants = {name: np.asarray(value) for name, value in zip(names, inputs, strict=True) if type(value) is not tuple}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in free.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, free)
    module = build(_describe_node(node, constants, opset, 0))
    with torch.no_grad():
        answer = module([torch.from_numpy(free[name]) if name in free else None for name in names])
    for found, value in zip(answer if isinstance(answer, tuple) else (answer,), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-4, atol=1e-4)
    captured = torch.export.export(Called(module, names), tuple(torch.from_numpy(value) for value in free.values())).module()
    with torch.no_grad():
        again = captured(*(torch.from_numpy(value) for value in free.values()))
    for found, value in zip(again if isinstance(again, tuple) else (again,), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-4, atol=1e-4)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], **attributes)


FREE = torch.export.Dim.AUTO
SHAPE = node("Shape", "x", "shape")
# Graphs that compute shapes at run time -> nodes, constants.
COMPUTED = {
    "a size between others, as torch writes views": (
        [SHAPE, node("Gather", "shape two", "size"), node("Unsqueeze", "size zero", "sizes"),
         node("Concat", "batch sizes rest", "wanted", axis=0), node("Reshape", "x wanted", "y")],
        {"two": np.array(2), "zero": integers(0), "batch": integers(0), "rest": integers(-1)},
    ),
    "twice the size, as old exporters write upsampling": (
        [SHAPE, node("Slice", "shape two four", "sides"), node("Cast", "sides", "wide", to=TensorProto.FLOAT),
         node("Mul", "wide factors", "scaled"), node("Floor", "scaled", "whole"), node("Cast", "whole", "sizes", to=7),
         node("Slice", "shape zero two", "kept"), node("Concat", "kept sizes", "wanted", axis=0),
         node("Resize", "x none none wanted", "y", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        {"zero": integers(0), "two": integers(2), "four": integers(4), "factors": np.float32([2, 2]),
         "none": np.zeros(0, np.float32)},
    ),
    "an expansion whose sizes may be -1": (
        [SHAPE, node("ConstantOfShape", "rank", "ones", value=numpy_helper.from_array(integers(1))),
         node("Mul", "ones minus", "all_minus"), node("Equal", "shape all_minus", "is_minus"),
         node("Where", "is_minus ones shape", "wanted"), node("Expand", "row wanted", "wide"), node("Add", "x wide", "y")],
        {"rank": integers(4), "minus": integers(-1), "row": weights(1, 4, 1, 1)},
    ),
    "arithmetic on sizes": (
        [SHAPE, node("Gather", "shape last", "sides"),
         node("ReduceProd", "sides", "area", keepdims=1), node("Div", "area three", "third"), node("Mod", "area three", "left"),
         node("Mul", "third three", "whole"), node("Add", "whole left", "again"), node("Max", "again one", "most"),
         node("Concat", "kept most", "wanted", axis=0), node("Reshape", "x wanted", "y")],
        {"last": integers(2, 3), "three": integers(3), "one": integers(1), "kept": integers(0, 4)},
    ),
    "positions by a range": (
        [SHAPE, node("Gather", "shape three", "width"), node("Range", "start width step", "cells"),
         node("Cast", "cells", "positions", to=TensorProto.FLOAT), node("Add", "x positions", "y")],
        {"three": np.array(3), "start": np.array(0), "step": np.array(1)},
    ),
    "a filled map": (
        [SHAPE, node("ConstantOfShape", "shape", "halves", value=numpy_helper.from_array(np.float32([0.5]))),
         node("Add", "x halves", "y")],
        {},
    ),
    "a part of the width": (
        [SHAPE, node("Gather", "shape three", "width"), node("Div", "width two", "half"), node("Unsqueeze", "half zero", "end"),
         node("Slice", "x zero end axis", "y")],
        {"three": np.array(3), "two": np.array(2), "zero": integers(0), "axis": integers(3)},
    ),
    "the number of values": (
        [node("Size", "x", "count"), node("Reshape", "count one", "whole"), node("Reshape", "x whole", "y")],
        {"one": integers(1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_shapes_are_computed_as_the_runtime_computes_them_at_every_size(name):
    nodes, constants = COMPUTED[name]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = build(_describe(model, Cut(tuple(range(len(nodes))), (), ("y",)), constants))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    example = torch.zeros(3, 4, 8, 12)
    captured = torch.export.export(network, (example,), dynamic_shapes=({0: FREE, 2: FREE, 3: FREE},), strict=False).module()
    for shape in ((3, 4, 8, 12), (2, 4, 16, 6)):
        x = RNG.normal(size=shape).astype(np.float32)
        (expected,) = session.run(None, {"x": x})
        with torch.no_grad():
            for found in (network(torch.from_numpy(x)), captured(torch.from_numpy(x))):
                np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_what_depends_on_constants_alone_is_computed_once():
    kernel = weights(4, 3, 1, 1)
    nodes = [
        node("Cast", "kernel", "wide", to=TensorProto.FLOAT),
        node("Transpose", "wide", "turned", perm=[1, 0, 2, 3]),
        node("Identity", "turned", "shared"),
        node("Conv", "x shared", "c"),
        node("Expand", "one huge", "filled"),
        node("Identity", "c", "y"),
    ]
    constants = {"kernel": kernel.astype(np.float16), "one": np.float32([1]), "huge": integers(1 << 20, 1 << 20)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert fold_constants(model) == 3
    # What would be far larger than its inputs stays where it is.
    assert [node.op_type for node in model.graph.node] == ["Conv", "Expand", "Identity"]
    shared = next(tensor for tensor in model.graph.initializer if tensor.name == "shared")
    np.testing.assert_array_equal(
        numpy_helper.to_array(shared), kernel.astype(np.float16).astype(np.float32).transpose(1, 0, 2, 3)
    )
