"""`tflite`: TensorFlow Lite (LiteRT) with full integer kernels."""

from __future__ import annotations

from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.base import Target

# Every tensor is int8 with a zero point, also between a convolution and an activation that is not ReLU; CONCATENATION,
# MAX_POOL_2D, SLICE, RESHAPE and TRANSPOSE must have one scale and zero point on all sides. SiLU is LOGISTIC and MUL there; the
# answer of LOGISTIC has the fixed scale 1/256, which lies inside of an activation here.
TFLITE = Target(
    name="tflite",
    summary="TensorFlow Lite, full integer: int8 activations with zero point everywhere, int8 weights per channel.",
    weights=TensorSpec(granularity="channel", narrow=True),
    activations=TensorSpec(signed=True, symmetric=False, observer="mse"),
    float_outputs=False,
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
    sources=("LiteRT 8-bit quantization specification, ai.google.dev/edge/litert/models/quantization_spec",),
)
