"""`npu-pow2-zero-point`: accelerators that rescale by shifting, and whose tensors may have a zero point."""

from __future__ import annotations

from dataclasses import replace

from yoloquant.spec import TensorSpec
from yoloquant.targets.npu_pow2 import NPU_POW2

# SiLU answers -0.28 at least, and mostly far more than 0.28: with zero point 0 nearly half of the integers stand for values that
# never occur. A zero point costs no multiplier: what it adds to a convolution is a constant, which the bias takes up.
NPU_POW2_ZERO_POINT = replace(
    NPU_POW2,
    name="npu-pow2-zero-point",
    summary="As npu-pow2, but activations have a zero point: all 256 integers serve SiLU, whose outputs are hardly negative.",
    activations=TensorSpec(signed=False, symmetric=False, power_of_two=True, observer="mse"),
    symmetric_activations_only=False,
    runtimes=("onnxruntime", "openvino"),
    sources=(
        *NPU_POW2.sources,
        "Sony Model Compression Toolkit, shift negative correction: SiLU moved to unsigned integers, the bias takes up the rest",
    ),
)
