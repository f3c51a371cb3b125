"""`tflite`: LiteRT's flatbuffer (TensorFlow Lite) with full integer layers."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.exporting.formats.format import Format
from yoloquant.exporting.metadata_file import TFLITE_METADATA, facts_of
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.quant.quantized_detector import QuantizedDetector


def _write(detector: QuantizedDetector, target: str, path: Path) -> None:
    from yoloquant.exporting.tflite.convert import convert

    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.onnx"
        export_onnx(detector, source, target=target, dynamic_batch=False)
        path.write_bytes(convert(source))
        facts = facts_of(read_metadata(source))
    # Files that belong to a model stand in an archive behind it (TensorFlow Lite documentation, "Metadata").
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(TFLITE_METADATA, json.dumps(facts))


TFLITE_FILE = Format(
    name="tflite",
    summary="LiteRT (TensorFlow Lite): int8 layers, input and output in float, channels last.",
    ending=".tflite",
    targets=("tflite",),
    packages=("ai_edge_litert",),
    extra="litert",
    selects=False,
    write=_write,
    runtime="litert",
)
