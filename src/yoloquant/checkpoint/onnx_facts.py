"""What can be told about an ONNX file: its own metadata, or what the families' exporters are known to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from yoloquant.checkpoint.onnx_branch import branch_in
from yoloquant.errors import CheckpointError
from yoloquant.export.metadata import ModelMetadata, names_of
from yoloquant.models.architecture import describe
from yoloquant.models.detector import Head
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.grid_head import BatchRowsHead, GridHead, JoinedMapsHead, RawAnchorsHead
from yoloquant.models.onnx.cut import constants_of, find_cut
from yoloquant.models.preprocessing import PLAIN, Preprocessing
from yoloquant.models.yolov5.network import AnchorHead

# YOLOv5's anchors for COCO, pixels; files with undecoded maps do not hold their own.
DEFAULT_ANCHORS = [
    [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
    [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
    [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
]
_STRIDES = (8, 16, 32)
# Operators that only move or squash values: a head of these alone decodes nothing.
_NO_DECODING = frozenset(
    {"Sigmoid", "Concat", "Reshape", "Transpose", "Identity", "Shape", "Gather", "Slice", "Unsqueeze", "Squeeze", "Cast",
     "Constant", "Flatten"}
)  # fmt: skip
# Heads with suppression answer with at most so many rows; undecoded and decoded ones have more.
_MOST_FINAL_ROWS = 1000


@dataclass(frozen=True)
class OnnxFacts:
    """A detector's file.

    Attributes:
        names: class names.
        strides: of the levels, pixels.
        input_size: `(height, width)`, pixels.
        family: "yolox", or "onnx".
        layout: of the decoded output.
        decoder: turns the outputs into the layout; none if the first output has it already.
        preprocessing: that the file wants.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    input_size: tuple[int, int]
    family: str
    layout: str
    decoder: Head | None = None
    preprocessing: Preprocessing = PLAIN


def load_onnx(path: Path | bytes) -> onnx.ModelProto:
    """Read and check an ONNX model.

    Raises:
        CheckpointError: it is missing, no ONNX model, or has no graph.
    """
    name = "the model in memory" if isinstance(path, bytes) else str(path)
    try:
        model = onnx.load_model_from_string(path) if isinstance(path, bytes) else onnx.load(str(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {name}") from error
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise CheckpointError(f"{name} is not an ONNX model, or is damaged: export it again") from error
    if not model.graph.node or not model.graph.input or not model.graph.output:
        raise CheckpointError(f"{name} is not an ONNX model, or is damaged: its graph is empty")
    return model


def read_metadata(path: Path | bytes) -> ModelMetadata:
    """Facts from the file's metadata, or for files of other exporters from their shapes.

    Raises:
        CheckpointError: the file is damaged, or its output is no detector's.
    """
    model = load_onnx(path)
    own = ModelMetadata.from_properties(_properties(model))
    if own is not None:
        return own
    facts = foreign_facts(model)
    return ModelMetadata(
        facts.names,
        facts.strides,
        facts.input_size,
        facts.family,
        facts.layout,
        extra={**extra_facts(facts.decoder, facts.preprocessing), "branch": branch_in(model)},
    )


def extra_facts(decoder: Head | None, preprocessing: Preprocessing) -> dict[str, Any]:
    """What a runner needs beside layout and names, for `ModelMetadata.extra`."""
    extra: dict[str, Any] = {}
    if decoder is not None:
        extra["decoder"] = describe(decoder).to_dict()
    if preprocessing != PLAIN:
        extra["preprocessing"] = preprocessing.to_dict()
    return extra


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def foreign_facts(model: onnx.ModelProto) -> OnnxFacts:
    """Facts of a file, by its metadata if this project wrote it, by shapes and operators otherwise.

    Raises:
        CheckpointError: its outputs are no detector's.
    """
    properties = _properties(model)
    own = ModelMetadata.from_properties(properties)
    if own is not None:
        return OnnxFacts(own.names, own.strides, own.input_size, own.family, own.layout)
    sides = _shape(model.graph.input[0])[2:4]
    size = (sides[0], sides[1]) if len(sides) == 2 and all(sides) else (640, 640)
    shapes = _output_shapes(model, size)
    names = names_of(properties)
    strides = _STRIDES if size[0] % 32 == 0 else (int(properties.get("stride", "32")),)
    if len(shapes[0]) == 2 and shapes[0][1] == 7:
        classes = names or _numbered(80)
        return OnnxFacts(classes, strides, size, "onnx", "rows_final", BatchRowsHead(len(classes)))
    if len(shapes[0]) == 3:
        return _rows_facts(model, shapes[0], names, strides, size)
    if len(shapes) == 3 and all(len(shape) in (4, 5) for shape in shapes):
        return _maps_facts(shapes, names, size)
    told = ", ".join(str(shape) for shape in shapes)
    raise CheckpointError(
        f"its outputs {told} are not a detector's as the families' exporters write them, (N, A, 5+C), (N, 4+C, A), (N, K, 6), "
        "or three maps: export it with its detection head"
    )


def _rows_facts(
    model: onnx.ModelProto, shape: tuple[int, ...], names: tuple[str, ...] | None, strides: tuple[int, ...], size: tuple[int, int]
) -> OnnxFacts:
    """One decoded output (or YOLOX's, which may not be decoded)."""
    if shape[2] == 6 and shape[1] <= _MOST_FINAL_ROWS:
        return OnnxFacts(names or _numbered(80), strides, size, "onnx", "rows_final")
    # There are always many more candidate boxes than values for each.
    if shape[1] < shape[2]:
        return OnnxFacts(names or _numbered(shape[1] - 4), strides, size, "onnx", "columns_classes")
    classes = names or _numbered(shape[2] - 5)
    operators = _head_operators(model)
    if operators and operators <= _NO_DECODING:
        decoder = GridHead(len(classes), list(strides), size)
        return OnnxFacts(classes, strides, size, "yolox", "rows_objectness", decoder, Preprocessing(True, 255.0, True))
    if "Exp" in operators:
        return OnnxFacts(classes, strides, size, "yolox", "rows_objectness", None, Preprocessing(True, 255.0, True))
    return OnnxFacts(classes, strides, size, "onnx", "rows_objectness")


def _maps_facts(shapes: list[tuple[int, ...]], names: tuple[str, ...] | None, size: tuple[int, int]) -> OnnxFacts:
    """Three undecoded maps."""
    strides = tuple(size[0] // (shape[2] if len(shape) == 4 or shape[1] <= 4 else shape[1]) for shape in shapes)
    first = shapes[0]
    values = first[4] if len(first) == 5 else first[1]
    anchored = len(first) == 5 or (values % 3 == 0 and values // 3 - 5 == len(names or _numbered(80)))
    if anchored:
        classes = names or _numbered((values if len(first) == 5 else values // 3) - 5)
        anchors = AnchorHead(len(classes), list(strides), DEFAULT_ANCHORS)
        return OnnxFacts(classes, strides, size, "onnx", "rows_objectness", RawAnchorsHead(anchors))
    classes = names or _numbered(values - 64)
    bins = (values - len(classes)) // 4
    if bins < 1:
        raise CheckpointError(
            f"its maps have {values} channels, too few for {len(classes)} classes: export it with its detection head"
        )
    decoder = DistanceHead("columns_classes", len(classes), list(strides), bins)
    return OnnxFacts(classes, strides, size, "onnx", "columns_classes", JoinedMapsHead(decoder))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))


def _head_operators(model: onnx.ModelProto) -> frozenset[str]:
    """Operators behind the last convolutions."""
    try:
        cut = find_cut(model.graph, constants_of(model.graph))
    except CheckpointError:
        return frozenset()
    return frozenset(model.graph.node[index].op_type for index in cut.head)


def _output_shapes(model: onnx.ModelProto, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of the outputs, measured with a black image where the file leaves them free."""
    shapes = [_shape(output) for output in model.graph.output]
    if all(shape and all(shape[1:]) for shape in shapes):
        return shapes
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        first = session.get_inputs()[0]
        batch = first.shape[0] if isinstance(first.shape[0], int) else 1
        answers = session.run(None, {first.name: np.zeros((batch, 3, *size), np.float32)})
        return [tuple(answer.shape) for answer in answers]
    except Exception:
        # Whatever keeps the file from running is told where it is loaded to be run.
        return shapes


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Dimensions; 0 where free."""
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
