"""A target: 6-bit weights, and inputs of convolutions alone."""

from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.target import Target

SAMPLE = Target(
    name="sample",
    summary="A sample of a target.",
    weights=TensorSpec(bits=6, granularity="channel"),
    activations=TensorSpec(signed=False, symmetric=False, observer="half"),
    bits=frozenset({6, 8}),
    rules=(rules.weighted_inputs,),
    runtimes=("onnxruntime",),
)
