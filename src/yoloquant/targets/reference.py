"""`reference`: no runtime in mind; the minimum set of quantizers, any width."""

from __future__ import annotations

from yoloquant.spec import TensorSpec
from yoloquant.targets import rules
from yoloquant.targets.target import Target

REFERENCE = Target(
    name="reference",
    summary="No constraint: weights and inputs of convolutions only, any width; for research and comparisons.",
    weights=TensorSpec(granularity="channel", narrow=True),
    activations=TensorSpec(signed=False, symmetric=False, observer="mse"),
    rules=(rules.weighted_inputs, rules.matmul_inputs),
    bits=frozenset({2, 3, 4, 5, 6, 7, 8, 16}),
    groups=True,
)
