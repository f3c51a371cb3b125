"""`tflite`: TensorFlow Lite (LiteRT) with full integer kernels."""

from __future__ import annotations

from torch.fx import Node

from yoloquant.graph.operators import aten, clamp_of
from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.placement import Kernels
from yoloquant.targets.target import Target


def _is_fused(node: Node) -> bool:
    """The activation is one of the schema's ActivationFunctionType that its integer layers take: RELU, RELU6, RELU_N1_TO_1."""
    return node.target is aten.relu.default or clamp_of(node) in ((0.0, 6.0), (-1.0, 1.0))


# Every tensor is int8 with a zero point, also between a convolution and an activation that is not ReLU; CONCATENATION,
# MAX_POOL_2D, SLICE, RESHAPE and TRANSPOSE must have one scale and zero point on all sides. SiLU is LOGISTIC and MUL there; the
# output of LOGISTIC, like that of SOFTMAX, has the fixed scale 1/256 and zero point -128, and that of TANH 1/128 and 0.
TFLITE = Target(
    name="tflite",
    summary="TensorFlow Lite, full integer: int8 activations with zero point everywhere, int8 weights per channel.",
    weights=TensorSpec(granularity="channel", narrow=True),
    symmetric_weights_only=True,
    activations=TensorSpec(signed=True, symmetric=False, observer="mse"),
    float_outputs=False,
    fixed_ranges={
        aten.softmax.int: (0.0, 255 / 256),
        aten.sigmoid.default: (0.0, 255 / 256),
        aten.tanh.default: (-1.0, 127 / 128),
    },
    has_silu=False,
    kernels=Kernels(merges=_is_fused),
    rules=(
        rules.weighted_inputs,
        rules.matmul_inputs,
        rules.convolution_outputs,
        rules.add_inputs,
        rules.activation_outputs,
        rules.network_outputs,
        rules.share_through_same_values,
    ),
    runtimes=("onnxruntime",),
    sources=(
        "LiteRT 8-bit quantization specification, ai.google.dev/edge/litert/models/quantization_spec",
        "tensorflow/lite/schema/schema.fbs, ActivationFunctionType",
    ),
)
