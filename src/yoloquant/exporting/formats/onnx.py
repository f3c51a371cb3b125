"""`onnx`: the file that quantization leaves, with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from pathlib import Path

from yoloquant.exporting.formats.format import Format
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.quant.quantized_detector import QuantizedDetector


def _write(detector: QuantizedDetector, target: str, path: Path) -> None:
    export_onnx(detector, path, target=target)


ONNX = Format(
    name="onnx",
    summary="ONNX with QuantizeLinear and DequantizeLinear, for ONNX Runtime, TensorRT and others that read it.",
    ending=".onnx",
    write=_write,
    runtime="onnxruntime",
)
