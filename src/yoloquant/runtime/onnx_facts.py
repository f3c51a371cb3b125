"""What can be told about an ONNX file without running it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from yoloquant.errors import CheckpointError
from yoloquant.export.metadata import ModelMetadata, names_of


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
    properties = {entry.key: entry.value for entry in model.metadata_props}
    return ModelMetadata.from_properties(properties) or _guess(model, properties)


def _guess(model: onnx.ModelProto, properties: dict[str, str]) -> ModelMetadata:
    """Layout and sizes of a foreign file with one decoded output, by the shapes that the families' exporters write."""
    height_width = _shape(model.graph.input[0])[2:4]
    if len(height_width) != 2 or not all(height_width):
        height_width = (640, 640)
    shape = _shape(model.graph.output[0])
    if len(model.graph.output) == 1 and not all(shape[1:]):
        shape = _measured_shape(model, (height_width[0], height_width[1]))
    if len(shape) != 3 or not (shape[1] and shape[2]):
        shapes = ", ".join(str(_shape(output)) for output in model.graph.output)
        raise CheckpointError(
            f"the ONNX model's outputs {shapes} are not one decoded detector output (N, A, 5+C) or (N, 4+C, A): "
            "export it with its detection head"
        )
    # There are always many more candidate boxes than values for each.
    objectness = shape[1] > shape[2]
    count = shape[2] - 5 if objectness else shape[1] - 4
    names = names_of(properties) or tuple(f"class {index}" for index in range(count))
    stride = int(properties.get("stride", "32"))
    layout = "rows_objectness" if objectness else "columns_classes"
    return ModelMetadata(names, (stride,), (height_width[0], height_width[1]), "onnx", layout)


def _measured_shape(model: onnx.ModelProto, size: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the output for one black image, where the file leaves it free."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return tuple(session.run(None, {name: np.zeros((1, 3, *size), np.float32)})[0].shape)
    except Exception:
        # Whatever keeps the file from running is told where it is loaded to be run.
        return ()


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Dimensions; 0 where free."""
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
