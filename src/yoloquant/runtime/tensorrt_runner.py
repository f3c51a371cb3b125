"""Build an ONNX file with TensorRT and run it on an NVIDIA GPU; torch holds the memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.errors import YoloquantError
from yoloquant.exporting.nms import PLUGIN_OUTPUTS
from yoloquant.models.onnx.metadata import ModelMetadata
from yoloquant.runtime.file_runner import FileRunner
from yoloquant.runtime.runner import ClosedRunnerError

# Where images and answers lie.
DEVICE = "cuda"
# Images that the optimisation profile reaches to, where a file leaves the batch free.
_LARGEST_BATCH = 32


class TensorRtRunner(FileRunner):
    """An ONNX file in TensorRT 8.6 to 11: Q/DQ layers in integers, the others in the file's type, without TF32."""

    # Takes what every runner takes.
    def __init__(self, path: Path | bytes, metadata: ModelMetadata | None = None, threads: int = 0) -> None:  # noqa: ARG002
        """Build the engine, which takes minutes for large networks.

        Args:
            path: Path of the ONNX file, or its bytes.
            metadata: Metadata instead of the file's own.
            threads: Not used.

        Raises:
            YoloquantError: TensorRT cannot build the file.
        """
        import tensorrt

        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        tensorrt.init_libnvinfer_plugins(self._logger, "")
        plan = self._build(tensorrt, path if isinstance(path, bytes) else path.read_bytes())
        self._engine: Any = tensorrt.Runtime(self._logger).deserialize_cuda_engine(plan)
        self._context: Any = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT for name in names}
        self._input = next(name for name in names if is_input[name])
        self._outputs = [name for name in names if not is_input[name]]
        self._dtypes = {name: _torch_dtype(tensorrt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        self._stream = torch.cuda.Stream()
        super().__init__(path, metadata or read_metadata(path), "tensorrt")
        batch = self._engine.get_tensor_shape(self._input)[0]
        self.batch_size = None if batch < 0 else int(batch)

    def _build(self, tensorrt: Any, model: bytes) -> Any:
        """The serialized engine."""
        builder = tensorrt.Builder(self._logger)
        # Explicit batch is the only kind since TensorRT 10, where the flag is gone.
        flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = tensorrt.OnnxParser(network, self._logger)
        if not parser.parse(model):
            raise YoloquantError(f"TensorRT cannot read the model: {parser.get_error(0).desc()}")
        config = builder.create_builder_config()
        # TensorRT 11 has no such flag: every layer computes in the type that the file gives it.
        if hasattr(tensorrt.BuilderFlag, "INT8"):
            config.set_flag(tensorrt.BuilderFlag.INT8)
        config.clear_flag(tensorrt.BuilderFlag.TF32)
        config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
        source = network.get_input(0)
        if source.shape[0] < 0:
            profile = builder.create_optimization_profile()
            rest = tuple(source.shape[1:])
            profile.set_shape(source.name, (1, *rest), (1, *rest), (_LARGEST_BATCH, *rest))
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise YoloquantError("TensorRT cannot build the model: run trtexec --verbose on it to see which layer it refuses")
        return plan

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `FileRunner`."""
        if self._context is None:
            raise ClosedRunnerError
        source = torch.from_numpy(np.ascontiguousarray(images)).to(DEVICE, self._dtypes[self._input])
        self._context.set_input_shape(self._input, tuple(source.shape))
        self._context.set_tensor_address(self._input, source.data_ptr())
        answers = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            answers[name] = torch.empty(shape, dtype=self._dtypes[name], device=DEVICE)
            self._context.set_tensor_address(name, answers[name].data_ptr())
        self._stream.wait_stream(torch.cuda.current_stream())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise YoloquantError("TensorRT failed to run the model; its log names the layer")
        self._stream.synchronize()
        found = {name: answer.cpu().numpy() for name, answer in answers.items()}
        return {"detections": detections_of_plugin(found)} if set(PLUGIN_OUTPUTS) <= set(found) else found

    def layers(self) -> list[dict[str, Any]]:
        """The engine's layers as its inspector describes them: names, types, precisions of inputs and outputs, tactics."""
        import tensorrt

        inspector = self._engine.create_engine_inspector()
        found = json.loads(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))
        layers: list[dict[str, Any]] = found["Layers"]
        return layers

    def close(self) -> None:
        """Free the GPU's memory."""
        self._context = self._engine = None


def detections_of_plugin(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """The four outputs of EfficientNMS_TRT as rows `(N, K, 6)`: corners, score, class number; zeros behind the last detection."""
    count, boxes, scores, classes = (outputs[name] for name in PLUGIN_OUTPUTS)
    rows = np.concatenate([boxes, scores[..., None], classes[..., None].astype(np.float32)], axis=2).astype(np.float32)
    return rows * (np.arange(rows.shape[1])[None, :] < count.reshape(-1, 1))[..., None]


def _torch_dtype(numpy_type: Any) -> torch.dtype:
    return torch.from_numpy(np.zeros(1, numpy_type)).dtype
