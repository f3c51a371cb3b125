"""`openvino`: Intel OpenVINO on CPU."""

from __future__ import annotations

from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.placement import Kernels
from yoloquant.targets.target import Target

# OpenVINO's low-precision transformations want unsigned activations and signed weights on x86 (OpenVINO documentation,
# "Low Precision Transformations"); activations fuse into the convolution, so nothing may stand between the two. No layer stays in
# float: YOLOv5n's three costliest work on the largest maps, where float takes an eighth of the whole time, and they mend 0.1 mAP;
# the last layers take 3 % of YOLO11n's time in float, and their share of the detection error is a twentieth.
# x86 processors without VNNI add pairs of products in 16 bits, which saturate: 255 * 127 * 2 does not fit, 255 * 64 * 2 does. The
# image is where values near 255 stand side by side, so the layers that read it have weights of 7 bits, as nncf's files have.
OPENVINO = Target(
    name="openvino",
    summary="Intel OpenVINO on CPU: uint8 activations with zero point, int8 weights per channel.",
    weights=TensorSpec(granularity="channel", narrow=True),
    activations=TensorSpec(signed=False, symmetric=False, observer="mse"),
    bits=frozenset({7, 8}),
    input_weight_bits=7,
    float_outputs=False,
    costly_layers=0,
    carries_integers=True,
    fuses_activations=True,
    unsigned_activations=True,
    # Its transposed convolutions are in integers where the input has no zero point, and in float with a pair in vain elsewhere.
    kernels=Kernels(at_lowest=frozenset({"conv_transpose"})),
    # The products of attention stay in float, for the reason that `onnxruntime.py` gives.
    rules=(rules.weighted_inputs, rules.add_inputs, rules.share_through_same_values),
    sources=(
        'OpenVINO documentation, "Low Precision Transformations"',
        'OpenVINO documentation, "Saturation (overflow) Issue Workaround"',
    ),
)
