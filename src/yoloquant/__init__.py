"""Quantize YOLO detectors for integer runtimes, and see what it costs and where.

What belongs here: the names of the Python API, and nothing that makes importing heavy. Each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yoloquant.checkpoint.from_module import detector_from_live, detector_from_module
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.data.dataset import load_dataset
    from yoloquant.errors import YoloquantError
    from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
    from yoloquant.exporting.folder import load_quantized
    from yoloquant.exporting.onnx_export import export_onnx
    from yoloquant.flows.quantize import quantize
    from yoloquant.recipe.recipe import load_recipe
    from yoloquant.runtime.open import open_model

_HOMES = {
    "EvaluationSettings": "evaluation.evaluator",
    "YoloquantError": "errors",
    "detector_from_live": "checkpoint.from_module",
    "detector_from_module": "checkpoint.from_module",
    "evaluate": "evaluation.evaluator",
    "export_onnx": "exporting.onnx_export",
    "load_dataset": "data.dataset",
    "load_quantized": "exporting.folder",
    "load_recipe": "recipe.recipe",
    "open_model": "runtime.open",
    "quantize": "flows.quantize",
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
