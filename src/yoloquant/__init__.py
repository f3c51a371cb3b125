"""Quantize YOLO detectors for integer runtimes, and see what it costs and where.

What belongs here: the names of the Python API, and nothing that makes importing heavy. Each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yoloquant.checkpoint.live import detector_from_live, detector_from_module
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.data.dataset import load_dataset
    from yoloquant.errors import YoloquantError
    from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
    from yoloquant.export.onnx_file import export_onnx
    from yoloquant.export.quantized_folder import load_quantized
    from yoloquant.loading import open_model
    from yoloquant.pipeline import quantize
    from yoloquant.recipe import load_recipe

_HOMES = {
    "EvaluationSettings": "evaluation.evaluator",
    "YoloquantError": "errors",
    "detector_from_live": "checkpoint.live",
    "detector_from_module": "checkpoint.live",
    "evaluate": "evaluation.evaluator",
    "export_onnx": "export.onnx_file",
    "load_dataset": "data.dataset",
    "load_quantized": "export.quantized_folder",
    "load_recipe": "recipe",
    "open_model": "loading",
    "quantize": "pipeline",
    "read_detector": "checkpoint.read",
}

__all__ = [
    "EvaluationSettings",
    "YoloquantError",
    "detector_from_live",
    "detector_from_module",
    "evaluate",
    "export_onnx",
    "load_dataset",
    "load_quantized",
    "load_recipe",
    "open_model",
    "quantize",
    "read_detector",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"yoloquant.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'yoloquant' has no attribute {name!r}")
