"""A recipe followed in memory: from a float detector to a calibrated, corrected, learned `QuantizedDetector`."""

from __future__ import annotations

from pathlib import Path

from yoloquant.algorithms.job import Job
from yoloquant.graph.capture import captured
from yoloquant.models.branches import branch_sentence, two_pairs
from yoloquant.models.detector import Detector
from yoloquant.progress import Clock, Reporter
from yoloquant.quant.images import CalibrationImages
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.recipe.recipe import Recipe


def tell_branch(detector: Detector, tell: Reporter) -> None:
    """Say which branch is quantized, where a family has two."""
    note_branch(detector.head.branch, tell, both=two_pairs(detector.network) is not None)


def note_branch(branch: str | None, tell: Reporter, *, both: bool = False) -> None:
    """Say which branch a model outputs, where its family has two; `both` says that it holds the other one, too."""
    sentence = branch_sentence(branch, both=both)
    if sentence is not None:
        tell.note(sentence)


def begin(
    detector: Detector,
    recipe: Recipe,
    images: CalibrationImages,
    tell: Reporter,
    *,
    device: str = "cpu",
    partial: Path | None = None,
) -> Job:
    """A job that no step has worked on."""
    clock = Clock()
    return Job(
        detector=detector,
        reference=captured(detector),
        rules=recipe,
        images=images,
        reporter=tell,
        clock=clock,
        device=device,
        partial=partial,
    )


def follow(recipe: Recipe, job: Job) -> Job:
    """Let the recipe's steps work on a job, in their order.

    Of several processes each does every step; the first chooses layers for all, and all share the training.
    """
    for step in recipe.algorithms:
        if step.compares_boxes() and job.detector.head.suppresses:
            job.reporter.note(
                f"{step.name} is left out: the file's head suppresses boxes, so errors cannot be compared box by box"
            )
            continue
        step.apply(job)
        job.clock.stop(step.name)
    # Steps change biases and scales after calibration.
    job.fit_scales()
    return job


def quantized_in_memory(detector: Detector, recipe: Recipe, images: CalibrationImages, tell: Reporter) -> QuantizedDetector:
    """All that a recipe does, and nothing written."""
    return follow(recipe, begin(detector, recipe, images, tell)).quantized
