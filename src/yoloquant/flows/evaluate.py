"""The flow behind `yoloquant evaluate`: open a model, run it over a data set, write figures and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from yoloquant.checkpoint.open import file_of_model
from yoloquant.data.dataset import DetectionDataset, load_dataset
from yoloquant.data.source import Source
from yoloquant.errors import DataError
from yoloquant.evaluation.evaluator import Evaluation, EvaluationSettings, check_image_size
from yoloquant.evaluation.evaluator import evaluate as run
from yoloquant.files.outputs import refuse_images, refuse_inputs
from yoloquant.files.writing import checked_file, write_text
from yoloquant.flows.job import note_branch
from yoloquant.models.detector import Detector
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.runtime.open import open_runner
from yoloquant.runtime.runner import Runner


def evaluate(
    model: str | Path | Detector | QuantizedDetector | Runner | Any,
    source: str | Path | Source | DetectionDataset,
    settings: EvaluationSettings | None = None,
    *,
    split: str = "val",
    runtime: str | None = None,
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
    figures: str | Path | None = None,
    predictions: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluate a model on images with known boxes: COCO's figures, precision, recall, F1.

    Args:
        model: Checkpoint, ONNX file, quantized folder, detector in memory, or a runner that `yoloquant.open_runner` opened.
        source: `data.yaml` or COCO JSON, a `Source` with annotations, or a data set that `yoloquant.load_dataset` loaded.
        settings: Thresholds and sizes; those of YOLOv5's validation for COCO by default.
        split: Split of a `data.yaml`.
        runtime: As for `yoloquant.open_runner`; a runner has its own.
        preprocessing: As for `yoloquant.open_runner`.
        branch: As for `yoloquant.open_runner`.
        figures: JSON file to write, which `Evaluation.load` reads.
        predictions: File to write the boxes to, as COCO results.
        reporter: Receives progress.

    Returns:
        All figures, and the detections.

    Raises:
        YoloquantError: Something given cannot be read or used, or an output would replace an input.
    """
    tell = reporter or Silent()
    outputs = [None if path is None else checked_file(path) for path in (figures, predictions)]
    dataset, read = _opened(source, split)
    refuse_inputs([figures, predictions], [file_of_model(model), *read])
    refuse_images(outputs, dataset.images)
    runner = _as_runner(model) or open_runner(model, runtime, preprocessing=preprocessing, branch=branch)
    note_branch(runner.branch, tell)
    settings = settings or EvaluationSettings()
    check_image_size(runner, settings)
    with tell.step(f"Evaluate in {runner.name}") as update:
        found = run(runner, dataset, settings, update)
    for sentence in (*dataset.problem_sentences(), *(f"skipped: {image}" for image in found.skipped)):
        tell.note(sentence)
    if figures is not None:
        write_text(Path(figures), json.dumps(found.to_dict(), indent=2))
    if predictions is not None:
        found.write_coco_json(Path(predictions))
    return found


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
