"""`tensorrt`: NVIDIA TensorRT with explicit Q/DQ."""

from __future__ import annotations

from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.target import Target

# Symmetric quantization with zero point 0 is all that TensorRT takes (TensorRT developer guide, "Working with quantized
# types"); it fuses the activation after a convolution, so nothing may stand between the two.
TENSORRT = Target(
    name="tensorrt",
    summary="NVIDIA TensorRT: symmetric int8, zero point 0, Q/DQ at inputs of convolutions, additions and concats.",
    weights=TensorSpec(granularity="channel", narrow=True),
    activations=TensorSpec(signed=True, symmetric=True, observer="mse"),
    float_outputs=True,
    fuses_activations=True,
    float_biases=True,
    nms="tensorrt",
    builds_engine=True,
    rules=(rules.weighted_inputs, rules.matmul_inputs, rules.add_inputs, rules.share_through_same_values),
    symmetric_activations_only=True,
    runtimes=("onnxruntime", "tensorrt"),
    sources=(
        'TensorRT developer guide, "Working with quantized types": Q/DQ placement recommendations',
        "NVIDIA yolov7_qat notes: one scale around concats and max pools, additions",
    ),
)
