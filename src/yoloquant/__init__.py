"""Quantize YOLO detectors for integer runtimes, and see what it costs and where.

What belongs here: the names of the Python API, and nothing that makes importing heavy. Each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yoloquant.algorithms.step import Step
    from yoloquant.checking.findings import check_file as check
    from yoloquant.checkpoint.from_module import detector_from_live, detector_from_module
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.data.dataset import DetectionDataset, load_dataset
    from yoloquant.errors import YoloquantError
    from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
    from yoloquant.exporting.folder import load_quantized
    from yoloquant.exporting.onnx_export import export_onnx
    from yoloquant.flows.analyze import analyze
    from yoloquant.flows.finetune import finetune
    from yoloquant.flows.quantize import quantize
    from yoloquant.flows.search import search
    from yoloquant.flows.train import TrainingOptions, train
    from yoloquant.models.detector import Detector
    from yoloquant.quant.quantized_detector import QuantizedDetector
    from yoloquant.recipe.recipe import Recipe, load_recipe
    from yoloquant.runtime.open import open_model
    from yoloquant.spec import TensorSpec
    from yoloquant.targets.target import Target

_HOMES = {
    "DetectionDataset": ("data.dataset", "DetectionDataset"),
    "Detector": ("models.detector", "Detector"),
    "EvaluationSettings": ("evaluation.evaluator", "EvaluationSettings"),
    "QuantizedDetector": ("quant.quantized_detector", "QuantizedDetector"),
    "Recipe": ("recipe.recipe", "Recipe"),
    "Step": ("algorithms.step", "Step"),
    "Target": ("targets.target", "Target"),
    "TensorSpec": ("spec", "TensorSpec"),
    "TrainingOptions": ("flows.train", "TrainingOptions"),
    "YoloquantError": ("errors", "YoloquantError"),
    "analyze": ("flows.analyze", "analyze"),
    "check": ("checking.findings", "check_file"),
    "detector_from_live": ("checkpoint.from_module", "detector_from_live"),
    "detector_from_module": ("checkpoint.from_module", "detector_from_module"),
    "evaluate": ("evaluation.evaluator", "evaluate"),
    "export_onnx": ("exporting.onnx_export", "export_onnx"),
    "finetune": ("flows.finetune", "finetune"),
    "load_dataset": ("data.dataset", "load_dataset"),
    "load_quantized": ("exporting.folder", "load_quantized"),
    "load_recipe": ("recipe.recipe", "load_recipe"),
    "open_model": ("runtime.open", "open_model"),
    "quantize": ("flows.quantize", "quantize"),
    "read_detector": ("checkpoint.read", "read_detector"),
    "search": ("flows.search", "search"),
    "train": ("flows.train", "train"),
}

__all__ = [
    "DetectionDataset",
    "Detector",
    "EvaluationSettings",
    "QuantizedDetector",
    "Recipe",
    "Step",
    "Target",
    "TensorSpec",
    "TrainingOptions",
    "YoloquantError",
    "analyze",
    "check",
    "detector_from_live",
    "detector_from_module",
    "evaluate",
    "export_onnx",
    "finetune",
    "load_dataset",
    "load_quantized",
    "load_recipe",
    "open_model",
    "quantize",
    "read_detector",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("yoloquant")
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(import_module(f"yoloquant.{module}"), attribute)
    raise AttributeError(f"module 'yoloquant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
