"""Formats by name: those that are listed here, and those of installed plug-ins."""

from __future__ import annotations

from yoloquant.environment import plug_ins
from yoloquant.errors import ExportError
from yoloquant.exporting.formats.format import Format
from yoloquant.exporting.formats.ncnn import NCNN_FILES
from yoloquant.exporting.formats.onnx import ONNX
from yoloquant.exporting.formats.openvino import OPENVINO_IR
from yoloquant.exporting.formats.tflite import TFLITE_FILE

_ALL = (ONNX, OPENVINO_IR, TFLITE_FILE, NCNN_FILES)
FORMATS: dict[str, Format] = {known.name: known for known in (*_ALL, *plug_ins("yoloquant.formats").values())}


def get_format(name: str) -> Format:
    """The format of a name.

    Raises:
        ExportError: There is none; the message lists those there are.
    """
    if name not in FORMATS:
        raise ExportError(f"there is no format {name!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[name]
