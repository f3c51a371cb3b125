"""ONNX operators in torch against ONNX Runtime, node by node."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from yoloquant.checkpoint.onnx_file import _describe_node
from yoloquant.models.architecture import build

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


def test_shapes_are_computed_as_python_values():
    node = helper.make_node("Shape", ["x"], ["shape"])
    shape = build(_describe_node(node, {}, 17, 0))([torch.zeros(2, 3, 4, 5)])
    gather = helper.make_node("Gather", ["shape", "index"], ["size"])
    size = build(_describe_node(gather, {"index": np.array(2)}, 17, 0))([shape, None])
    concat = helper.make_node("Concat", ["a", "b"], ["sizes"], axis=0)
    sizes = build(_describe_node(concat, {"b": integers(-1)}, 17, 0))([[size], None])
    assert (shape, size, sizes) == ([2, 3, 4, 5], 4, [4, -1])
