"""`npu-shift`: accelerators that rescale by shifting, in front of each addition, too."""

from __future__ import annotations

from dataclasses import replace

from yoloquant.targets import rules
from yoloquant.targets.npu_pow2 import NPU_POW2

# As `npu-pow2`, but the inputs of an addition keep a scale each: one of them is shifted before the adder. One
# scale for both is what costs YOLOv5n most of what powers of two cost it.
NPU_SHIFT = replace(
    NPU_POW2,
    name="npu-shift",
    summary="Integer accelerators that shift, also in front of additions: power-of-two scales everywhere, zero point 0.",
    rules=tuple(rule for rule in NPU_POW2.rules if rule is not rules.share_addends),
)
