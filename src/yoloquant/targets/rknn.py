"""`rknn`: Rockchip's NPUs through RKNN-Toolkit2."""

from __future__ import annotations

from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.target import Target

# "asymmetric_quantized-8" with the quantized method "channel": int8 activations with a zero point, symmetric weights. The toolkit
# fuses SiLU and its kin into the convolution before, so nothing may stand between the two.
RKNN = Target(
    name="rknn",
    summary="Rockchip NPUs through RKNN-Toolkit2: int8 activations with zero point, int8 weights per channel, fused activations.",
    weights=TensorSpec(granularity="channel", narrow=True),
    symmetric_weights_only=True,
    activations=TensorSpec(signed=True, symmetric=False, observer="mse"),
    float_outputs=True,
    rules=(rules.weighted_inputs, rules.matmul_inputs, rules.add_inputs, rules.share_through_same_values),
    runtimes=("onnxruntime",),
    sources=(
        "RKNN-Toolkit2 user guide, rknn.config: quantized_dtype asymmetric_quantized-8, quantized_method channel",
        "RKNN-Toolkit2 CHANGELOG: 1.5.0 fuses Conv with SiLU, 1.1.0 mixes INT8 with FP16, 2.0.0 reads ONNX with Q/DQ",
    ),
)
