"""Which aten operator is what kind of layer; the one place that names aten overloads."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.fx import Node

from yoloquant.graph.sizes import is_size, readers

aten = torch.ops.aten

# The kinds are the words that recipes use in `op:` and that reports print.
KINDS: dict[object, str] = {
    aten.conv2d.default: "conv",
    aten.conv2d.padding: "conv",
    aten.conv_transpose2d.input: "conv_transpose",
    aten.linear.default: "linear",
    aten.matmul.default: "matmul",
    aten.bmm.default: "matmul",
    aten.silu.default: "activation",
    aten.relu.default: "activation",
    aten.relu6.default: "activation",
    aten.hardtanh.default: "activation",
    aten.leaky_relu.default: "activation",
    aten.hardswish.default: "activation",
    aten.hardsigmoid.default: "activation",
    aten.sigmoid.default: "activation",
    aten.gelu.default: "activation",
    aten.mish.default: "activation",
    aten.elu.default: "activation",
    aten.prelu.default: "activation",
    aten.softplus.default: "activation",
    aten.tanh.default: "activation",
    # The cap of a ReLU6 whose channels were scaled.
    aten.minimum.default: "activation",
    aten.add.Tensor: "add",
    aten.mul.Tensor: "mul",
    aten.softmax.int: "softmax",
    aten.cat.default: "concat",
    aten.max_pool2d.default: "max_pool",
    aten.avg_pool2d.default: "avg_pool",
    aten.adaptive_avg_pool2d.default: "avg_pool",
    aten.mean.dim: "avg_pool",
    aten.upsample_nearest2d.vec: "upsample",
    aten.upsample_nearest2d.default: "upsample",
    aten.upsample_bilinear2d.vec: "upsample",
    aten.batch_norm.default: "batch_norm",
    aten.slice.Tensor: "view",
    aten.view.default: "view",
    aten.reshape.default: "view",
    aten.permute.default: "view",
    aten.transpose.int: "view",
    aten.flatten.using_ints: "view",
    aten.unsqueeze.default: "view",
    aten.squeeze.dim: "view",
    aten.contiguous.default: "view",
    aten.expand.default: "view",
    aten.split.Tensor: "view",
    aten.split_with_sizes.default: "view",
    aten.chunk.default: "view",
    aten.unbind.int: "view",
    aten.dropout.default: "view",
    aten.clone.default: "view",
    operator.getitem: "view",
}

# Layers that multiply activations with weights; argument 0 is the activation, 1 the weight, 2 the bias.
WEIGHTED = frozenset({"conv", "conv_transpose", "linear"})

_HOMOGENEOUS = frozenset({aten.relu.default, aten.leaky_relu.default, aten.prelu.default})

# Operators whose output holds only values of their input, so that one scale serves both sides.
SAME_VALUES = frozenset({"view", "max_pool", "concat", "upsample"})

IN_PLACE: dict[object, object] = {
    aten.silu_.default: aten.silu.default,
    aten.relu_.default: aten.relu.default,
    aten.relu6_.default: aten.relu6.default,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.leaky_relu_.default: aten.leaky_relu.default,
    aten.hardswish_.default: aten.hardswish.default,
    aten.hardsigmoid_.default: aten.hardsigmoid.default,
    aten.sigmoid_.default: aten.sigmoid.default,
    aten.mish_.default: aten.mish.default,
    aten.elu_.default: aten.elu.default,
    aten.add_.Tensor: aten.add.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
}


def kind(node: Node) -> str:
    """Kind of a node: a value of `KINDS`, "input", "parameter", "output", "size" or "other"."""
    if is_size(node):
        return "size"
    if node.op == "call_function":
        found = KINDS.get(node.target, "other")
        # Bilinear interpolation makes new values; only nearest neighbour repeats old ones.
        return "other" if found == "upsample" and "bilinear" in str(node.target) else found
    return {"placeholder": "input", "get_attr": "parameter", "output": "output"}.get(node.op, "quantizer")


def splitter(node: Node) -> Node | None:
    """The operator that a node picks one of several tensors from: the split of a `getitem`; none for other nodes."""
    source = node.args[0] if node.target is operator.getitem else None
    return source if isinstance(source, Node) else None


def multiplied(node: Node) -> Node | None:
    """The product with a constant that alone reads a node's values; none if there is no such."""
    reading = readers(node)
    return reading[0] if len(reading) == 1 and is_channel_product(reading[0]) else None


def is_channel_product(node: Node) -> bool:
    """The node multiplies a value with a constant for each channel."""
    factor = node.args[1] if node.target is aten.mul.Tensor else None
    return isinstance(factor, Node) and factor.op == "get_attr"


def weight_axis(node: Node) -> int:
    """Axis of the output channels in a weighted node's weight: 0, or 1 for `(I, O/groups, kh, kw)` transposed weights."""
    return 1 if kind(node) == "conv_transpose" else 0


def group_count(node: Node) -> int:
    """Groups of a convolution, transposed or not; 1 for other layers."""
    groups = node.args[6] if kind(node) in ("conv", "conv_transpose") and len(node.args) > 6 else 1
    assert isinstance(groups, int)
    return groups


def channel_axis(node: Node) -> int:
    """Axis of the channels in a node's value: 1 of maps `(N, C, H, W)`, the last of rows `(N, L, C)`."""
    value = node.meta.get("val")
    return value.dim() - 1 if value is not None and value.dim() in (2, 3) else 1


def elementwise(node: Node) -> Callable[[Tensor], Tensor] | None:
    """What an activation does to each value, whatever the tensor's shape; none for anything else.

    PReLU and the cap of a ReLU6 whose channels were scaled differ from channel to channel, and count as anything else.
    """
    if kind(node) != "activation" or any(isinstance(other, Node) for other in node.args[1:]):
        return None
    operator_, constants, options = node.target, node.args[1:], node.kwargs
    assert callable(operator_)
    return lambda values: operator_(values, *constants, **options)


def sole_activation(reading: Iterable[Node]) -> Callable[[Tensor], Tensor] | None:
    """What is done to each value that these nodes read, where they are one activation, or several that do the same."""
    different = {(node.target, node.args[1:], tuple(node.kwargs.items())): node for node in reading}
    return elementwise(*different.values()) if len(different) == 1 else None


def clamp_of(node: Node) -> tuple[float, float] | None:
    """Between which values an activation clamps: 0 and 6 for a ReLU6; none for anything else."""
    if node.target == aten.relu6.default:
        return 0.0, 6.0
    if node.target == aten.hardtanh.default:
        given = [float(end) for end in node.args[1:3]]  # type: ignore[arg-type]
        low, high = given + [-1.0, 1.0][len(given) :]
        return low, high
    return None


def cap_of(node: Node) -> float | None:
    """Where a ReLU6 saturates; none for anything else."""
    clamp = clamp_of(node)
    return clamp[1] if clamp is not None and clamp[0] == 0.0 else None


def is_homogeneous(node: Node) -> bool:
    """`f(s * x) = s * f(x)` for every s > 0, where its cap, if it has one, is scaled, too."""
    return node.target in _HOMOGENEOUS or is_capped(node)


def is_capped(node: Node) -> bool:
    """ReLU6, or the minimum that stands for its cap once channels were scaled."""
    return cap_of(node) is not None or node.target is aten.minimum.default


def is_relu(node: Node) -> bool:
    """ReLU, or ReLU with a cap: nothing changes but values outside of a range that begins at 0."""
    return node.target is aten.relu.default or cap_of(node) is not None
