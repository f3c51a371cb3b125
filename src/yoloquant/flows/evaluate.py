"""The flow behind `yoloquant evaluate`: open a model, run it over a data set, write figures and boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoloquant.checkpoint.open import file_of_model
from yoloquant.data.dataset import DetectionDataset, load_dataset
from yoloquant.data.source import Source
from yoloquant.errors import DataError
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.evaluator import EvaluationSettings, check_image_size
from yoloquant.evaluation.evaluator import evaluate as run
from yoloquant.files.outputs import refuse_images, refuse_inputs
from yoloquant.files.writing import checked_file, write_text
from yoloquant.flows.job import note_branch
from yoloquant.flows.plots import write_plots
from yoloquant.models.detector import Detector
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.report.accuracy_charts import evaluation_charts
from yoloquant.report.evaluation_files import checked_plots, save_truth_beside
from yoloquant.runtime.open import open_runner
from yoloquant.runtime.runner import Runner


@dataclass(frozen=True, kw_only=True)
class EvaluationFiles:
    """What is written of an evaluation.

    Attributes:
        figures: JSON file, which `Evaluation.load` reads.
        predictions: File for the boxes as COCO results.
        plots: "png" or "pdf": curves, the confusion matrix and pictures beside the labelled objects, in the folder.
        folder: Folder for plots and pictures.
    """

    figures: str | Path | None = None
    predictions: str | Path | None = None
    plots: str | None = None
    folder: str | Path = "evaluation"


def evaluate(
    model: str | Path | Detector | QuantizedDetector | Runner | Any,
    source: str | Path | Source | DetectionDataset,
    settings: EvaluationSettings | None = None,
    *,
    split: str = "val",
    runtime: str | None = None,
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
    files: EvaluationFiles | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluate a model on images with known boxes: COCO's figures, precision, recall, F1 of all classes and of each.

    Args:
        model: Checkpoint, ONNX file, quantized folder, detector in memory, or a runner that `yoloquant.open_runner` opened.
        source: `data.yaml` or COCO JSON, a `Source` with annotations, or a data set that `yoloquant.load_dataset` loaded.
        settings: Thresholds and sizes; those of YOLOv5's validation for COCO by default.
        split: Split of a `data.yaml`.
        runtime: As for `yoloquant.open_runner`; a runner has its own.
        preprocessing: As for `yoloquant.open_runner`.
        branch: As for `yoloquant.open_runner`.
        files: What to write; nothing by default.
        reporter: Receives progress.

    Returns:
        All figures, and the detections.

    Raises:
        YoloquantError: Something given cannot be read or used, or an output would replace an input.
    """
    tell, wanted = reporter or Silent(), files or EvaluationFiles()
    outputs = [None if path is None else checked_file(path) for path in (wanted.figures, wanted.predictions)]
    dataset, read = _opened(source, split)
    inputs = [file_of_model(model), *read]
    refuse_inputs(outputs, inputs)
    refuse_images(outputs, dataset.images)
    if wanted.plots is not None:
        checked_plots(Path(wanted.folder), wanted.plots, dataset, [Path(path) for path in inputs + outputs if path is not None])
    runner = _as_runner(model) or open_runner(model, runtime, preprocessing=preprocessing, branch=branch)
    note_branch(runner.branch, tell)
    settings = settings or EvaluationSettings()
    check_image_size(runner, settings)
    with tell.step(f"Evaluate in {runner.name}") as update:
        found = run(runner, dataset, settings, update)
    for sentence in (*dataset.problem_sentences(), *(f"skipped: {image}" for image in found.skipped)):
        tell.note(sentence)
    _write(found, wanted, dataset, runner.names, tell)
    return found


def _write(found: Evaluation, wanted: EvaluationFiles, dataset: DetectionDataset, names: Sequence[str], tell: Reporter) -> None:
    """Write what is asked for."""
    if wanted.figures is not None:
        write_text(Path(wanted.figures), json.dumps(found.to_dict(), indent=2))
    if wanted.predictions is not None:
        found.write_coco_json(Path(wanted.predictions))
    if wanted.plots is not None:
        folder = Path(wanted.folder)
        write_plots(evaluation_charts(found, names), folder, wanted.plots, tell)
        pictures = save_truth_beside(found, dataset, names, folder)
        tell.note(f"{len(pictures)} pictures in {folder / 'pictures'}")


def _as_runner(model: Any) -> Runner | None:
    """A model that is loaded into a runtime already; none for all others."""
    runner: Runner | None = model if hasattr(model, "layout") and hasattr(model, "free_size") else None
    return runner


def _opened(source: str | Path | Source | DetectionDataset, split: str) -> tuple[DetectionDataset, tuple[str | Path | None, ...]]:
    """The data set, and the files that it is read from."""
    if isinstance(source, DetectionDataset):
        return source, source.files
    given = Source.of(source)
    if given.data is None:
        raise DataError("evaluation needs images with known boxes: name a data set")
    dataset = load_dataset(given.data, split, annotations=given.annotations)
    return dataset, (given.data, given.annotations, *dataset.files)
