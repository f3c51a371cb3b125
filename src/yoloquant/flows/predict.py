"""The flow behind `yoloquant predict`: detect objects in pictures, and draw them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from yoloquant.checkpoint.open import file_of_model
from yoloquant.evaluation.postprocess import Detections
from yoloquant.evaluation.predict import check_pictures, find_images, predict_to_files
from yoloquant.flows.job import note_branch
from yoloquant.models.detector import Detector
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.runtime.open import open_runner
from yoloquant.runtime.runner import Runner


def predict(
    model: str | Path | Detector | QuantizedDetector | Any,
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    compare: str | Path | Detector | QuantizedDetector | Any | None = None,
    runtime: str | None = None,
    confidence: float = 0.25,
    iou: float = 0.45,
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
    reporter: Reporter | None = None,
) -> Iterator[tuple[Path, Detections]]:
    """Detect objects in pictures and draw them. Everything is checked at the call; pictures are drawn as the answer is read.

    Args:
        model: Checkpoint, ONNX file, quantized folder, or detector in memory.
        images: Images, folders, or lists of images; one of them or several.
        output: Folder for the pictures.
        compare: A second model, whose boxes are drawn beside those of the first.
        runtime: As for `yoloquant.open_runner`, of the first model.
        confidence: Minimum score, 0..1.
        iou: Threshold of non-maximum suppression, 0..1.
        preprocessing: As for `yoloquant.open_runner`.
        branch: As for `yoloquant.open_runner`.
        reporter: Receives notes.

    Returns:
        For each image that can be decoded its picture, and the first model's detections (boxes `(N, 4)` as corners in pixels of
        the image, scores, classes).

    Raises:
        YoloquantError: Something given cannot be read or used, or a picture would replace an input.
    """
    tell, folder = reporter or Silent(), Path(output)
    entries = find_images([images] if isinstance(images, str | Path) else images)
    check_pictures(entries, folder, [None if file is None else Path(file) for file in map(file_of_model, (model, compare))])
    runner = open_runner(model, runtime, preprocessing=preprocessing, branch=branch)
    note_branch(runner.branch, tell)
    second = None if compare is None else open_runner(compare)
    skipped: list[str] = []

    def drawn(titles: tuple[str, str]) -> Iterator[tuple[Path, Detections]]:
        yield from predict_to_files(runner, entries, folder, confidence, iou, compare=second, titles=titles, skipped=skipped)
        for sentence in skipped:
            tell.note(f"skipped: {sentence}")

    return drawn((_title(model, runner), "" if second is None else _title(compare, second)))


def _title(model: Any, runner: Runner) -> str:
    """What a model is called above its picture."""
    file = file_of_model(model)
    return runner.name if file is None else Path(file).name
