"""What can be told about an ONNX file: its own metadata, or what the families' exporters are known to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from yoloquant.checkpoint.onnx_branch import branch_in
from yoloquant.checkpoint.onnx_checks import image_input, onnx_parsed, open_detector_file, properties_of, shape_of
from yoloquant.checkpoint.output_axes import read_axes
from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import describe
from yoloquant.models.detector import Head
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.grid_head import BatchRowsHead, GridHead, JoinedMapsHead, RawAnchorsHead
from yoloquant.models.onnx.cut import constants_of, find_cut
from yoloquant.models.onnx.metadata import ModelMetadata, literal, names_of
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
# Operators that leave final detections only.
_SELECTING = frozenset({"TopK", "NonMaxSuppression"})
# Side of the images where a file leaves it free and names none, pixels.
DEFAULT_SIZE = 640
# Pixels that no image for a detector comes near.
_LARGEST_SIDE = 1 << 16


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


def read_metadata(path: Path | bytes) -> ModelMetadata:
    """Facts from the file's metadata, or for files of other exporters from their shapes.

    Raises:
        CheckpointError: the file is damaged, no detector's, or takes no images as detectors do.
    """
    model = open_detector_file(path)
    try:
        with onnx_parsed(path):
            own = ModelMetadata.from_properties(properties_of(model))
            return own if own is not None else _foreign_metadata(model)
    except CheckpointError as error:
        raise CheckpointError(f"{'the model in memory' if isinstance(path, bytes) else path} cannot be read: {error}") from error


def _foreign_metadata(model: onnx.ModelProto) -> ModelMetadata:
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


def foreign_facts(model: onnx.ModelProto) -> OnnxFacts:
    """Facts of a file, by its metadata if this project wrote it, by shapes and operators otherwise.

    Raises:
        CheckpointError: its outputs are no detector's.
    """
    properties = properties_of(model)
    own = ModelMetadata.from_properties(properties)
    if own is not None:
        return OnnxFacts(own.names, own.strides, own.input_size, own.family, own.layout)
    size = fixed_size(image_input(model.graph)) or _size_in(properties) or (DEFAULT_SIZE, DEFAULT_SIZE)
    shapes = _output_shapes(model, size)
    names = names_of(properties)
    strides = _named_strides(properties)
    if len(shapes[0]) == 2 and shapes[0][1] == 7:
        classes = names or _numbered(80)
        return OnnxFacts(classes, strides, size, "onnx", "rows_final", BatchRowsHead(len(classes)))
    if len(shapes[0]) == 3:
        _refuse_prototypes(shapes, size)
        return _decoded_facts(model, shapes[0], names, strides, size)
    if len(shapes) == 3 and all(len(shape) in (4, 5) for shape in shapes):
        return _maps_facts(shapes, names, size)
    told = ", ".join(str(shape) for shape in shapes)
    raise CheckpointError(
        f"its outputs {told} are not a detector's as the families' exporters write them, (N, A, 5+C), (N, 4+C, A), (N, K, 6), "
        "or three maps: export it with its detection head"
    )


def fixed_size(images: onnx.ValueInfoProto) -> tuple[int, int] | None:
    """Height and width that a file takes alone; none where both are free."""
    shape = shape_of(images)
    return (shape[2], shape[3]) if len(shape) == 4 and all(shape[2:]) else None


def _size_in(properties: dict[str, str]) -> tuple[int, int] | None:
    """Height and width that ultralytics' exporter writes as `imgsz`; none if absent or unreadable."""
    sides = literal(properties.get("imgsz", ""))
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(type(side) is int for side in sides):
        return None
    height, width = sides
    return (height, width) if min(sides) > 0 and max(sides) <= _LARGEST_SIDE else None


def _named_strides(properties: dict[str, str]) -> tuple[int, ...]:
    """Strides of the levels, of which files name the largest."""
    largest = properties.get("stride", "")
    if largest.isdecimal() and len(largest) < 6 and int(largest) not in (0, _STRIDES[-1]):
        return (*_STRIDES, 64) if largest == "64" else (int(largest),)
    return _STRIDES


def _refuse_prototypes(shapes: list[tuple[int, ...]], size: tuple[int, int]) -> None:
    """Boxes with one more output, at a quarter of the image's size, are those of a network for masks."""
    if len(shapes) == 2 and len(shapes[1]) == 4 and shapes[1][2:] == (size[0] // 4, size[1] // 4):
        raise CheckpointError(
            f"its second output {shapes[1]} holds masks: it is a network for the task 'segment', not a detector: only detectors "
            "are supported"
        )


def _decoded_facts(
    model: onnx.ModelProto, shape: tuple[int, ...], names: tuple[str, ...] | None, strides: tuple[int, ...], size: tuple[int, int]
) -> OnnxFacts:
    """One decoded output (or YOLOX's, which may not be decoded)."""
    selects = any(node.op_type in _SELECTING for node in model.graph.node)
    axes = read_axes(shape, len(names) if names else None, size, selects)
    strides = axes.strides or strides
    classes = names or _numbered(axes.class_count or 80)
    if axes.layout != "rows_objectness":
        return OnnxFacts(classes, strides, size, "onnx", axes.layout)
    operators = _head_operators(model)
    if operators and operators <= _NO_DECODING:
        decoder = GridHead(len(classes), list(strides), size)
        return OnnxFacts(classes, strides, size, "yolox", axes.layout, decoder, Preprocessing(True, 255.0, True))
    if "Exp" in operators:
        return OnnxFacts(classes, strides, size, "yolox", axes.layout, None, Preprocessing(True, 255.0, True))
    return OnnxFacts(classes, strides, size, "onnx", axes.layout)


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
    shapes = [shape_of(output) for output in model.graph.output]
    if all(shape and all(shape[1:]) for shape in shapes):
        return shapes
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        first = session.get_inputs()[0]
        batch = first.shape[0] if isinstance(first.shape[0], int) else 1
        outputs = session.run(None, {first.name: np.zeros((batch, 3, *size), np.float32)})
        return [tuple(output.shape) for output in outputs]
    except Exception:
        # Whatever keeps the file from running is told where it is loaded to be run.
        return shapes
