"""Quantize YOLO detectors for integer runtimes, and see what it costs and where.

What belongs here: the names of the Python API, and nothing that makes importing heavy. Each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yoloquant.algorithms.step import Step
    from yoloquant.checking.check_report import CheckReport
    from yoloquant.checkpoint.from_module import from_module
    from yoloquant.data.dataset import DetectionDataset, load_dataset
    from yoloquant.data.source import Source
    from yoloquant.errors import CheckpointError, DataError, ExportError, RecipeError, YoloquantError
    from yoloquant.evaluation.evaluation import Evaluation
    from yoloquant.evaluation.evaluator import EvaluationSettings
    from yoloquant.evaluation.predict import PredictionSettings
    from yoloquant.evaluation.prediction_files import PredictionFiles
    from yoloquant.exporting.nms import NmsOptions
    from yoloquant.flows.analyze import AnalysisOptions, analyze
    from yoloquant.flows.benchmark import benchmark
    from yoloquant.flows.check import check
    from yoloquant.flows.compare import compare
    from yoloquant.flows.deliver import deliver
    from yoloquant.flows.evaluate import EvaluationFiles, evaluate
    from yoloquant.flows.export import export
    from yoloquant.flows.finetune import finetune
    from yoloquant.flows.options import Measure, Output, Report
    from yoloquant.flows.predict import predict
    from yoloquant.flows.quantize import quantize
    from yoloquant.flows.save import save
    from yoloquant.flows.search import search
    from yoloquant.flows.train import TrainingOptions, train
    from yoloquant.models.detector import Detector
    from yoloquant.models.preprocessing import Preprocessing
    from yoloquant.progress import Reporter
    from yoloquant.quant.observers import Observer
    from yoloquant.quant.quantized_detector import QuantizedDetector
    from yoloquant.recipe.recipe import Recipe, load_recipe
    from yoloquant.results.analysis import Analysis
    from yoloquant.results.benchmark import Benchmark
    from yoloquant.results.comparison import Comparison
    from yoloquant.results.delivered import Delivered
    from yoloquant.results.quantization import Quantization
    from yoloquant.results.search import Search
    from yoloquant.results.training import Training
    from yoloquant.runtime.open import load, open_runner
    from yoloquant.spec import TensorSpec
    from yoloquant.targets.placement import QuantizationPlacement
    from yoloquant.targets.target import Target

# Name -> the module below this package that has it.
_HOMES = {
    # A verb for each command.
    "analyze": "flows.analyze",
    "benchmark": "flows.benchmark",
    "check": "flows.check",
    "compare": "flows.compare",
    "deliver": "flows.deliver",
    "evaluate": "flows.evaluate",
    "export": "flows.export",
    "finetune": "flows.finetune",
    "predict": "flows.predict",
    "quantize": "flows.quantize",
    "search": "flows.search",
    "train": "flows.train",
    # What opens and keeps things.
    "from_module": "checkpoint.from_module",
    "load": "runtime.open",
    "load_dataset": "data.dataset",
    "load_recipe": "recipe.recipe",
    "open_runner": "runtime.open",
    "save": "flows.save",
    # Nouns.
    "DetectionDataset": "data.dataset",
    "Detector": "models.detector",
    "Observer": "quant.observers",
    "QuantizationPlacement": "targets.placement",
    "QuantizedDetector": "quant.quantized_detector",
    "Recipe": "recipe.recipe",
    "Reporter": "progress",
    "Step": "algorithms.step",
    "Target": "targets.target",
    "TensorSpec": "spec",
    # Results.
    "Analysis": "results.analysis",
    "Benchmark": "results.benchmark",
    "CheckReport": "checking.check_report",
    "Comparison": "results.comparison",
    "Delivered": "results.delivered",
    "Evaluation": "evaluation.evaluation",
    "Quantization": "results.quantization",
    "Search": "results.search",
    "Training": "results.training",
    # Options.
    "AnalysisOptions": "flows.analyze",
    "EvaluationFiles": "flows.evaluate",
    "EvaluationSettings": "evaluation.evaluator",
    "Measure": "flows.options",
    "NmsOptions": "exporting.nms",
    "Output": "flows.options",
    "PredictionFiles": "evaluation.prediction_files",
    "PredictionSettings": "evaluation.predict",
    "Preprocessing": "models.preprocessing",
    "Report": "flows.options",
    "Source": "data.source",
    "TrainingOptions": "flows.train",
    # Errors.
    "CheckpointError": "errors",
    "DataError": "errors",
    "ExportError": "errors",
    "RecipeError": "errors",
    "YoloquantError": "errors",
}

__all__ = [
    "Analysis",
    "AnalysisOptions",
    "Benchmark",
    "CheckReport",
    "CheckpointError",
    "Comparison",
    "DataError",
    "Delivered",
    "DetectionDataset",
    "Detector",
    "Evaluation",
    "EvaluationFiles",
    "EvaluationSettings",
    "ExportError",
    "Measure",
    "NmsOptions",
    "Observer",
    "Output",
    "PredictionFiles",
    "PredictionSettings",
    "Preprocessing",
    "Quantization",
    "QuantizationPlacement",
    "QuantizedDetector",
    "Recipe",
    "RecipeError",
    "Report",
    "Reporter",
    "Search",
    "Source",
    "Step",
    "Target",
    "TensorSpec",
    "Training",
    "TrainingOptions",
    "YoloquantError",
    "analyze",
    "benchmark",
    "check",
    "compare",
    "deliver",
    "evaluate",
    "export",
    "finetune",
    "from_module",
    "load",
    "load_dataset",
    "load_recipe",
    "open_runner",
    "predict",
    "quantize",
    "save",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("yoloquant")
    if name in _HOMES:
        return getattr(import_module(f"yoloquant.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'yoloquant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
