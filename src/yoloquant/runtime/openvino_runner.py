"""Run an ONNX file or OpenVINO's own `.xml` in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.errors import YoloquantError
from yoloquant.exporting.metadata_file import read_metadata_file
from yoloquant.models.onnx.metadata import KEY, ModelMetadata
from yoloquant.runtime.file_runner import FileRunner
from yoloquant.runtime.runner import ClosedRunnerError

# Ending of the files that describe OpenVINO's own networks.
XML = ".xml"


def read_openvino(path: Path | bytes) -> Any:
    """A file (or a serialized model) as an `openvino.Model`.

    Raises:
        YoloquantError: OpenVINO cannot read it.
    """
    import openvino

    try:
        return openvino.Core().read_model(path if isinstance(path, bytes) else str(path))
    except RuntimeError as error:
        raise _cannot_load(error) from error


def compile_openvino(model: Any, batch_size: int = 1, threads: int = 0, **options: Any) -> Any:
    """Compile a model for the CPU plugin, float layers in float32.

    A free batch is fixed first: with free shapes the plugin plans memory at each call, and turns the output's channels by
    copying instead of by looking at them differently.

    Args:
        model: Model from `read_openvino`; it is left as it is.
        batch_size: Number of images in a call, where the model leaves it free.
        threads: 0 lets the runtime choose.
        options: Further properties of the plugin.

    Raises:
        YoloquantError: OpenVINO cannot compile it.
    """
    import openvino

    # On processors with bfloat16 the plugin would otherwise compute float layers in it and blur every comparison.
    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", **options}
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    try:
        shape = model.inputs[0].get_partial_shape()
        if shape[0].is_dynamic:
            model = model.clone()
            shape[0] = batch_size
            model.reshape(shape)
        return openvino.Core().compile_model(model, "CPU", properties)
    except RuntimeError as error:
        raise _cannot_load(error) from error


def _cannot_load(error: RuntimeError) -> YoloquantError:
    return YoloquantError(f"OpenVINO cannot load the model: {str(error).strip().splitlines()[-1]}")


def _name_of(port: Any, number: int) -> str:
    """Of an output; models converted from torch leave theirs without."""
    return port.get_any_name() if port.get_names() else f"output{number}"


class OpenVinoRunner(FileRunner):
    """An ONNX file or an `.xml` with its `.bin` in OpenVINO's CPU plugin; compiled once for each batch size that is asked for."""

    def __init__(self, path: Path | bytes, metadata: ModelMetadata | None = None, threads: int = 0) -> None:
        """Load and compile a file (or a serialized model).

        Args:
            path: Path of the file, or its bytes.
            metadata: Metadata instead of the file's own.
            threads: 0 lets the runtime choose.

        Raises:
            YoloquantError: The runtime cannot load the file.
        """
        self._model: Any = read_openvino(path)
        self._threads = threads
        super().__init__(path, metadata or self._metadata(path), "openvino")
        batch, _, *sides = self._model.inputs[0].get_partial_shape()
        self.batch_size = batch.get_length() if batch.is_static else None
        self.free_size = not any(side.is_static for side in sides)
        # Batch size -> request.
        self._requests: dict[int, Any] = {}
        self._request(self.batch_size or 1)

    def _metadata(self, path: Path | bytes) -> ModelMetadata:
        """Facts of the file; of an `.xml` those in its `rt_info`, or in `metadata.yaml` beside it where another tool saved it."""
        if isinstance(path, bytes) or path.suffix != XML:
            return read_metadata(path)
        if self._model.has_rt_info([KEY, KEY]):
            own = ModelMetadata.from_properties({KEY: self._model.get_rt_info([KEY, KEY]).astype(str)})
            assert own is not None
            return own
        return read_metadata_file(path.parent)

    def _request(self, batch_size: int) -> Any:
        if batch_size not in self._requests:
            compiled = compile_openvino(self._model, batch_size, self._threads)
            self._requests[batch_size] = compiled.create_infer_request()
        return self._requests[batch_size]

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `FileRunner`."""
        if self._model is None:
            raise ClosedRunnerError
        # The answers are copies already: the request's own memory is overwritten by the next call.
        results = self._request(len(images)).infer([images], share_inputs=True)
        return {_name_of(port, number): results[port] for number, port in enumerate(results)}

    def close(self) -> None:
        """Drop the compiled models."""
        self._model = None
        self._requests.clear()
