"""`onnxruntime`: ONNX Runtime's CPU execution provider."""

from __future__ import annotations

from yoloquant.graph.operators import is_relu
from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.placement import Kernels
from yoloquant.targets.target import Target

# The fastest integer kernels on x86 multiply unsigned activations with signed weights (VNNI's vpdpbusd; ONNX Runtime
# documentation, "Quantize ONNX models", on U8S8). With three input channels they have little to multiply at once: YOLOv5n's first
# layer took 5.7 ms in integers, a third of the whole file, and one in float. It stays in float, and two more beside it. Where a
# recipe wants it in integers, its weights have 7 bits, for the reason that `openvino.py` gives.
ONNXRUNTIME = Target(
    name="onnxruntime",
    summary="ONNX Runtime on CPU: uint8 activations with zero point, int8 weights per channel, QLinear operators.",
    weights=TensorSpec(granularity="channel", narrow=True),
    activations=TensorSpec(signed=False, symmetric=False, observer="mse"),
    bits=frozenset({7, 8}),
    input_weight_bits=7,
    float_outputs=True,
    float_inputs=True,
    fused_silu=True,
    integer_hardswish=True,
    needs_output_quantizer=True,
    costly_layers=2,
    # Of activations it has LeakyRelu and Sigmoid on integers (QLinearLeakyRelu, QLinearSigmoid), and computes the others in float
    # between two pairs; transposed convolutions it computes in float alone.
    kernels=Kernels(layers=frozenset({"conv", "linear"}), merges=is_relu, merges_at_lowest=True),
    # The products of attention stay in float: in integers YOLO11n is not faster (within 1 %, ratios of medians), since softmax is
    # computed in float in between, and its many small outputs make an eighth of the detection error.
    rules=(
        rules.weighted_inputs,
        rules.convolution_outputs,
        rules.activation_outputs,
        rules.share_through_same_values,
    ),
    sources=(
        'ONNX Runtime documentation, "Quantize ONNX models": U8S8 on x86',
        "onnxruntime/core/optimizer/qdq_transformer/selectors_actions: QLinearConv needs Q behind the convolution",
    ),
)
