"""What is known about an ONNX file: its own metadata, or what the families' exporters are known to write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from yoloquant.checkpoint.onnx_branch import branch_in
from yoloquant.checkpoint.onnx_checks import image_input, onnx_parsed, open_detector_file, shape_of
from yoloquant.checkpoint.output_axes import read_axes
from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import describe
from yoloquant.models.detector import Head
from yoloquant.models.onnx.metadata import ModelMetadata, literal, names_of, properties_of
from yoloquant.models.onnx.outputs import USUAL_COUNT, OnnxFacts, OnnxOutputs
from yoloquant.models.preprocessing import PLAIN, Preprocessing
from yoloquant.models.registry import FAMILIES

_STRIDES = (8, 16, 32)
# Operators that leave final detections only.
_SELECTING = frozenset({"TopK", "NonMaxSuppression"})
# Side of the images where a file leaves it free and names none, pixels.
DEFAULT_SIZE = 640
# Pixels that no image for a detector comes near.
_LARGEST_SIDE = 1 << 16


def read_metadata(path: Path | bytes) -> ModelMetadata:
    """Facts from the file's metadata, or for files of other exporters from their shapes.

    Raises:
        CheckpointError: The file is damaged, no detector's, or takes no images as detectors do.
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
        CheckpointError: Its outputs are no detector's.
    """
    properties = properties_of(model)
    own = ModelMetadata.from_properties(properties)
    if own is not None:
        return OnnxFacts(own.names, own.strides, own.input_size, own.layout, family=own.family)
    size = fixed_size(image_input(model.graph)) or _size_in(properties) or (DEFAULT_SIZE, DEFAULT_SIZE)
    outputs = OnnxOutputs(
        graph=model.graph,
        shapes=_output_shapes(model, size),
        names=names_of(properties),
        strides=_named_strides(properties),
        input_size=size,
    )
    if len(outputs.shapes[0]) == 3:
        outputs = _decoded(outputs)
    readers = (family.onnx for family in reversed(FAMILIES.values()) if family.onnx is not None)
    known = next((facts for facts in (reader.facts(outputs) for reader in readers) if facts is not None), None)
    if known is not None:
        return known
    if outputs.layout is not None:
        return OnnxFacts(outputs.names_or(), outputs.strides, size, outputs.layout)
    told = ", ".join(str(shape) for shape in outputs.shapes)
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


def _decoded(outputs: OnnxOutputs) -> OnnxOutputs:
    """The outputs with what the axes of one decoded output say (or of one that is undecoded but has the same axes)."""
    _refuse_prototypes(outputs.shapes, outputs.input_size)
    selects = any(node.op_type in _SELECTING for node in outputs.graph.node)
    axes = read_axes(outputs.shapes[0], len(outputs.names) if outputs.names else None, outputs.input_size, selects=selects)
    names = outputs.names_or(axes.class_count or USUAL_COUNT)
    return replace(outputs, names=names, strides=axes.strides or outputs.strides, layout=axes.layout)


def _refuse_prototypes(shapes: list[tuple[int, ...]], size: tuple[int, int]) -> None:
    """Boxes with one more output, at a quarter of the image's size, are those of a network for masks."""
    if len(shapes) == 2 and len(shapes[1]) == 4 and shapes[1][2:] == (size[0] // 4, size[1] // 4):
        raise CheckpointError(
            f"its second output {shapes[1]} holds masks: it is a network for the task 'segment', not a detector: only detectors "
            "are supported"
        )


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
