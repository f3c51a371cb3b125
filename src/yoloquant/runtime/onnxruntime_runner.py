"""Run an ONNX file in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.errors import YoloquantError, first_line
from yoloquant.models.onnx.metadata import ModelMetadata
from yoloquant.runtime.file_runner import FileRunner
from yoloquant.runtime.runner import ClosedRunnerError

NAME = "onnxruntime"
# A target whose files ONNX Runtime runs in the place of another runtime, with exact sums.
STAND_IN = "reference"


class OnnxRuntimeRunner(FileRunner):
    """An ONNX file in ONNX Runtime's CPU execution provider."""

    def __init__(self, path: Path | bytes, metadata: ModelMetadata | None = None, threads: int = 0) -> None:
        """Load a file (or a serialized model).

        Args:
            path: Path of the file, or its bytes.
            metadata: Metadata instead of the file's own.
            threads: 0 lets the runtime choose.

        Raises:
            YoloquantError: The runtime cannot load the file.
        """
        import onnxruntime

        facts = metadata or read_metadata(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Threads that spin on after a call would take the processor from whatever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if facts.target not in ("float", NAME):
            # It stands in for another runtime, which adds in 32 bits; without VNNI pairs of products are added in 16 bits.
            options.add_session_config_entry("session.x64quantprecision", "1")
        source = path if isinstance(path, bytes) else str(path)
        try:
            self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # onnxruntime raises classes of its own for each status code, without a common base.
            raise YoloquantError(f"ONNX Runtime cannot load the model: {first_line(error)}") from error
        super().__init__(path, facts, NAME)
        model_input = self._session.get_inputs()[0]
        self._input = model_input.name
        self.batch_size = model_input.shape[0] if isinstance(model_input.shape[0], int) else None
        self.free_size = not any(isinstance(side, int) for side in model_input.shape[2:])

    @property
    def output_names(self) -> list[str]:
        """Names of the model's outputs."""
        assert self._session is not None
        return [output.name for output in self._session.get_outputs()]

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `FileRunner`."""
        if self._session is None:
            raise ClosedRunnerError
        return dict(zip(self.output_names, self._session.run(None, {self._input: images}), strict=True))

    def close(self) -> None:
        """Drop the session."""
        self._session = None
