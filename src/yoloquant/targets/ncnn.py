"""`ncnn`: Tencent ncnn's int8 layers."""

from __future__ import annotations

from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.placement import Kernels
from yoloquant.targets.target import Target

# Each convolution and inner product quantizes the one blob that it reads, symmetrically to -127..127, and answers in float unless
# the next layer is of the same kind; concats, additions and pools stay in float, so nothing is gained by shared scales.
NCNN = Target(
    name="ncnn",
    summary="Tencent ncnn: inputs and weights of convolutions, symmetric -127..127; all else in float, no scale is shared.",
    weights=TensorSpec(granularity="channel", narrow=True),
    activations=TensorSpec(signed=True, symmetric=True, narrow=True, observer="mse"),
    float_outputs=True,
    rules=(rules.weighted_inputs,),
    kernels=Kernels(layers=frozenset({"conv", "linear"})),
    symmetric_activations_only=True,
    runtimes=("onnxruntime",),
    sources=(
        "ncnn, docs/how-to-use-and-FAQ/quantized-int8-inference.md: int8 inputs and weights of layers",
        "ncnn, src/layer/convolution.cpp: quantize_to_int8, requantization between neighbouring convolutions only",
    ),
)
