"""Open an ONNX file, and refuse in one sentence what no command can use: the one door for files of every exporter."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from yoloquant.errors import CheckpointError
from yoloquant.files.reading import parsed
from yoloquant.models.onnx.metadata import properties_of

DETECTION = "detect"


def onnx_parsed(path: Path | bytes) -> AbstractContextManager[None]:
    """The boundary that every reader of an ONNX file works inside of, see `yoloquant.files.reading.parsed`."""
    return parsed("the model in memory" if isinstance(path, bytes) else path, CheckpointError, "export it again")


def load_onnx(path: Path | bytes) -> onnx.ModelProto:
    """Parse an ONNX model, its external data included.

    Raises:
        CheckpointError: It is missing, no ONNX model, has no graph, or its weights lie in a file that is lost.
    """
    name = "the model in memory" if isinstance(path, bytes) else str(path)
    with onnx_parsed(path):
        try:
            content = path if isinstance(path, bytes) else path.read_bytes()
            model = onnx.load_model_from_string(content)
        except (DecodeError, ValueError) as error:
            raise CheckpointError(f"{name} is not an ONNX model, or is damaged: export it again") from error
    if not model.graph.node or not model.graph.input or not model.graph.output:
        raise CheckpointError(f"{name} is not an ONNX model, or is damaged: its graph is empty")
    _load_weights(model, path, name)
    return model


def _load_weights(model: onnx.ModelProto, path: Path | bytes, name: str) -> None:
    """Read weights that lie beside the file."""
    outside = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    if not outside:
        return
    files = sorted({entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"})
    lost = f"the weights of {name} lie in {', '.join(files)}, which cannot be read: put it into the same folder"
    if isinstance(path, bytes):
        raise CheckpointError(lost)
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise CheckpointError(lost) from error


def open_detector_file(path: Path | bytes) -> onnx.ModelProto:
    """Parse an ONNX file and make sure that it takes images as a detector's file does.

    Raises:
        CheckpointError: As `load_onnx`, or the file is a network for another task, has not one input, or takes other images
            than `(N, 3, H, W)` in 32-bit floats.
    """
    model = load_onnx(path)
    try:
        with onnx_parsed(path):
            check_task(properties_of(model))
            check_images(image_input(model.graph))
            check_channels(properties_of(model))
    except CheckpointError as error:
        raise CheckpointError(f"{'the model in memory' if isinstance(path, bytes) else path} cannot be read: {error}") from error
    return model


def check_task(properties: dict[str, str]) -> None:
    """Make sure that the metadata, where they name a task as ultralytics' exporter does, name detection.

    Raises:
        CheckpointError: They name another task.
    """
    task = properties.get("task", DETECTION)
    if task != DETECTION:
        raise CheckpointError(f"it is a network for the task {task!r}, not a detector: only detectors are supported")


def image_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The input for images; very old files list their initializers as inputs, too.

    Raises:
        CheckpointError: There is none, or there are more inputs.
    """
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        named = f" ({', '.join(value.name for value in inputs)})" if inputs else ""
        raise CheckpointError(
            f"it has {len(inputs)} inputs{named}, not one for images: export it with the images as its only input"
        )
    images: onnx.ValueInfoProto = inputs[0]
    return images


def check_images(value: onnx.ValueInfoProto) -> None:
    """Make sure that an input takes images `(N, 3, H, W)` in 32-bit floats.

    Raises:
        CheckpointError: It has another type, number of axes, order of axes, or number of channels.
    """
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise CheckpointError(f"its images are {kind}, not 32-bit floats: export it with float32 images")
    shape = shape_of(value)
    if len(shape) != 4:
        raise CheckpointError(f"its input {value.name!r} has {len(shape)} axes, not (N, 3, H, W): it takes no images")
    if shape[1] in (0, 3):
        return
    if shape[3] == 3:
        raise CheckpointError("its images are (N, H, W, 3), channels last: export it with channels first, (N, 3, H, W)")
    raise CheckpointError(channels_refused(shape[1]))


def check_channels(properties: dict[str, str]) -> None:
    """Make sure that the metadata, where they name the channels of the images, name three.

    Raises:
        CheckpointError: They name another number.
    """
    count = properties.get("channels", "3")
    if count.isdecimal() and len(count) < 6 and count != "3":
        raise CheckpointError(channels_refused(int(count)))


def channels_refused(count: int) -> str:
    """The sentence for networks of other images than colour photographs."""
    plural = "channel" if count == 1 else "channels"
    return f"its images have {count} {plural}: only networks for three channels (red, green, blue) are supported"


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Dimensions; 0 where free."""
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
