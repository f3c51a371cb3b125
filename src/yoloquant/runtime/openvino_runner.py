"""Run an ONNX file in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from yoloquant.errors import YoloquantError
from yoloquant.export.metadata import ModelMetadata
from yoloquant.runtime.onnx_runner import OnnxRunner


class OpenVinoRunner(OnnxRunner):
    """An ONNX file in OpenVINO's CPU plugin, float layers in float32."""

    def __init__(self, path: Path | bytes, metadata: ModelMetadata | None = None, threads: int = 0) -> None:
        """Load and compile a file (or a serialized model).

        Args:
            path: of the file, or its bytes.
            metadata: instead of the file's own.
            threads: 0 lets the runtime choose.

        Raises:
            YoloquantError: the runtime cannot load the file.
        """
        import openvino

        # On processors with bfloat16 the plugin would otherwise compute float layers in it and blur every comparison.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = core.read_model(path if isinstance(path, bytes) else str(path))
            self._compiled: Any = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise YoloquantError(f"OpenVINO cannot load the model: {str(error).strip().splitlines()[-1]}") from error
        super().__init__(path, metadata, "openvino")
        batch = self._compiled.inputs[0].get_partial_shape()[0]
        self.batch_size = batch.get_length() if batch.is_static else None
        self._request: Any = self._compiled.create_infer_request()

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `OnnxRunner`."""
        if self._request is None:
            raise RuntimeError("this runner is closed")
        # The answers are copies already: the request's own memory is overwritten by the next call.
        results = self._request.infer([images], share_inputs=True)
        return {port.get_any_name(): results[port] for port in self._compiled.outputs}

    def close(self) -> None:
        """Drop the compiled model."""
        self._request = self._compiled = None
