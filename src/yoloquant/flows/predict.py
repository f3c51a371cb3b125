"""The flow behind `yoloquant predict`: detect objects in pictures, videos and streams, draw them, or write them down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from yoloquant.checkpoint.open import file_of_model
from yoloquant.data.sources import files_read, find_sources
from yoloquant.evaluation.predict import PredictionSettings, class_indices
from yoloquant.evaluation.prediction_files import Drawn, PredictionFiles, check_predictions, predict_to_files
from yoloquant.flows.job import note_branch
from yoloquant.models.detector import Detector
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.runtime.open import open_runner
from yoloquant.runtime.runner import Runner


def predict(
    model: str | Path | Detector | QuantizedDetector | Any,
    sources: str | Path | Sequence[str | Path],
    output: str | Path | PredictionFiles,
    settings: PredictionSettings | None = None,
    *,
    compare: str | Path | Detector | QuantizedDetector | Any | None = None,
    runtime: str | None = None,
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
    reporter: Reporter | None = None,
) -> Iterator[Drawn]:
    """Detect objects, and draw or write them. Everything is checked at the call; the work is done as the result is read.

    Args:
        model: Checkpoint, ONNX file, quantized folder, or detector in memory.
        sources: Images, videos, folders, patterns, lists, addresses or numbers of cameras; one of them or several.
        output: Folder for pictures and videos, or `PredictionFiles` for other files, too.
        settings: Thresholds and classes.
        compare: A second model, whose boxes are drawn beside those of the first.
        runtime: As for `yoloquant.open_runner`, of the first model.
        classes: Classes to keep by name or number, instead of those of the settings.
        preprocessing: As for `yoloquant.open_runner`.
        branch: As for `yoloquant.open_runner`.
        reporter: Receives the progress of videos, and notes.

    Returns:
        Each source that is done, with the first model's detections in a picture (boxes `(N, 4)` as corners in pixels of the
        picture, scores, classes).

    Raises:
        YoloquantError: Something given cannot be read or used, or an output would replace an input.
    """
    tell, skipped = reporter or Silent(), list[str]()
    files = output if isinstance(output, PredictionFiles) else PredictionFiles(output=Path(output))
    given = [sources] if isinstance(sources, str | Path) else sources
    found = find_sources(given, skipped)
    read = [None if file is None else Path(file) for file in map(file_of_model, (model, compare))]
    check_predictions(found, files, read, files_read(given, found))
    runner = open_runner(model, runtime, preprocessing=preprocessing, branch=branch)
    note_branch(runner.branch, tell)
    wanted = settings or PredictionSettings()
    if classes:
        wanted = replace(wanted, classes=class_indices(classes, runner.names))
    second = None if compare is None else open_runner(compare)
    titles = (_title(model, runner), "" if second is None else _title(compare, second))

    def work() -> Iterator[Drawn]:
        yield from predict_to_files(
            runner, found, files, wanted, compare=second, titles=titles, skipped=skipped, reporter=tell
        )  # fmt: skip
        for sentence in skipped:
            tell.note(f"skipped: {sentence}")

    return work()


def _title(model: Any, runner: Runner) -> str:
    """What a model is called above its picture."""
    file = file_of_model(model)
    return runner.name if file is None else Path(file).name
