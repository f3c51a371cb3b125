"""`openvino`: OpenVINO's intermediate representation, with int8 weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.exporting.formats.format import Format
from yoloquant.exporting.metadata_file import METADATA, write_metadata
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.models.onnx.metadata import KEY, ModelMetadata
from yoloquant.quant.quantized_detector import QuantizedDetector

XML = "model.xml"
_BIN = "model.bin"
# Layouts that OpenVINO Model API decodes, by the name of its wrapper ("Model API", model_type of YOLO models).
_WRAPPERS = {"columns_classes": "YOLOv8"}


def _write(detector: QuantizedDetector, target: str, folder: Path) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.onnx"
        export_onnx(detector, source, target=target, dynamic_batch=False)
        metadata = read_metadata(source)
        model = openvino.Core().read_model(str(source))
        _describe(model, metadata)
        # Biases and layers in float stay as they were verified; half precision would save a hundredth of the file.
        openvino.save_model(model, str(folder / XML), compress_to_fp16=False)
    write_metadata(metadata, folder)


def _describe(model: Any, metadata: ModelMetadata) -> None:
    """Say in the file what its input and outputs are: for this project's runner, and for readers of `model_info`.

    Source of the keys: OpenVINO Model API, "Model configuration"; ultralytics writes the same ones.
    """
    for key, value in metadata.to_properties().items():
        model.set_rt_info(value, [KEY, key])
    facts: dict[str, Any] = {
        "labels": " ".join(name.replace(" ", "_") for name in metadata.names),
        "resize_type": "fit_to_window_letterbox",
        "pad_value": 114,
        "reverse_input_channels": True,
        "scale_values": 255.0,
    }
    if metadata.layout in _WRAPPERS:
        facts["model_type"] = _WRAPPERS[metadata.layout]
    for key, value in facts.items():
        model.set_rt_info(value, ["model_info", key])


OPENVINO_IR = Format(
    name="openvino",
    summary="OpenVINO IR: model.xml and model.bin with int8 weights, and metadata.yaml.",
    ending="_openvino_model",
    files=(XML, _BIN, METADATA),
    targets=("openvino",),
    packages=("openvino",),
    extra="openvino",
    write=_write,
    runtime="openvino",
)
