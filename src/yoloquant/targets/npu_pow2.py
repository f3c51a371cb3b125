"""`npu-pow2`: accelerators that rescale by shifting."""

from __future__ import annotations

from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.target import Target

# Every scale is a power of two, zero point 0, the inputs of additions and concats share one scale, and what the network answers
# is quantized, too: no multiplier and no float is left before the decoding.
NPU_POW2 = Target(
    name="npu-pow2",
    summary="Integer accelerators that shift: power-of-two scales everywhere, zero point 0, additions and concats aligned.",
    weights=TensorSpec(granularity="channel", narrow=True, power_of_two=True, observer="mse"),
    activations=TensorSpec(signed=True, symmetric=True, power_of_two=True, observer="mse"),
    rules=(
        rules.weighted_inputs,
        rules.matmul_inputs,
        rules.add_inputs,
        rules.share_addends,
        rules.share_through_same_values,
        rules.network_outputs,
    ),
    symmetric_activations_only=True,
    runtimes=("onnxruntime",),
    sources=("yolov5_qat, the hardware-aligned flow: aligned additions and concats, power-of-two scales",),
)
