"""What shared code asks of YOLOX."""

from __future__ import annotations

from yoloquant.models.family import Family, OnnxReader
from yoloquant.models.onnx.outputs import OnnxFacts, OnnxOutputs
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.models.yolox.head import GridHead

# Operators that only move or squash values: a head of these alone decodes nothing.
_NO_DECODING = frozenset(
    {"Sigmoid", "Concat", "Reshape", "Transpose", "Identity", "Shape", "Gather", "Slice", "Unsqueeze", "Squeeze", "Cast",
     "Constant", "Flatten"}
)  # fmt: skip
# Its images are read by OpenCV and not scaled.
_PREPROCESSING = Preprocessing(bgr=True, maximum=255.0, top_left=True)


def onnx_facts(outputs: OnnxOutputs) -> OnnxFacts | None:
    """Rows that are not decoded, or whose sizes were logarithms (Exp)."""
    operators = outputs.head_operators if outputs.layout == GridHead.layout else frozenset()
    undecoded = bool(operators) and operators <= _NO_DECODING
    if not undecoded and "Exp" not in operators:
        return None
    names, strides, size = outputs.names_or(), outputs.strides, outputs.input_size
    decoder = GridHead(len(names), list(strides), size) if undecoded else None
    return OnnxFacts(names, strides, size, GridHead.layout, decoder, _PREPROCESSING, FAMILY.name)


FAMILY = Family(name="yolox", head=GridHead, onnx=OnnxReader(facts=onnx_facts))
