"""Run a `.tflite` file in LiteRT, with XNNPACK's kernels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from yoloquant.errors import CheckpointError, YoloquantError, first_line
from yoloquant.exporting.metadata_file import TFLITE_METADATA, metadata_from
from yoloquant.files.reading import parse_json
from yoloquant.models.onnx.metadata import ModelMetadata
from yoloquant.runtime.executed_layers import Executed
from yoloquant.runtime.file_runner import FileRunner
from yoloquant.runtime.runner import ClosedRunnerError

NAME = "litert"
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
# Position of the weight among an operator's inputs, and of the activation.
_WEIGHT, _ACTIVATION = 1, {"TRANSPOSE_CONV": 2}


def read_tflite_metadata(path: Path) -> ModelMetadata:
    """Facts of a file, from the archive behind it.

    Raises:
        CheckpointError: It has none of this project, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(TFLITE_METADATA)
    except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} holds no metadata of yoloquant, which name classes and sizes: deliver it again") from error
    return metadata_from(parse_json(content, str(path), CheckpointError), str(path))


class LiteRtRunner(FileRunner):
    """A `.tflite` file of one image in LiteRT's interpreter."""

    batch_size = 1

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load a file.

        Args:
            path: Path of the file.
            threads: 0 lets the runtime choose.

        Raises:
            YoloquantError: LiteRT cannot load the file.
        """
        super().__init__(path, read_tflite_metadata(path), NAME)
        self._interpreter: Any = load_interpreter(path, threads)
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self._last = self._input["shape"][-1] == 3

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `FileRunner`; int8 inputs and outputs are converted."""
        if self._interpreter is None:
            raise ClosedRunnerError
        answers: list[dict[str, np.ndarray]] = []
        for image in images:
            source = image.transpose(1, 2, 0) if self._last else image
            self._interpreter.set_tensor(self._input["index"], _quantized(source[None], self._input))
            self._interpreter.invoke()
            answers.append(
                {
                    str(output["name"]): _in_float(self._interpreter.get_tensor(output["index"]), output)
                    for output in self._outputs
                }
            )
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def close(self) -> None:
        """Drop the interpreter."""
        self._interpreter = None


def load_interpreter(path: Path, threads: int = 0) -> Any:
    """A LiteRT interpreter, ready to run.

    Raises:
        YoloquantError: LiteRT cannot load the file.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path), num_threads=threads or None)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise YoloquantError(f"LiteRT cannot load {path}: {first_line(error)}") from error
    return interpreter


def executed_in_litert(path: Path) -> Executed:
    """Layers of a file by the tensors that they read: LiteRT's kernels compute in integers what is int8, and never fall back.

    Raises:
        YoloquantError: LiteRT cannot load the file.
    """
    from ai_edge_litert import schema_py_generated as schema

    load_interpreter(path)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    int8 = schema.TensorType.INT8
    layers: list[tuple[str, bool, bool]] = []
    products: list[bool] = []
    for operator in graph.operators:
        kind = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        read = graph.tensors[operator.inputs[_ACTIVATION.get(kind, 0)]]
        if kind == "BATCH_MATMUL":
            products.append(read.type == int8)
        if kind not in _WEIGHTED:
            continue
        weight = graph.tensors[operator.inputs[_WEIGHT]]
        layers.append((weight.name.decode().removesuffix(".weight"), read.type == int8, weight.type == int8))
    return Executed(
        NAME,
        integer=tuple(name for name, integer, _ in layers if integer),
        floating=tuple(name for name, integer, _ in layers if not integer),
        in_vain=tuple(name for name, integer, stored in layers if stored and not integer),
        products=len(products),
        integer_products=sum(products),
    )


def _quantized(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Values as a tensor of the file takes them."""
    if detail["dtype"] == np.float32:
        return np.ascontiguousarray(values, dtype=np.float32)
    scale, zero = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    found: np.ndarray = np.clip(np.rint(values / np.float32(scale)) + zero, limits.min, limits.max).astype(detail["dtype"])
    return found


def _in_float(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Values of a tensor of the file."""
    if detail["dtype"] == np.float32:
        return values
    scale, zero = detail["quantization"]
    found: np.ndarray = (values.astype(np.float32) - zero) * np.float32(scale)
    return found
