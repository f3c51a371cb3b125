"""`ncnn`: Tencent ncnn's network files with int8 layers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.exporting.formats.format import Format
from yoloquant.exporting.metadata_file import METADATA, write_metadata
from yoloquant.exporting.ncnn.convert import convert
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.quant.quantized_detector import QuantizedDetector

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"


def _write(detector: QuantizedDetector, target: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.onnx"
        export_onnx(detector, source, target=target, dynamic_batch=False)
        layers, weights = convert(source)
        metadata = read_metadata(source)
    (folder / PARAM).write_text(layers, encoding="utf-8")
    (folder / BIN).write_bytes(weights)
    write_metadata(metadata, folder)


NCNN_FILES = Format(
    name="ncnn",
    summary="Tencent ncnn: model.ncnn.param and model.ncnn.bin with int8 layers, and metadata.yaml.",
    ending="_ncnn_model",
    files=(PARAM, BIN, METADATA),
    targets=("ncnn",),
    extra="ncnn",
    selects=False,
    write=_write,
    runtime="ncnn",
)
